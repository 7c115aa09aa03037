"""What the tests compare: the same updates and samples on any layout of devices, as a program.

    python rounds.py LAYOUTS FOLDER [COORDINATOR COUNT INDEX]

LAYOUTS is JSON, {name: {"options": {...}, "parts": [...]}}. For each layout FOLDER gets NAME.npz,
of the parts that are asked for: 'draw', what the generator's next update learns from; 'write',
samples; 'generator' and 'both', the metrics of 20 updates of the generator, from what the first
layout drew, and of as many of the discriminator in between.
"""

import json
import pickle
import sys
from pathlib import Path

import jax
import numpy as np

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import FeatureEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.training import phases
from seqgan_jax.training.parallel import Layout, Options
from seqgan_jax.training.steps import Steps

B, T, V = 16, 6, 48
ROUNDS = 20
SAMPLES = 128  # for each source
VOCABULARY = Vocabulary(size=V, bos=1, pad=0, eos=2)
CONSTANT = {"updates": 1, "batch_size": 0, "learning_rate": 0.02, "warmup": 0, "decay": 0.0}
PHASE = phases.Phase(
    name="adversarial",
    steps=100,
    batch_size=B,
    targets=1,
    evaluate_every=100,
    select="nll",
    transfer=False,
    generator=phases.GeneratorUpdate(
        **CONSTANT,
        mle=0.5,
        words=0.1,
        policy_gradient=1.0,
        entropy=0.01,
        feature_matching=0.1,
        num_rollouts=2,
        rollout_chunk=5,
        normalise="rank",
    ),
    discriminator=phases.DiscriminatorUpdate(**CONSTANT, mismatch=0.5, per_step=0.3),
)


def networks():
    sizes = {"embedding_size": 6, "hidden_size": 8, "num_layers": 1, "attention_size": 4}
    encoder = {"vocabulary_size": V, "encoder": FeatureEncoder(4), "dropout": 0.3}
    return (
        LSTMGenerator(**sizes, **encoder, output_size=8, noise_size=2),
        LSTMDiscriminator(**sizes, **encoder, feature_size=8, num_heads=2, head_size=2),
    )


def batch():
    """All rows: some weigh nothing, and some are of the same example."""
    rng = np.random.default_rng(0)
    mask = (np.arange(T) < rng.integers(1, T + 1, (B, 1))).astype(np.float32)
    return {
        "source": rng.normal(size=(B, 3, 2)).astype(np.float32),
        "source_mask": None,
        "target": (rng.integers(3, V, (B, T)) * mask).astype(np.int32),
        "mask": mask,
        "example_id": np.arange(B, dtype=np.int32) // 2,
        "weight": (np.arange(B) % 5 > 0).astype(np.float32),
    }


def own_rows(tree):
    """Those of this process."""
    size, index = B // jax.process_count(), jax.process_index()
    return jax.tree.map(lambda x: np.asarray(x)[index * size : (index + 1) * size], tree)


def arrays(prefix, tree):
    return {
        f"{prefix}/{jax.tree_util.keystr(path, simple=True, separator='/')}": np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    }


def kept(path, make):
    """What a file holds, made by the first process that asks for it."""
    if not path.exists():
        path.write_bytes(pickle.dumps(jax.device_get(make())))
    return pickle.loads(path.read_bytes())


def initial(steps):
    """A state with random parameters; drawing those of the networks takes seconds to compile."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(lambda: steps.init(0, batch()))
    state = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), shapes)
    random = lambda tree: jax.tree.map(lambda x: np.float32(rng.normal(0, 0.4, x.shape)), tree)
    networks = {name: getattr(state, name) for name in ("generator", "discriminator")}
    networks = {name: x.replace(params=random(x.params)) for name, x in networks.items()}
    return steps.begin_phase(state.replace(**networks), 0, PHASE)


def outcome(layout, parts, folder):
    steps = Steps(*networks(), VOCABULARY, T, 1.0, phases=(PHASE,), external=0.5, layout=layout)
    programs = {name: PHASE.step_of(name) for name in PHASE.networks}
    start = kept(folder / "state.pickle", lambda: initial(steps))
    state = layout.place(start)
    given, found = layout.shard(own_rows(batch())), {}

    def draw():
        drawn = steps.draw(state, given, phase=programs["generator"])
        return layout.local_rows(drawn._replace(completions=None))

    if "draw" in parts:
        found |= arrays("draw", draw())
    if "write" in parts:
        written = steps.write(
            state.generator.params,
            state.discriminator.params,
            jax.tree.map(lambda x: x[:13], batch()),  # no multiple of any number of devices
            jax.random.key(1),
            num_samples=SAMPLES,
        )
        found |= arrays("write", written)
    for part in {"generator", "both"} & set(parts):
        drawn = own_rows(kept(folder / "drawn.pickle", draw))
        learnt = (given, layout.shard(drawn), layout.shard(drawn.values))
        state = layout.place(start)
        for k in range(ROUNDS):
            state, scalars = steps.train_step(
                state, *learnt, phase=programs["generator"], network="generator"
            )
            found |= arrays(f"{part}/{k}/generator", scalars)
            if part == "both":
                state, scalars = steps.train_step(
                    state, given, phase=programs["discriminator"], network="discriminator"
                )
                found |= arrays(f"{part}/{k}/discriminator", scalars)
        for path, x in jax.tree_util.tree_leaves_with_path(state.generator):
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            found[f"placed/{name}"] = np.array([axis or "" for axis in x.sharding.spec], dtype=str)
    return found


def main(layouts, folder, coordinator=None, count=1, index=0):
    if coordinator:
        jax.distributed.initialize(coordinator, int(count), int(index), initialization_timeout=60)
    for name, asked in json.loads(layouts).items():
        layout = Layout(Options(**asked["options"]))
        found = outcome(layout, asked["parts"], Path(folder))
        if jax.process_index() == 0:
            np.savez(Path(folder) / f"{name}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
