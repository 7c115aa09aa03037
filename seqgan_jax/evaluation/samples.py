"""Anybody's samples: reading files of them, and setting them beside real text judged alike."""

import gzip
import json
import unicodedata
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from seqgan_jax.codecs.text import split_words
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import text
from seqgan_jax.evaluation.report import Metric

# How a line becomes tokens, and what joins them to text again.
TOKENIZERS: dict[str, tuple[Callable[[str], list[str]], str]] = {
    "word": (split_words, " "),
    "whitespace": (str.split, " "),
    "character": (list, ""),
}
REFERENCES = "references"

_LEAST = 20
_LONGEST = 100_000


def read(path: Path, tokenizer: str) -> list[text.Tokens]:
    """The sentences of a file, one a line; blank lines are none.

    Plain UTF-8 text, or JSON strings, one a line, where the name ends in `.jsonl`; either may be
    compressed (`.gz`). Characters are brought to Unicode's form NFC.

    Args:
      path: the file.
      tokenizer: of `TOKENIZERS`.

    Raises:
      UserError: a file that can't be read, is empty, binary or no UTF-8, holds a line that is no
        JSON string or has over 100,000 characters, or too few sentences to say anything.
    """
    try:
        data = path.read_bytes()
        zipped = path.suffix == ".gz"
        if zipped:
            data = gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise UserError(f"{path}: can't be read ({reason}); name a file of sentences") from error
    if b"\0" in data:
        raise UserError(f"{path}: is binary or UTF-16; save it as UTF-8 text, one sentence a line")
    json_lines = path.with_suffix("").suffix == ".jsonl" if zipped else path.suffix == ".jsonl"
    split, _ = TOKENIZERS[tokenizer]
    sentences = []
    for number, raw in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        line = _line(f"{path}, line {number}", raw, json_lines)
        if line:
            sentences.append(tuple(split(unicodedata.normalize("NFC", line))))
    if not sentences:
        raise UserError(f"{path}: is empty; it needs one sentence a line")
    if len(sentences) < _LEAST:
        raise UserError(
            f"{path}: {len(sentences)} sentences are too few to judge by; give {_LEAST} or more, "
            "better thousands"
        )
    return sentences


def _line(where: str, raw: bytes, is_json: bool) -> str:
    try:
        line = raw.decode().strip()
    except UnicodeDecodeError as error:
        raise UserError(f"{where}: isn't UTF-8 ({error.reason}); convert the file") from error
    if line and is_json:
        try:
            line = json.loads(line)
        except ValueError as error:
            raise UserError(f"{where}: is no JSON ({error}); write one string a line") from error
        if not isinstance(line, str):
            raise UserError(f"{where}: is no JSON string; write one string a line")
        line = line.strip()
    if len(line) > _LONGEST:
        raise UserError(
            f"{where}: has {len(line):,} characters, over the limit of {_LONGEST:,}; "
            "write one sentence a line"
        )
    return line


def refuse_same(option: str, path: Path, sentences, references_path: Path, references) -> None:
    """Refuses a file, or its copy, in two roles: every figure would be perfect and mean nothing."""
    if path.samefile(references_path) or sentences == references:
        raise UserError(
            f"--{option}={path}: holds the same sentences as --references={references_path}; "
            "name text that was kept apart"
        )


def judge(
    samples: Mapping[str, Sequence[text.Tokens]],
    references: Sequence[text.Tokens],
    training: Sequence[text.Tokens] | None,
    *,
    calibrate: bool,
    seed: int,
    track: Callable[[str], Callable[[range], Iterable[int]]] = lambda title: iter,
    **options,
) -> tuple[dict[str, dict[str, Metric]], str]:
    """All figures of several sets of samples against one set of references.

    Most figures depend on how many sentences there are, so all sets are cut at random to one size.
    To calibrate, a random half of the references plays the samples' part: it and the samples are
    judged, equally many, against the other half. That column is what a perfect generator has.

    Args:
      samples: by the column's title.
      references: real text that no generator learned from.
      training: what they learned from, or None.
      calibrate: whether to judge the references too.
      seed: of the cuts, and see `text.figures`.
      track: from a description to what wraps a range of steps to show progress.
      **options: of `text.figures`.

    Returns:
      The columns, and a sentence that says how many sentences were judged against how many.
    """
    rng = np.random.default_rng(seed)
    columns = dict(samples)
    if calibrate:
        order = rng.permutation(len(references))
        half = len(references) // 2
        columns[REFERENCES] = [references[i] for i in order[:half]]
        references = [references[i] for i in order[half:]]
    size = min(map(len, columns.values()))
    found = {}
    for title, sentences in columns.items():
        chosen = np.sort(rng.permutation(len(sentences))[:size])
        found[title] = text.figures(
            [sentences[i] for i in chosen],
            references,
            training,
            seed=seed,
            progress=track(f"a judge of {title}"),
            **options,
        )
    note = f"{size:,} sentences of each, against {len(references):,} references"
    if calibrate:
        note += (
            f"; the column '{REFERENCES}' is real text judged like the samples: what a perfect "
            "generator has"
        )
    return found, note
