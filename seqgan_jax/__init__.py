"""SeqGAN, a generator of discrete sequences trained by policy gradient, in functional JAX.

`load` opens a trained run, to write with it and to judge with it; `export` makes one file of it
that needs nothing of this package but `seqgan_jax.exported`. Both import JAX and all the rest when
they are first asked for.
"""

import importlib

_HOME = {"load": "api", "export": "exporting"}

__all__ = [*_HOME]


def __getattr__(name: str):
    if name in _HOME:
        return getattr(importlib.import_module(f"seqgan_jax.{_HOME[name]}"), name)
    raise AttributeError(f"module 'seqgan_jax' has no attribute '{name}'")


def __dir__() -> list[str]:
    return [*globals(), *_HOME]
