"""`config.parallel.remat`: the same gradients, from less that is kept."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from seqgan_jax.models.discriminator import LSTMDiscriminator
from seqgan_jax.models.encoders import BiLSTMEncoder, ConvolutionalEncoder, TransformerEncoder
from seqgan_jax.models.generator import LSTMGenerator
from seqgan_jax.models.transformer import TransformerGenerator

B, S, T, V = 2, 12, 16, 9
SIZES = {"embedding_size": 8, "hidden_size": 8, "num_layers": 2}


def lstm_generator(remat):
    encoder = BiLSTMEncoder(V, 8, 8, 2, 0.3, remat)
    sizes = SIZES | {"attention_size": 4, "output_size": 8, "noise_size": 2}
    return LSTMGenerator(V, encoder, **sizes, dropout=0.3, remat=remat)


def transformer(remat):
    encoder = ConvolutionalEncoder((4, 8), 8, 1, 0.3, remat)
    sizes = SIZES | {"noise_size": 2, "num_heads": 2}
    return TransformerGenerator(V, encoder, **sizes, dropout=0.3, remat=remat)


def lstm_discriminator(remat):
    encoder = TransformerEncoder(V, 8, 16, 2, num_heads=2, dropout=0.3, remat=remat)
    sizes = SIZES | {"attention_size": 4, "feature_size": 8, "num_heads": 2, "head_size": 4}
    return LSTMDiscriminator(V, encoder, **sizes, dropout=0.3, remat=remat)


@pytest.mark.parametrize("make", [lstm_generator, transformer, lstm_discriminator])
def test_gradients_are_the_same_and_less_is_kept(make):
    rng = np.random.default_rng(0)
    tokens = rng.integers(0, V, (B, T))
    source = rng.integers(0, V, (B, S))
    if make is transformer:
        source = rng.integers(0, 256, (B, 8, 8, 3)).astype(np.uint8)
    given = source, None, np.ones((B, 2), np.float32), tokens
    if make is lstm_discriminator:
        given = source, None, tokens, np.ones((B, T), np.float32)
    networks = make(False), make(True)
    init = lambda: networks[0].init(jax.random.key(0), *given)
    shapes = jax.eval_shape(init)["params"]
    params = jax.tree.map(lambda x: jnp.float32(rng.normal(0, 0.5, x.shape)), shapes)

    def loss(network, params):
        rngs = {"dropout": jax.random.key(1, impl="unsafe_rbg")}  # compiles sooner
        return jnp.sin(network.apply({"params": params}, *given, train=True, rngs=rngs)).sum()

    kept = []
    for network in networks:
        pulled = jax.eval_shape(
            lambda p, net=network: jax.vjp(lambda p: loss(net, p), p)[1], params
        )
        kept.append(sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(pulled)))
    assert kept[1] < 0.6 * kept[0]

    if make is lstm_discriminator:
        return  # made of the same parts
    both = lambda params: [jax.grad(lambda p, net=net: loss(net, p))(params) for net in networks]
    plain, again = jax.jit(both)(params)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), plain, again)
    assert max(abs(x).max() for x in jax.tree.leaves(plain)) > 0.1
