"""English sentences that every Python has: its standard library's own documentation strings."""

import ast
import re
import sys
import sysconfig
import warnings
from collections.abc import Iterator
from pathlib import Path

from seqgan_jax.data.captions import Progress, no_progress

# Not everywhere installed, or other people's packages.
_LEFT_OUT = {
    "dist-packages",
    "ensurepip",
    "idlelib",
    "lib2to3",
    "pydoc_data",
    "site-packages",
    "test",
    "tests",
    "turtledemo",
}
# Paragraphs with such a line are code, lists or tables.
_NO_PROSE = (">>>", "...", "$", "*", "-", "+", "|", "#", "@", ":")


def key(config) -> list:
    """What the sentences depend on."""
    del config
    return [sys.version, sysconfig.get_path("stdlib")]


def sentences(config, *, progress: Progress = no_progress) -> Iterator[str]:
    """The different sentences of the standard library's documentation, in the order of its files.

    The library is read, not imported. A sentence begins with a capital letter, has three words at
    least and ends with a full stop, an exclamation or a question mark.

    Args:
      config: the data configuration; nothing of it is needed.
      progress: shows how many files have been read.
    """
    del config
    root = Path(sysconfig.get_path("stdlib"))
    files = sorted(
        path for path in root.rglob("*.py") if not _LEFT_OUT & set(path.relative_to(root).parts)
    )
    seen = set()
    for path in progress(files, len(files), "reading the standard library's documentation"):
        for text in _documentation(path):
            for sentence in split_sentences(text):
                if sentence not in seen:
                    seen.add(sentence)
                    yield sentence


def _documentation(path: Path) -> Iterator[str]:
    """The documentation strings of a Python file, none if it is of another version."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its authors' business
        try:
            tree = ast.parse(path.read_bytes())
        except (OSError, SyntaxError, ValueError):
            return
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, documented):
            yield ast.get_docstring(node) or ""


def split_sentences(text: str) -> Iterator[str]:
    """The sentences of the paragraphs that are prose."""
    for paragraph in re.split(r"\n\s*\n", text):
        lines = [line.strip() for line in paragraph.splitlines()]
        if any(line.startswith(_NO_PROSE) for line in lines):
            continue
        for sentence in re.split(r"(?<=[.!?])\s+(?=[A-Z])", " ".join(lines).strip()):
            if re.fullmatch(r"[A-Z].*[.!?]", sentence) and sentence.count(" ") >= 2:
                yield " ".join(sentence.split())
