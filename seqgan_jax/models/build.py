"""From a configuration to the two networks."""

import ml_collections

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import ENCODERS
from seqgan_jax.models.generator import LSTMGenerator


def _encoder(config: ml_collections.ConfigDict):
    options = config.to_dict()
    kind = options.pop("kind")
    return None if kind == "none" else ENCODERS[kind](**{k: v for k, v in options.items() if k != "channels" or kind != "features"})


def generator(config: ml_collections.ConfigDict, vocabulary: Vocabulary) -> LSTMGenerator:
    """The generator of `config.generator`, which reads sources through `config.encoder`."""
    return LSTMGenerator(
        vocabulary_size=vocabulary.size, encoder=_encoder(config.encoder), **config.generator
    )


def discriminator(config: ml_collections.ConfigDict, vocabulary: Vocabulary) -> LSTMDiscriminator:
    """The discriminator of `config.discriminator`, with an encoder of its own."""
    return LSTMDiscriminator(
        vocabulary_size=vocabulary.size, encoder=_encoder(config.encoder), **config.discriminator
    )
