"""Texts in files of any size, by their position: lines, fields of tables, rows of integers.

What `config.data` names becomes records that can be read in any order: lines of one UTF-8 text file
(`Lines`) or rows of an .npz file (`Arrays`). A plain text file is read where it lies. Compressed
files, several files, JSONL, CSV and standard input are written to one such file first.

Everything is read in bounded memory, whatever the files hold.
"""

import contextlib
import csv
import glob
import gzip
import hashlib
import io
import itertools
import json
import os
import sys
import unicodedata
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import zstandard

from seqgan_jax.data import docstrings, expressions
from seqgan_jax.data.cache import cache_folder
from seqgan_jax.data.captions import Progress, no_progress
from seqgan_jax.data.images import file_key
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

UNICODE = ("NFC", "NFKC")
MADE = {"docstrings": docstrings, "cfg": expressions}
SOURCES = (*MADE, "path")
STDIN = "-"
# Longer lines are no sequences, and whoever has one has most likely named the wrong file.
MAX_LINE = 2**20
# Part of the cache's key: raise it when what is written to it changes.
VERSION = 1
_BLOCK = 2**20
Report = Callable[[str], None]


class Store(Protocol):
    """Records that can be read in any order.

    Attributes:
      path: the file that holds them.
      name: what to call it.
      settings: what decides how it is read.
      source: some records' sources, or None where there are none.
    """

    path: Path
    name: str
    settings: list
    source: np.ndarray | None

    def records(self, progress: Progress, description: str) -> Iterator[tuple[int, str]]:
        """All records' positions and texts; empty ones too."""
        ...

    def __getitem__(self, position: int) -> tuple[str, dict]:
        """A record's text, and its `source` and `source_mask`."""
        ...


class Lines:
    """The lines of a UTF-8 text file; a line's position is that of its first byte.

    Args:
      path: the file.
      name: what to call it.
      unicode: the normal form that texts are brought to.
    """

    source = None

    def __init__(self, path: Path, name: str, unicode: str):
        self.path = path
        self.name = name
        self.settings = [unicode]
        self._unicode = unicode
        try:
            self._file = open(path, "rb")  # noqa: SIM115 (for as long as this lives)
        except OSError as error:
            raise _unreadable(name, error) from error

    def records(self, progress: Progress, description: str) -> Iterator[tuple[int, str]]:
        """All lines.

        Raises:
          UserError: for a line that is not UTF-8 text, or too long; names it.
        """
        with open(self.path, "rb") as file:
            position = 0
            lines = _shown(_lines(file, self.name), file, progress, description)
            for line, text in lines:
                yield position, self._normal(text)
                position += len(line)

    def __getitem__(self, position: int) -> tuple[str, dict]:
        line, size = b"", 512
        while b"\n" not in line and len(line) <= MAX_LINE:
            # pread: threads read at once, and share no place in the file.
            more = os.pread(self._file.fileno(), size, position + len(line))
            line += more
            size *= 4
            if not more:
                break
        line = line.partition(b"\n")[0].removeprefix(b"\xef\xbb\xbf")
        text = self._normal(line.decode("utf-8", "replace"))
        return text, {"source": None, "source_mask": None}

    def _normal(self, text: str) -> str:
        return unicodedata.normalize(self._unicode, text).strip()


class Arrays:
    """The rows of an .npz file; a row's text is its integers with spaces between.

    `target` is [N, T] integers of 0 or more; rows end at the first -1, or at `length` [N] integers.
    `source`, if there, is [N, S] integers, where -1 fills up at the end, or float [N, S, F].

    Raises:
      UserError: for a file that can't be read or holds anything else.
    """

    def __init__(self, path: Path):
        self.path = path
        self.name = str(path)
        self.settings = []
        arrays = _arrays(path)
        if "target" not in arrays:
            raise UserError(f"{path}: lacks the array 'target', integers [N, T]; add it")
        self._target = _integers(path, "target", arrays["target"])
        count = len(self._target)
        if "length" in arrays:
            length = self._length = arrays["length"]
            if length.shape != (count,) or length.dtype.kind not in "iu":
                raise UserError(f"{path}: 'length' must be integers, one for each of {count} rows")
            wrong = np.flatnonzero((length < 0) | (length > _before_first_gap(self._target)))
            if len(wrong):
                raise UserError(
                    f"{path}: row {wrong[0]} of 'target' has no {length[wrong[0]]} tokens; mend "
                    "'length'"
                )
        else:
            self._length = _lengths(path, "target", self._target)
        self._source = arrays.get("source")
        self.source = None
        if self._source is not None:
            self._check_source(count)
            self.source = self._source[:1]

    def _check_source(self, count: int) -> None:
        source = self._source
        if len(source) != count:
            raise UserError(f"{self.path}: {len(source)} rows of 'source' for {count} of 'target'")
        if source.dtype.kind == "f" and source.ndim == 3:
            if not np.isfinite(source).all():
                raise UserError(f"{self.path}: 'source' has values that are not finite; mend them")
            return
        _lengths(self.path, "source", _integers(self.path, "source", source))

    def records(self, progress: Progress, description: str) -> Iterator[tuple[int, str]]:
        """All rows."""
        for i in progress(range(len(self._target)), len(self._target), description):
            yield i, self._text(i)

    def __getitem__(self, position: int) -> tuple[str, dict]:
        source = None if self._source is None else encoder_input(self._source[position])
        return self._text(position), source or {"source": None, "source_mask": None}

    def _text(self, i: int) -> str:
        return " ".join(map(str, self._target[i, : self._length[i]].tolist()))

    @property
    def source_vocabulary(self) -> int | None:
        """How many integer tokens the sources may have, None for features or no sources."""
        if self._source is None or self._source.dtype.kind == "f":
            return None
        return int(self._source.max(initial=0)) + 1


def encoder_input(source: np.ndarray) -> dict[str, np.ndarray]:
    """What networks see of a source, or of several: `source` and `source_mask`.

    Features are float32 and need no mask. Integers are int32; where they are -1 the mask is 0.
    """
    if source.dtype.kind == "f":
        return {"source": source.astype(np.float32), "source_mask": None}
    return {
        "source": np.maximum(source, 0).astype(np.int32),
        "source_mask": (source >= 0).astype(np.float32),
    }


def read_sources(path: Path) -> np.ndarray:
    """The array `source` of an .npz file, see `Arrays`.

    Raises:
      UserError: for a file that can't be read, or without such an array.
    """
    arrays = _arrays(path)
    if "source" not in arrays or not len(arrays["source"]):
        raise UserError(f"{path}: lacks the array 'source', or it is empty; add it")
    return arrays["source"]


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except OSError as error:
        raise _unreadable(str(path), error) from error
    except (ValueError, TypeError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        reason = " ".join(str(error).split())
        raise UserError(
            f"{path}: no whole .npz file of arrays ({reason}); write it anew"
        ) from error


def _integers(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    if values.ndim != 2 or values.dtype.kind not in "iu":
        form = " or float [N, S, F]" if name == "source" else ""
        raise UserError(
            f"{path}: '{name}' is {values.dtype} of shape {values.shape}; it must be integers of "
            f"two dimensions{form}"
        )
    if values.size and (values.min() < -1 or values.max() >= 2**31):
        raise UserError(f"{path}: '{name}' has values outside of -1 to 2**31 - 1; mend them")
    return values


def _lengths(path: Path, name: str, values: np.ndarray) -> np.ndarray:
    """How many entries each row has before -1 fills it up, [N]."""
    length = _before_first_gap(values)
    after = np.flatnonzero((values >= 0).sum(1) != length)
    if len(after):
        raise UserError(
            f"{path}: row {after[0]} of '{name}' goes on after a -1; move it to the end"
        )
    return length


def _before_first_gap(values: np.ndarray) -> np.ndarray:
    return (np.cumsum(values < 0, axis=1) == 0).sum(1)


# From what a user has to a store.


def open_store(
    config, workdir: Path, *, progress: Progress = no_progress, report: Report = lambda text: None
) -> Store:
    """What `config.path` names, or what `config.source` makes where no path is given.

    Args:
      config: the data configuration: source, path, field, unicode, and what the module that makes
        the data needs.
      workdir: the run's directory, where standard input is kept.
      progress: shows how far reading is.
      report: is told what can't be measured.

    Raises:
      UserError: for anything wrong with the configuration, or with the files.
    """
    if config.source not in SOURCES:
        raise UserError(
            f"config.data.source: no source '{config.source}'; choose from {', '.join(SOURCES)}"
        )
    if config.unicode not in UNICODE:
        raise UserError(
            f"config.data.unicode: no form '{config.unicode}'; choose from {', '.join(UNICODE)}"
        )
    if not config.path:
        if config.source == "path":
            raise UserError(
                "config.data.path is not set: say --config.data.path=FILE, a text file with one "
                "sequence a line (docs/your_own_data.md)"
            )
        made = MADE[config.source]
        path = _spool(
            config.source, [made.key(config)], lambda: made.sentences(config, progress=progress)
        )
        return Lines(path, config.source, config.unicode)
    if config.path == STDIN:
        return Lines(_standard_input(config, workdir, report), "standard input", config.unicode)
    paths = _paths(config.path)
    name = str(paths[0]) if len(paths) == 1 else config.path
    if any(path.suffix == ".npz" for path in paths):
        if len(paths) > 1 or config.field:
            raise UserError(
                f"config.data.path: {config.path}: an .npz file must be the only one, and without "
                "config.data.field"
            )
        return Arrays(paths[0])
    for path in paths:
        _check_field(str(path), _form(path), config.field)
    if len(paths) == 1 and _form(paths[0]) == "" and not _compression(paths[0]):
        return Lines(paths[0], name, config.unicode)
    key = [file_key([], [(str(path), path) for path in paths]), config.field]
    read = lambda: (
        text
        for path in paths
        for text in _texts(path, config.field, progress)  # in the order of their names
    )
    return Lines(_spool("text", key, read), name, config.unicode)


def _paths(pattern: str) -> list[Path]:
    """The file of that name, or the files that the pattern matches, in alphabetical order."""
    expanded = os.path.expanduser(pattern)
    if os.path.isfile(expanded):
        return [Path(expanded)]
    found = sorted(path for path in glob.glob(expanded, recursive=True) if os.path.isfile(path))
    if not found:
        what = (
            "a folder; name its files, as in FOLDER/*.txt"
            if os.path.isdir(expanded)
            else ("no such file, and no file matches it")
        )
        raise UserError(f"config.data.path: {pattern}: {what}")
    return list(map(Path, found))


def _compression(path: Path) -> str:
    return path.suffix.lower() if path.suffix.lower() in (".gz", ".zst") else ""


def _form(path: Path) -> str:
    """.jsonl, .csv, or nothing for lines, by the name's ending."""
    if _compression(path):
        path = path.with_suffix("")
    ending = path.suffix.lower()
    return {".jsonl": ".jsonl", ".ndjson": ".jsonl", ".csv": ".csv"}.get(ending, "")


def _check_field(name: str, form: str, field: str | None) -> None:
    if form and not field:
        raise UserError(f"config.data.field is not set: say which field of {name} to read")
    if field and not form:
        raise UserError(
            f"config.data.field: {name} has lines and no fields (only .jsonl and .csv have); leave "
            "it out"
        )


def _texts(path: Path, field: str | None, progress: Progress) -> Iterator[str]:
    """The texts of a file in any of the forms, with progress by its bytes."""
    name = str(path)
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(open(path, "rb"))
        except OSError as error:
            raise _unreadable(name, error) from error
        lines = _lines(_opened(raw, _compression(path)), name)
        texts = _fields(lines, name, _form(path), field)
        try:
            yield from _shown(texts, raw, progress, f"reading {name}")
        except (EOFError, zlib.error, gzip.BadGzipFile, zstandard.ZstdError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"{name}: can't be decompressed ({reason}); get a whole copy"
            ) from error


def _opened(raw: BinaryIO, compression: str) -> BinaryIO:
    if compression == ".gz":
        return gzip.open(raw)
    if compression == ".zst":
        return io.BufferedReader(_Zstandard(raw))
    return raw


class _Zstandard(io.RawIOBase):
    """A file decompressed. The package's own reader takes a file's early end for its end."""

    def __init__(self, raw: BinaryIO):
        self._raw = raw
        self._frame = None
        self._compressed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int:
        while not self._ready:
            data = self._compressed or self._raw.read(2**14)
            if not data and self._frame:
                raise EOFError("it ends early")
            if not data:
                return 0
            frame = self._frame or zstandard.ZstdDecompressor().decompressobj()
            self._ready = frame.decompress(data)
            self._compressed = frame.unused_data
            self._frame = None if frame.eof else frame
        count = min(len(buffer), len(self._ready))
        buffer[:count], self._ready = self._ready[:count], self._ready[count:]
        return count


def _shown(items: Iterable, file: BinaryIO, progress: Progress, description: str) -> Iterator:
    """What is made of a file's lines, one after another, with progress by its mebibytes."""
    total = os.fstat(file.fileno()).st_size // _BLOCK
    # What is over in a moment needs no display.
    ticks = iter(progress(range(total), total, f"{description}, MiB") if total > 1 else ())
    done = 0
    for number, item in enumerate(items):
        yield item
        # Seldom, for it takes as long as reading a line.
        while not number & 255 and done * _BLOCK < file.tell():
            next(ticks, None)
            done += 1
    for _ in ticks:
        pass


def _lines(file: BinaryIO, name: str) -> Iterator[tuple[bytes, str]]:
    """The lines of a file, as they are and decoded, in bounded memory.

    Raises:
      UserError: for one that is binary, not UTF-8 or too long; names it.
    """
    for number in itertools.count(1):
        line = file.readline(MAX_LINE + 1)
        if not line:
            return
        if len(line) > MAX_LINE:
            raise UserError(
                f"{name}: line {number} is longer than {MAX_LINE:,} bytes; put one sequence on "
                "each line"
            )
        if b"\0" in line:
            raise UserError(
                f"{name}: line {number} has a zero byte, so this is no UTF-8 text; convert the "
                "file, or name another"
            )
        try:
            text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            raise UserError(
                f"{name}: line {number} is not UTF-8 (byte {line[error.start]:#04x}); convert the "
                "file"
            ) from error
        yield line, text


def _fields(
    lines: Iterator[tuple[bytes, str]], name: str, form: str, field: str | None
) -> Iterator[str]:
    texts = (text for _, text in lines)
    if form == ".jsonl":
        return _json_fields(texts, name, field)
    if form == ".csv":
        return _csv_fields(texts, name, field)
    return texts


def _json_fields(lines: Iterable[str], name: str, field: str) -> Iterator[str]:
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            value = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{name}: line {number} is not JSON; mend that line") from error
        if not isinstance(value, dict) or field not in value:
            raise UserError(
                f"{name}: line {number} has no field '{field}'; mend it, or see config.data.field"
            )
        if not isinstance(value[field], str):
            raise UserError(
                f"{name}: line {number}: the field '{field}' is no text but "
                f"{type(value[field]).__name__}; mend it, or see config.data.field"
            )
        yield value[field]


def _csv_fields(lines: Iterable[str], name: str, field: str) -> Iterator[str]:
    rows = csv.reader(lines, strict=True)
    try:
        header = [column.strip() for column in next(rows, [])]
        if field not in header:
            raise UserError(
                f"{name}: no column '{field}' in its first line ({', '.join(header)}); see "
                "config.data.field"
            )
        column = header.index(field)
        for row in rows:
            if not row:
                continue
            if len(row) <= column:
                raise UserError(
                    f"{name}: line {rows.line_num} has no field '{field}' but {len(row)} columns; "
                    "mend it"
                )
            yield row[column]
    except csv.Error as error:
        raise UserError(f"{name}: line {rows.line_num}: {error}; mend that line") from error


def _standard_input(config, workdir: Path, report: Report) -> Path:
    """Standard input, written to a file in the run's directory; that file, once it is a run."""
    path = workdir / "standard_input.txt"
    if (workdir / "config.json").exists() and path.exists():
        return path
    if sys.stdin.isatty():
        raise UserError("config.data.path: standard input is a terminal; pipe a text into it")
    report("reading standard input to its end")
    form = ".jsonl" if config.field else ""
    lines = _lines(sys.stdin.buffer, "standard input")
    _write(path, _fields(lines, "standard input", form, config.field))
    return path


def _spool(name: str, key: list, texts: Callable[[], Iterable[str]]) -> Path:
    """A file in the cache with one text a line, made if need be."""
    digest = hashlib.sha256(json.dumps([VERSION, *key]).encode()).hexdigest()[:24]
    path = cache_folder() / f"{name}-{digest}.txt"
    if not path.exists():
        _write(path, texts())
    return path


def _write(path: Path, texts: Iterable[str]) -> None:
    try:
        with replace_file(path) as file:
            for text in texts:
                # A field may hold several lines, and JSON escapes that no text can have.
                line = text.replace("\r", " ").replace("\n", " ").replace("\0", " ").strip()
                file.write(line.encode("utf-8", "replace") + b"\n")
    except OSError as error:
        raise UserError(
            f"{path.parent}: can't be written to ({error.strerror or error}); make room, or name "
            "another folder in the environment variable SEQGAN_JAX_CACHE"
        ) from error


def _unreadable(name: str, error: OSError) -> UserError:
    return UserError(f"{name}: can't be read ({error.strerror or error}); see config.data.path")
