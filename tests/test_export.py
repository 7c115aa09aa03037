"""Exported files, read by a process that has nothing of the networks, against the run itself."""

import json
import os
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from PIL import Image

import seqgan_jax
from seqgan_jax import exported
from seqgan_jax.codecs.mel import stft
from seqgan_jax.data.images import read_image
from seqgan_jax.errors import UserError


@pytest.fixture(scope="module")
def files(tiny_model, tmp_path_factory):
    """Exported models by task, and the runs that they are of."""
    folder, options = tmp_path_factory.mktemp("exported"), {"platforms": ["cpu"]}
    return {
        "oracle": seqgan_jax.export(tiny_model("oracle"), folder / "oracle", **options),
        "captions": seqgan_jax.export(
            tiny_model("captions"),
            folder / "captions",
            batch=2,
            num_samples=3,
            temperature=0.7,
            **options,
        ),
        "speech": seqgan_jax.export(tiny_model("speech"), folder / "speech", batch=1, **options),
    }


def same(written, row, sample):
    """Checks that both are the same sequences."""
    for name, ours in (("tokens", written.tokens), ("mask", written.mask)):
        np.testing.assert_array_equal(ours[row], getattr(sample, name))
    np.testing.assert_allclose(written.log_probs[row], sample.token_log_probs, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(written.scores[row], sample.scores, rtol=1e-4)


def test_pictures_are_captioned_alike(files, tiny_model, tmp_path):
    run, paths = tiny_model("captions"), []
    for number in range(3):
        paths.append(tmp_path / f"{number}.png")
        Image.effect_noise((40, 40), 80).convert("RGB").save(paths[-1])
    model = exported.load(files["captions"])
    written = model(np.stack([read_image(path, 32) for path in paths]), seed=7)
    known = run.generate(image=paths, num_samples=3, temperature=0.7, seed=7)
    for row, found in enumerate(known):
        same(written, row, found.sample)
        assert [model.decode(x) for x in written.tokens[row]] == [h.text for h in found.hypotheses]
    (alone,) = model(read_image(paths[0], 32)[None], seed=7).tokens
    np.testing.assert_array_equal(alone, written.tokens[0])


def test_a_phrase_sounds_alike(files, tiny_model):
    run, model = tiny_model("speech"), exported.load(files["speech"])
    written = model(*model.encode(["seven two"], "f2"), seed=3)
    (found,) = run.generate(text="seven two", speaker="f2", num_samples=1, seed=3)
    same(written, 0, found.sample)
    (ours,), codec = run.task.audio(found.sample.tokens), run.task.codec
    theirs = model.decode(written.tokens[0, 0])
    assert len(theirs) == len(ours) > 0
    # The phases are made up, and anew for each length; the spectrum isn't.
    size = {"hop": codec.analysis.hop, "window": codec.analysis.window}
    spectra = [np.abs(stft(audio[None], **size))[0] for audio in (ours, theirs)]
    assert np.linalg.norm(spectra[0] - spectra[1]) < 0.5 * np.linalg.norm(spectra[0])


def test_another_process_needs_no_networks(files, tiny_model):
    """Which is all that the file is for: Flax, Optax and the training code stay out."""
    code = """
import json, sys
from seqgan_jax import exported
model = exported.load(sys.argv[1])
written = model(5, seed=11)
unwanted = ("flax", "optax", "orbax", "seqgan_jax.training", "seqgan_jax.models", "ml_collections")
print(json.dumps([written.tokens.tolist(), [name for name in unwanted if name in sys.modules]]))
"""
    found = subprocess.run(
        [sys.executable, "-c", code, files["oracle"]],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    (tokens,), loaded = json.loads(found.stdout)
    assert loaded == []
    (known,) = tiny_model("oracle").generate(num_samples=5, seed=11)
    assert tokens == known.sample.tokens.tolist()


def test_bad_files_and_sources(files, tiny_model, tmp_path):
    whole = files["oracle"].read_bytes()
    for name, data, words in (
        ("torn", whole[: len(whole) // 2], "damaged"),
        ("text", b"no archive", "no exported model"),
        ("empty", b"", "no exported model"),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UserError, match=words):
            exported.load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "older", "w") as archive:
        archive.writestr("about.json", '{"format": 0}')
    with pytest.raises(UserError, match="format 0, not 1"):
        exported.load(tmp_path / "older")
    with pytest.raises(UserError, match="can't be read"):
        exported.load(tmp_path / "none")
    oracle, captions = (exported.load(files[name]) for name in ("oracle", "captions"))
    for model, source, words in (
        (oracle, None, "how many"),
        (oracle, 0, "how many"),
        (captions, np.zeros((1, 8, 8, 3), np.uint8), "uint8 .32, 32, 3."),
        (captions, np.zeros((1, 32, 32, 3), np.float32), "uint8 .32, 32, 3."),
        (captions, {"image": np.zeros((1, 32, 32, 3), np.uint8)}, "uint8 .32, 32, 3."),
        (captions, np.zeros((0, 32, 32, 3), np.uint8), "uint8 .32, 32, 3."),
        (captions, 3, "uint8 .32, 32, 3."),
    ):
        with pytest.raises(UserError, match=words):
            model(source)
    with pytest.raises(UserError, match="seed"):
        oracle(1, seed=-1)
    with pytest.raises(UserError, match="reads none"):
        oracle.encode(["a"])
    speech = exported.load(files["speech"])
    with pytest.raises(UserError, match="source_mask"):
        speech(speech.encode(["two"])[0])
    with pytest.raises(UserError, match="choose from m3, f2"):
        speech.encode(["two"], "m9")
    with pytest.raises(UserError, match="more than this model's 24"):
        speech.encode(["seven " * 9])
    run = tiny_model("oracle")
    for words, options in (
        ("can't be written", {"file": tmp_path / "no" / "file"}),
        ("num_samples", {"num_samples": 0}),
        ("--temperature", {"temperature": 0}),
    ):
        with pytest.raises(UserError, match=words):
            seqgan_jax.export(run, **{"file": tmp_path / "new", "platforms": ["cpu"]} | options)
    assert not (tmp_path / "new").exists()
