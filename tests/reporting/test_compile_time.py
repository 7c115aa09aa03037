import time

import jax
import jax.numpy as jnp

from seqgan_jax.reporting.compile_time import CompileTime


def test_counts_what_compiles_once():
    counter = CompileTime()
    twice = jax.jit(lambda x: jnp.sin(x) * 2.375)
    x = jnp.ones(3)
    counter.taken()
    began = time.perf_counter()
    twice(x)
    elapsed = time.perf_counter() - began
    assert 0 < counter.taken() <= elapsed
    twice(x)
    assert counter.taken() == 0
