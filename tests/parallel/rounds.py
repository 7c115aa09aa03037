"""What the tests compare: the same updates and samples on any layout of devices, as a program.

    python rounds.py LAYOUTS FOLDER [COORDINATOR COUNT INDEX]

LAYOUTS is JSON, {name: {"options": {...}, "parts": [...]}}. For each layout FOLDER gets NAME.npz, of
the parts that are asked for: 'draw', what the generator's next update learns from; 'rounds', the
metrics of 20 updates of each network, the generator's from what the first layout drew; 'write',
samples.
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
DRAWN = "drawn.pickle"
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
    """All rows; their lengths differ, and some weigh nothing."""
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


def arrays(tree):
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): np.asarray(x)
        for path, x in jax.tree_util.tree_leaves_with_path(jax.device_get(tree))
    }


def outcome(layout, parts, folder):
    steps = Steps(*networks(), VOCABULARY, T, 1.0, phases=(PHASE,), external=0.5, layout=layout)
    state = layout.place(steps.begin_phase(steps.init(0, batch()), 0, PHASE))
    programs = {name: PHASE.step_of(name) for name in PHASE.networks}
    given = layout.shard(own_rows(batch()))
    found = {}
    if "draw" in parts:
        drawn = steps.draw(state, given, phase=programs["generator"])
        drawn = layout.local_rows(drawn._replace(completions=None))
        found |= {f"draw/{name}": x for name, x in arrays(drawn).items()}
        if not (folder / DRAWN).exists():
            (folder / DRAWN).write_bytes(pickle.dumps(drawn))
    if "write" in parts:
        written = steps.write(
            state.generator.params,
            state.discriminator.params,
            jax.tree.map(lambda x: x[:13], batch()),  # no multiple of any number of devices
            jax.random.key(1),
            num_samples=SAMPLES,
        )
        found |= {f"write/{name}": x for name, x in arrays(written._asdict()).items()}
    if "rounds" in parts:
        drawn = own_rows(pickle.loads((folder / DRAWN).read_bytes()))
        given = (given, layout.shard(drawn), layout.shard(drawn.values))
        for k in range(ROUNDS):
            state, scalars = steps.train_step(
                state, *given, phase=programs["generator"], network="generator"
            )
            found |= {f"rounds/{k}/{name}": x for name, x in arrays(scalars).items()}
            state, scalars = steps.train_step(
                state, given[0], phase=programs["discriminator"], network="discriminator"
            )
            found |= {f"rounds/{k}/{name}": x for name, x in arrays(scalars).items()}
        found["sharded"] = np.array(
            [
                jax.tree_util.keystr(path, simple=True, separator="/") + str(x.sharding.spec)
                for path, x in jax.tree_util.tree_leaves_with_path(state.generator)
                if any(x.sharding.spec)
            ],
            dtype=str,
        )
    return found


def main(layouts, folder, coordinator=None, count=1, index=0):
    if coordinator:
        jax.distributed.initialize(coordinator, int(count), int(index), initialization_timeout=60)
    folder = Path(folder)
    for name, asked in json.loads(layouts).items():
        found = outcome(Layout(Options(**asked["options"])), asked["parts"], folder)
        if jax.process_index() == 0:
            np.savez(folder / f"{name}.npz", **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
