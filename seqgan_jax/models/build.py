"""From a configuration to the two networks."""

import dataclasses

import ml_collections
import numpy as np

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import ENCODERS
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.interface import Discriminator
from seqgan_jax.models.window_discriminator import WindowDiscriminator

DISCRIMINATORS = {
    "lstm": LSTMDiscriminator,
    "cnn": CNNDiscriminator,
    "window": WindowDiscriminator,
}


def _build(kinds: dict[str, type], kind: str, options: dict):
    """A network of a kind. A command line can't take away the options of the one it replaces."""
    fields = {name: {field.name for field in dataclasses.fields(kinds[name])} for name in kinds}
    others = set().union(*fields.values()) - fields[kind]
    return kinds[kind](**{name: options[name] for name in options if name not in others})


def _encoder(config: ml_collections.ConfigDict):
    options = config.to_dict()
    kind = options.pop("kind")
    return None if kind == "none" else _build(ENCODERS, kind, options)


def check_encoder(config: ml_collections.ConfigDict, source: np.ndarray) -> None:
    """Refuses a `config.encoder` that can't read a batch of sources, images or features.

    Raises:
      UserError: names the option.
    """
    kinds = ("none", *ENCODERS)
    if config.kind not in kinds:
        raise UserError(
            f"config.encoder.kind: no encoder '{config.kind}'; choose from {', '.join(kinds)}"
        )
    if config.kind == "none":
        return
    fitting = "convolutional" if source.ndim == 4 else "features"
    if config.kind != fitting:
        raise UserError(
            f"config.encoder.kind: '{config.kind}' can't read sources of shape "
            f"{source.shape[1:]}; set it to {fitting}"
        )
    if config.size < 1:
        raise UserError(f"config.encoder.size: {config.size} is too small; set 1 or more")
    if config.kind == "convolutional":
        channels, side = config.channels, min(source.shape[1:3])
        if not channels or not all(isinstance(c, int) and c > 0 for c in channels):
            raise UserError(
                f"config.encoder.channels: {channels} must be whole numbers of 1 or more, one for "
                "each stage"
            )
        if side < 2 ** (len(channels) + 1):
            raise UserError(
                f"config.encoder.channels: {len(channels)} stages leave less than 2 x 2 positions "
                f"of {side} x {side} pixels; name fewer, or raise config.data.image_size"
            )


def generator(config: ml_collections.ConfigDict, vocabulary: Vocabulary) -> LSTMGenerator:
    """The generator of `config.generator`, which reads sources through `config.encoder`."""
    return LSTMGenerator(
        vocabulary_size=vocabulary.size, encoder=_encoder(config.encoder), **config.generator
    )


def discriminator(config: ml_collections.ConfigDict, vocabulary: Vocabulary) -> Discriminator:
    """The discriminator of `config.discriminator`, with an encoder of its own.

    Raises:
      UserError: if `config.discriminator.kind` is unknown, or a phase asks it for what it hasn't.
    """
    options = config.discriminator.to_dict()
    kind = options.pop("kind")
    if kind not in DISCRIMINATORS:
        raise UserError(
            f"config.discriminator.kind: no discriminator '{kind}'; choose from "
            f"{', '.join(DISCRIMINATORS)}"
        )
    options |= {
        "vocabulary_size": vocabulary.size,
        "bos": vocabulary.bos,
        "encoder": _encoder(config.encoder),
    }
    built = _build(DISCRIMINATORS, kind, options)
    if not built.dense:
        _check_not_dense(config.phases, kind)
    return built


def _check_not_dense(phases: ml_collections.ConfigDict, kind: str) -> None:
    """Refuses phases that need scores of prefixes, for a discriminator that has none."""
    for name in phases.order:
        ours, judge = phases[name].generator, phases[name].discriminator
        for option, asked, other in (
            ("generator.values", ours.updates and ours.get("values") == "dense", "rollout"),
            ("discriminator.per_step", judge.updates and judge.per_step, "0"),
        ):
            if asked:
                raise UserError(
                    f"config.phases.{name}.{option}: the {kind} discriminator judges whole "
                    f"sequences alone; set {other}, or choose the lstm or window discriminator"
                )
