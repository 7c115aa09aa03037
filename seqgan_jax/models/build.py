"""From a configuration to the two networks."""

import dataclasses

import ml_collections
import numpy as np

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.models.cnn_discriminator import CNNDiscriminator
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import ENCODERS
from seqgan_jax.models.generator import ATTENTIONS, LSTMGenerator
from seqgan_jax.models.interface import Discriminator, Generator
from seqgan_jax.models.ratio_discriminator import RatioDiscriminator
from seqgan_jax.models.transformer import POSITIONS, TransformerGenerator
from seqgan_jax.models.window_discriminator import WindowDiscriminator

GENERATORS = {"lstm": LSTMGenerator, "transformer": TransformerGenerator}
DISCRIMINATORS = {
    "lstm": LSTMDiscriminator,
    "cnn": CNNDiscriminator,
    "window": WindowDiscriminator,
    "ratio": RatioDiscriminator,
}
TOKEN_ENCODERS = ("bilstm", "transformer")


_NONE = dataclasses.MISSING


def _build(kinds: dict[str, type], kind: str, options: dict, where: str):
    """A network of a kind. A command line can't take away the options of the one it replaces."""
    fields = {name: {field.name for field in dataclasses.fields(kinds[name])} for name in kinds}
    others = set().union(*fields.values()) - fields[kind]
    needed = [f for f in dataclasses.fields(kinds[kind]) if f.default is f.default_factory is _NONE]
    missing = [field.name for field in needed if field.name not in options]
    if missing:
        raise UserError(
            f"config.{where}.kind: '{kind}' needs {', '.join(missing)} too, which this "
            "configuration lacks; choose another variant, or add them to a configuration of yours"
        )
    return kinds[kind](**{name: options[name] for name in options if name not in others})


def _encoder(config: ml_collections.ConfigDict, source_vocabulary: int | None):
    """The encoder of a run's configuration."""
    options = config.encoder.to_dict() | _remat(config)
    kind = options.pop("kind")
    if kind == "none":
        return None
    if kind in TOKEN_ENCODERS:
        if source_vocabulary is None:
            raise UserError(
                f"config.encoder.kind: '{kind}' reads tokens, which this task's sources are not"
            )
        options["vocabulary_size"] = source_vocabulary
    built = _build(ENCODERS, kind, options, "encoder")
    if kind == "transformer":
        _check_transformer(built, "config.encoder", "size")
    return built


def _remat(config: ml_collections.ConfigDict) -> dict:
    """What every network is told of `config.parallel`."""
    return {"remat": config.get("parallel", {}).get("remat", False)}


def _check_transformer(net, where: str, size: str) -> None:
    """Refuses sizes that make no Transformer; `size` names the option that is E."""
    for name in (size, "hidden_size", "num_layers", "num_heads"):
        if getattr(net, name) < 1:
            raise UserError(f"{where}.{name}: {getattr(net, name)} is too small; set 1 or more")
    if net.positions not in POSITIONS:
        raise UserError(
            f"{where}.positions: no positions '{net.positions}'; choose from {', '.join(POSITIONS)}"
        )
    pairs = 2 if net.positions == "rotary" else 1
    if getattr(net, size) % (pairs * net.num_heads):
        raise UserError(
            f"{where}.{size}: {getattr(net, size)} doesn't divide into {net.num_heads} heads"
            f"{' of even size, as rotary positions need' if pairs > 1 else ''}; set a multiple of "
            f"{pairs * net.num_heads}, or change num_heads"
        )
    if net.positions == "learned" and net.max_length < 1:
        raise UserError(f"{where}.max_length: must say how many positions are learned")


def check_encoder(config: ml_collections.ConfigDict, source: np.ndarray | dict | None) -> None:
    """Refuses a `config.encoder` that can't read a batch of sources: images, clips, and so on.

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
    if source is None:
        raise UserError(f"config.encoder.kind: this task has no sources for '{config.kind}'")
    fitting, what = _readable(source)
    if config.kind not in fitting:
        raise UserError(
            f"config.encoder.kind: '{config.kind}' can't read {what}; set it to "
            f"{' or '.join(fitting)}"
        )
    if config.size < 1:
        raise UserError(f"config.encoder.size: {config.size} is too small; set 1 or more")
    if config.kind == "bilstm" and config.size % 2:
        raise UserError(
            f"config.encoder.size: {config.size} can't be halved between both directions; set an "
            "even one"
        )
    if config.kind == "clip" and config.size % 4:
        raise UserError(
            f"config.encoder.size: {config.size} doesn't divide into 4 heads; set a multiple of 4"
        )
    if config.kind in ("convolutional", "clip"):
        pixels = source["clip"].shape[2:4] if config.kind == "clip" else source.shape[1:3]
        channels, side = config.channels, min(pixels)
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


def _readable(source: np.ndarray | dict) -> tuple[tuple[str, ...], str]:
    """The encoders that can read a batch of sources, and what it is."""
    if isinstance(source, dict):
        return ("clip",), "clips"
    what = f"sources of shape {source.shape[1:]} and type {source.dtype}"
    if np.issubdtype(source.dtype, np.integer) and source.ndim == 2:
        return TOKEN_ENCODERS, what
    return {3: ("features",), 4: ("convolutional",)}.get(source.ndim, ("none",)), what


def generator(
    config: ml_collections.ConfigDict,
    vocabulary: Vocabulary,
    source_vocabulary: int | None = None,
) -> Generator:
    """The generator of `config.generator`, which reads sources through `config.encoder`.

    Args:
      config: a run's; without `generator.kind` it is the LSTM.
      vocabulary: of the targets.
      source_vocabulary: how many tokens sources are made of, or None where they aren't tokens.

    Raises:
      UserError: names the option that is wrong.
    """
    options = config.generator.to_dict() | _remat(config)
    kind = options.pop("kind", "lstm")
    if kind not in GENERATORS:
        raise UserError(
            f"config.generator.kind: no generator '{kind}'; choose from {', '.join(GENERATORS)}"
        )
    options |= {
        "vocabulary_size": vocabulary.size,
        "encoder": _encoder(config, source_vocabulary),
    }
    built = _build(GENERATORS, kind, options, "generator")
    if built.noise_per_step and not built.noise_size:
        raise UserError(
            "config.generator.noise_per_step: there is no noise; raise config.generator.noise_size"
        )
    if kind == "transformer":
        _check_transformer(built, "config.generator", "embedding_size")
    elif built.attend_after < 0:
        raise UserError(
            f"config.generator.attend_after: {built.attend_after} is negative; set a layer, "
            "counted from 1, or 0 for the top one"
        )
    elif built.attention not in ATTENTIONS:
        raise UserError(
            f"config.generator.attention: no attention '{built.attention}'; choose from "
            f"{', '.join(ATTENTIONS)}"
        )
    return built


def discriminator(
    config: ml_collections.ConfigDict,
    vocabulary: Vocabulary,
    source_vocabulary: int | None = None,
) -> Discriminator:
    """The discriminator of `config.discriminator`, with an encoder of its own.

    Args:
      config: a run's.
      vocabulary: of the targets.
      source_vocabulary: how many tokens sources are made of, or None where they aren't tokens.

    Raises:
      UserError: if `config.discriminator.kind` is unknown, a phase asks it for what it hasn't, or
        it would start with the equations of a generator that has others.
    """
    options = config.discriminator.to_dict() | _remat(config)
    kind = options.pop("kind")
    if kind not in DISCRIMINATORS:
        raise UserError(
            f"config.discriminator.kind: no discriminator '{kind}'; choose from "
            f"{', '.join(DISCRIMINATORS)}"
        )
    options |= {
        "vocabulary_size": vocabulary.size,
        "bos": vocabulary.bos,
        "pad": vocabulary.pad,
        "encoder": _encoder(config, source_vocabulary),
        "attention": config.generator.get("attention", ATTENTIONS[0]),
        "attend_after": config.generator.get("attend_after", 0),
    }
    if kind == "ratio":
        options["opponent"] = generator(config, vocabulary, source_vocabulary)
    built = _build(DISCRIMINATORS, kind, options, "discriminator")
    _check_asked(config.phases, kind, built)
    if config.generator.get("kind", "lstm") != "lstm" and options.get("likelihood"):
        raise UserError(
            "config.discriminator.likelihood: its layers are the LSTM generator's, and a "
            f"{config.generator.kind} generator has none to give them; set False"
        )
    return built


def _check_asked(phases: ml_collections.ConfigDict, kind: str, built: Discriminator) -> None:
    """Refuses phases that ask a discriminator for what it hasn't."""
    whole, other = "judges whole sequences alone", "the lstm, window or ratio discriminator"
    without = "has no language models"
    ratio = kind == "ratio"
    for name in phases.order:
        ours, judge = phases[name].generator, phases[name].discriminator
        values = ours.get("estimator") if ours.updates else None
        for option, asked, has, why, instead in (
            ("generator.estimator", values == "dense", built.dense, whole, "rollout"),
            ("generator.estimator", values == "actions", ratio, without, "rollout"),
            ("discriminator.per_step", judge.updates and judge.per_step, built.dense, whole, "0"),
            ("discriminator.mle", judge.updates and judge.get("mle"), ratio, without, "0"),
        ):
            if asked and not has:
                chosen = other if why == whole else "the ratio discriminator"
                raise UserError(
                    f"config.phases.{name}.{option}: the {kind} discriminator {why}; set "
                    f"{instead}, or choose {chosen}"
                )
