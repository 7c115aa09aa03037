"""What the networks need to know of a codec's tokens."""

from typing import NamedTuple


class Vocabulary(NamedTuple):
    """Token counts and special tokens, stated by the codec.

    Attributes:
      size: number of tokens V; ids are 0 .. V - 1.
      bos: the token fed before the first one.
      pad: the token that fills a sequence after its end, or None where all have one length.
      eos: the token that ends a sequence, or None where all have one length.
    """

    size: int
    bos: int
    pad: int | None = None
    eos: int | None = None
