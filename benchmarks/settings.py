"""The sizes that the speed benchmarks run at, and the flags that they share.

`paper` is the setting of Yu et al. (2017); `seed` a three-layer model with attention; `gpu` fills
an accelerator; `tiny` only shows that a benchmark runs.
"""

from typing import NamedTuple

from absl import flags

from seqgan_jax.models.cnn_discriminator import CNNDiscriminator


class Setting(NamedTuple):
    """Sizes of a benchmark; `positions` of a source, of which there is none if 0.

    `widths` and `filters` are the CNN discriminator's.
    """

    vocabulary: int
    hidden: int
    layers: int
    length: int
    positions: int
    batch: int = 64
    rollouts: int = 16
    widths: tuple[int, ...] = CNNDiscriminator.widths
    filters: tuple[int, ...] = CNNDiscriminator.filters


SETTINGS = {
    "paper": Setting(vocabulary=5000, hidden=32, layers=1, length=20, positions=0),
    "seed": Setting(vocabulary=10_000, hidden=256, layers=3, length=32, positions=36),
    "gpu": Setting(vocabulary=32_000, hidden=1024, layers=3, length=32, positions=36, batch=512),
    "tiny": Setting(
        vocabulary=50,
        hidden=8,
        layers=1,
        length=6,
        positions=3,
        batch=4,
        rollouts=2,
        widths=(1, 3),
        filters=(4, 4),
    ),
}

CONFIG = flags.DEFINE_enum("config", "paper", list(SETTINGS), "The sizes.")
REPEATS = flags.DEFINE_integer(
    "repeats", None, "Calls timed for each median, instead of the usual number.", lower_bound=1
)


def chosen() -> Setting:
    """The setting that --config names."""
    return SETTINGS[CONFIG.value]
