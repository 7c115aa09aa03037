"""Makes one file of a trained run, for `seqgan_jax.exported`, which says what is in it."""

import io
import json
import os
import tempfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from seqgan_jax import tasks
from seqgan_jax.api import Model, check_truncation, load
from seqgan_jax.codecs.text import FILE, TextCodec
from seqgan_jax.core.sampling import Truncation
from seqgan_jax.errors import UserError
from seqgan_jax.exported import ABOUT, DECODE, FORMAT, PARAMETERS, SOURCE, TARGET, WRITE, kind
from seqgan_jax.files import replace_file

PLATFORMS = ("cpu", "cuda", "tpu")


def export(
    run: str | os.PathLike | Model,
    file: str | os.PathLike,
    checkpoint: str = "last",
    *,
    batch: int = 8,
    num_samples: int = 1,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    prefix: str = "",
    ban: Sequence[str] = (),
    platforms: Sequence[str] = PLATFORMS,
) -> Path:
    """Writes a run's inference function, its parameters and its codec to one file.

    Equal seeds give the sequences that `api.Model.generate` gives with the same options.

    Args:
      run: its directory, or what `load` has opened.
      file: the file to write.
      checkpoint: 'last', 'best' or a phase's name; of a run that isn't open yet.
      batch: how many sources, or sequences where there are no sources, the function takes at once;
        the reader calls it as often as there is need.
      num_samples: R, sequences for each source; without effect where there are no sources.
      temperature, top_k, top_p, prefix, ban: as in `api.Model.generate`.
      platforms: what the function can run on.

    Returns:
      The file.

    Raises:
      UserError: for options that make no sense, or a file that can't be written.
    """
    for option, value in (("batch", batch), ("num_samples", num_samples)):
        if value < 1:
            raise UserError(f"{option}: must be positive")
    truncation = Truncation(temperature, top_k, top_p)
    check_truncation(truncation)
    model = run if isinstance(run, Model) else load(run, checkpoint)
    task, steps = model.task, model.run.steps
    truncation, forced = truncation._replace(banned=tasks.banned(task, ban)), task.prefix(prefix)
    if len(forced) >= task.length:
        raise UserError(f"prefix: longer than the {task.length} tokens of its {task.items}")
    portable, masks = task.portable(), task.template()["source_mask"]
    count = 1 if portable.source is None else num_samples
    networks = (model.state.generator.params, model.state.discriminator.params)
    parameters, tree = jax.tree.flatten(networks)

    def write(parameters, seed, example_id, source, source_mask):
        if portable.features is not None:
            source = portable.features(source)
        sources = {"source": source, "source_mask": source_mask, "example_id": example_id}
        found = steps.write(
            *jax.tree.unflatten(tree, parameters),
            sources,
            jax.random.key(seed),
            num_samples=count,
            truncation=truncation,
            forced=forced,
        )
        return tuple(found._replace(scores=jax.nn.sigmoid(found.scores)))

    like = lambda x: jax.ShapeDtypeStruct((batch, *x.shape[1:]), x.dtype)
    arguments = (
        [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in parameters],
        jax.ShapeDtypeStruct((), jnp.uint32),
        jax.ShapeDtypeStruct((batch,), jnp.int32),
        *jax.tree.map(like, (portable.source, masks)),
    )
    about = {
        "format": FORMAT,
        "task": task.name,
        "checkpoint": model.checkpoint,
        "batch": batch,
        "num_samples": count,
        "length": task.length,
        "source": jax.tree.map(kind, portable.source),
        "positions": None if masks is None else masks.shape[1],
        "first": dict(portable.first),
        "sample_rate": portable.sample_rate,
        "vocabulary": task.codec.vocabulary._asdict(),
    }
    content = {
        ABOUT: json.dumps(about, indent=1, ensure_ascii=False).encode(),
        PARAMETERS: _arrays(parameters),
        WRITE: _lowered(write, platforms, *arguments),
    }
    if portable.decode is not None:
        tokens = jax.ShapeDtypeStruct((task.length,), jnp.int32)
        content[DECODE] = _lowered(portable.decode, platforms, tokens)
    for side, codec in ((TARGET, task.codec), (SOURCE, portable.source_codec)):
        if isinstance(codec, TextCodec):
            content[f"{side}/{FILE}"] = _text(codec)
    path = Path(file)
    try:
        with replace_file(path) as target, zipfile.ZipFile(target, "w") as archive:
            for name, data in content.items():
                archive.writestr(name, data)
    except OSError as error:
        raise UserError(f"{path}: can't be written ({error.strerror}); name another") from error
    return path


def _lowered(function, platforms: Sequence[str], *arguments) -> bytes:
    return bytes(jax.export.export(jax.jit(function), platforms=platforms)(*arguments).serialize())


def _arrays(arrays: Sequence[jax.Array]) -> bytes:
    with io.BytesIO() as file:
        np.savez(file, *arrays)
        return file.getvalue()


def _text(codec: TextCodec) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        codec.save(folder)
        return (Path(folder) / FILE).read_bytes()
