"""Pairs of sentences in two languages: line-aligned files, tab-separated values, or TMX.

`config.data.path` names them:
  a folder with train.de and train.en (line n of one translates line n of the other), and likewise
    val, dev, valid or validation and test, if there are such files;
  a prefix, where PREFIX.de and PREFIX.en are the two files;
  a file .tsv with one pair a line;
  a file .tmx, Translation Memory eXchange (LISA, 1.4b).
The two languages are `config.data.source_language` and `target_language`.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol
from xml.etree import ElementTree

import babel
import numpy as np

from seqgan_jax.errors import UserError

_VALIDATION = ("val", "valid", "validation", "dev")
_TEST = ("test",)
_XML_LANGUAGE = "{http://www.w3.org/XML/1998/namespace}lang"
# Elements of a TMX segment whose content is text; that of the others is another format's markup.
_TEXT_MARKUP = ("hi", "mrk")


class Pair(NamedTuple):
    """A text in both languages.

    Attributes:
      source: in the language to translate from.
      target: in the other.
      kind: what kind of text it is, where that is known.
      paired: whether they do translate each other.
    """

    source: str
    target: str
    kind: str | None = None
    paired: bool = True


class Pairs(Protocol):
    """One split of a data set of pairs.

    Attributes:
      unlimited: whether each index is a fresh independent pair, so that epochs make no sense.
    """

    unlimited: bool

    def __len__(self) -> int:
        """The number of pairs."""
        ...

    def __getitem__(self, i: int) -> Pair:
        """Pair i."""
        ...


class Corpus(Sequence):
    """Pairs in memory."""

    unlimited = False

    def __init__(self, pairs: Sequence[Pair]):
        self._pairs = pairs

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, i: int) -> Pair:
        return self._pairs[i]


class Apart(Sequence):
    """As many rows of a source and a target that are no pair as rows of pairs, in turn.

    Every text without a pair is there at least once. Of sources and targets those of like lengths
    are put together, so that a batch of them holds little padding.

    Args:
      pairs: what is aligned.
      sources: texts without a translation; none for those of the pairs.
      targets: likewise.
    """

    unlimited = False

    def __init__(self, pairs: Sequence[Pair], sources: Iterable[str], targets: Iterable[str]):
        self._pairs = pairs
        self._sources = sorted(list(sources) or [pair.source for pair in pairs], key=len)
        self._targets = sorted(list(targets) or [pair.target for pair in pairs], key=len)
        self._count = max(map(len, (pairs, self._sources, self._targets)))

    def __len__(self) -> int:
        return 2 * self._count

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < len(self):
            raise IndexError(i)
        number, alone = divmod(i, 2)
        if not alone:
            return self._pairs[number % len(self._pairs)]
        sides = self._sources, self._targets
        return Pair(*(texts[number * len(texts) // self._count] for texts in sides), paired=False)


def split_apart(pairs: Sequence[Pair], share: float, seed: int) -> tuple[list[Pair], list[Pair]]:
    """A random share of the pairs, and the others; both in their order.

    Raises:
      UserError: where the share is none, or is empty.
    """
    if not 0 < share <= 1:
        raise UserError(f"config.data.aligned: {share:g} is no share of pairs; set 0 to 1")
    bits = np.random.PCG64(np.random.SeedSequence([seed, len(pairs)])).random_raw(len(pairs))
    count = round(share * len(pairs))
    if not count:
        raise UserError(
            f"config.data.aligned: {share:g} of {len(pairs):,} pairs are none; set it higher"
        )
    chosen = set(np.argsort(bits, kind="stable")[:count].tolist())
    some = lambda inside: [pair for i, pair in enumerate(pairs) if (i in chosen) == inside]
    return some(True), some(False)


def refuse_equal(source: str, target: str) -> None:
    """Refuses to translate a language into itself."""
    if source == target:
        raise UserError(
            f"config.data.target_language: {target} is the source's too; name another one"
        )


def load(
    config,
    *,
    report: Callable[[str], None] = lambda message: None,
) -> dict[str, Corpus]:
    """The splits 'train', 'validation' and 'test' of `config.path`.

    Where there are files for both, validation and test are those. Where there is one, it is for the
    test. What has no file of its own is kept out of the training pairs: those whose sources have
    the smallest hashes, so that equal sources are never in two splits.

    Args:
      config: path, source_language, target_language, validation_size, test_size.
      report: is told what was left out.

    Raises:
      UserError: for anything wrong with the files; names the file and the line.
    """
    if config.path is None:
        raise UserError(
            "config.data.path is not set: say --config.data.path=FOLDER, a folder with "
            f"train.{config.source_language} and train.{config.target_language}, or a .tsv or .tmx"
        )
    path = Path(config.path).expanduser()
    languages = config.source_language, config.target_language
    refuse_equal(*languages)
    given = {}
    if path.is_dir():
        given = {
            split: _read_folder(path, names, languages, report)
            for split, names in (
                ("train", ("train",)),
                ("validation", _VALIDATION),
                ("test", _TEST),
            )
        }
        given = {split: pairs for split, pairs in given.items() if pairs}
        if "train" not in given:
            raise UserError(
                f"{path}: has no train.{languages[0]} and train.{languages[1]}; see "
                "config.data.source_language and config.data.target_language"
            )
        if "test" not in given and "validation" in given:
            given["test"] = given.pop("validation")
    elif path.suffix.lower() == ".tsv":
        given["train"] = _checked(read_tsv(path, languages), path, report)
    elif path.suffix.lower() == ".tmx":
        given["train"] = _checked(read_tmx(path, languages), path, report)
    else:
        given["train"] = _read_prefix(path, languages, report)
        if not given["train"]:
            raise UserError(
                f"{path}: there is no such folder, nor files {path.name}.{languages[0]} and "
                f"{path.name}.{languages[1]}; set --config.data.path to pairs of sentences"
            )
    missing = {
        split: config[f"{split}_size"] for split in ("test", "validation") if split not in given
    }
    given |= _keep_out(given["train"], missing)
    return {split: Corpus(given[split]) for split in ("train", "validation", "test")}


def _read_folder(folder: Path, names, languages, report) -> list[Pair]:
    for name in names:
        pairs = _read_prefix(folder / name, languages, report)
        if pairs:
            return pairs
    return []


def _read_prefix(prefix: Path, languages, report) -> list[Pair]:
    """The pairs of PREFIX.de and PREFIX.en; none where neither file is there."""
    source, target = (prefix.with_name(f"{prefix.name}.{language}") for language in languages)
    if not source.exists() and not target.exists():
        return []
    return _checked(read_aligned(source, target), source, report)


def _checked(pairs: Iterable[Pair], path: Path, report) -> list[Pair]:
    """The pairs that say something in both languages."""
    kept, empty, first = [], 0, None
    for number, pair in enumerate(pairs, start=1):
        if pair.source and pair.target:
            kept.append(pair)
        elif pair.source or pair.target:
            empty += 1
            first = first or number
    if empty:
        report(
            f"{path}: {empty:,} pairs are empty on one side, the first of them number {first:,}; "
            "left out"
        )
    if not kept:
        raise UserError(f"{path}: no pairs with text on both sides; see config.data.path")
    return kept


def read_lines(path: Path, space: str | None = None) -> Iterator[str]:
    """The lines of a UTF-8 file, without the white space around them.

    Args:
      path: the file.
      space: what counts as white space; None for all of it.

    Raises:
      UserError: for a file that can't be read, or a line that is not UTF-8.
    """
    try:
        with open(path, "rb") as file:
            for number, line in enumerate(file, start=1):
                try:
                    yield line.decode("utf-8-sig" if number == 1 else "utf-8").strip(space)
                except UnicodeDecodeError as error:
                    raise UserError(
                        f"{path}: line {number} is not UTF-8; convert the file to it"
                    ) from error
    except OSError as error:
        raise UserError(
            f"{path}: can't be read ({error.strerror}); name a UTF-8 text file"
        ) from error


def read_aligned(source: Path, target: Path) -> Iterator[Pair]:
    """The pairs of two files, line by line.

    Raises:
      UserError: where one has more lines than the other, or can't be read.
    """
    ours, theirs = read_lines(source), read_lines(target)
    count = 0
    for count, lines in enumerate(itertools.zip_longest(ours, theirs), start=1):
        if None in lines:
            # The longer one's line has been read.
            lengths = [count - (line is None) for line in lines]
            longer = lengths.index(max(lengths))
            lengths[longer] += sum(1 for _ in (ours, theirs)[longer])
            raise UserError(
                f"{source} has {lengths[0]:,} lines, {target} has {lengths[1]:,}; line n of one "
                "must translate line n of the other"
            )
        yield Pair(*lines)


def read_tsv(path: Path, languages: tuple[str, str]) -> Iterator[Pair]:
    """The pairs of a file with a tab between the two texts of a line.

    Where the first line holds both languages' codes, it names the columns, a dialect counting as
    its language; otherwise the source is in the first column and its translation in the second.
    What a line lacks behind a tab is empty.

    Raises:
      UserError: for a first line of other languages' codes, a line without a tab, or without
        either column, or a file that can't be read.
    """
    columns = 0, 1
    # Quotation marks are text: tabs can't stand inside a sentence anyway.
    for number, line in enumerate(read_lines(path, "\r\n"), start=1):
        row = [cell.strip() for cell in line.split("\t")]
        named = _columns(path, row, languages) if number == 1 else None
        if named:
            columns = named
        elif len(row) > max(1, min(columns)):
            row += [""] * (max(columns) + 1 - len(row))
            yield Pair(*(row[column] for column in columns))
        elif any(row):
            raise UserError(
                f"{path}: line {number} has {len(row)} columns, not {max(columns) + 1}; put a tab "
                "between a sentence and its translation"
            )


def read_tmx(path: Path, languages: tuple[str, str]) -> Iterator[Pair]:
    """The pairs of a TMX file, in constant memory.

    A variant's language matches where it is the one asked for or a dialect of it: en-GB is en.
    Units without one of the two languages are skipped. Of inline markup the text stays.

    Raises:
      UserError: for a file that is no XML, or holds no unit of these languages.
    """
    count, found = 0, set()
    body = None
    try:
        for event, element in ElementTree.iterparse(path, events=("start", "end")):
            if event == "start":
                body = element if element.tag == "body" else body
                continue
            if element.tag != "tu":
                continue
            texts = {}
            for variant in element.iter("tuv"):
                code = variant.get(_XML_LANGUAGE) or variant.get("lang") or ""
                found.add(code)
                segment = variant.find("seg")
                for language in languages:
                    if segment is not None and _is_language(code, language):
                        texts.setdefault(language, " ".join(_text(segment).split()))
            if len(texts) == 2:
                count += 1
                yield Pair(*(texts[language] for language in languages))
            # What has been read would pile up here.
            (element if body is None else body).clear()
    except (ValueError, LookupError) as error:  # what expat says of encodings
        raise UserError(
            f"{path}: its encoding can't be read ({error}); convert it to UTF-8"
        ) from error
    except ElementTree.ParseError as error:
        raise UserError(f"{path}: is no TMX file ({error}); see config.data.path") from error
    except OSError as error:
        raise UserError(
            f"{path}: can't be read ({error.strerror}); see config.data.path"
        ) from error
    if not count:
        raise UserError(
            f"{path}: has no translations between {languages[0]} and {languages[1]}; its languages "
            f"are {', '.join(sorted(found)) or 'none'}"
        )


def _columns(path: Path, first: Sequence[str], languages) -> tuple[int, ...] | None:
    """Which columns the first line says are the two languages'; None where it is no header."""
    found = [[i for i, code in enumerate(first) if _is_language(code, one)] for one in languages]
    if all(found):
        return tuple(places[0] for places in found)
    codes = {cell.replace("_", "-").partition("-")[0].lower() for cell in first}
    short = all(len(cell) <= len("pt-BR") for cell in first)
    if short and len(codes) == len(first) > 1 and codes <= set(babel.Locale("en").languages):
        raise UserError(
            f"{path}: its columns are {', '.join(first)}; set config.data.source_language and "
            "config.data.target_language to two of them"
        )
    return None


def _is_language(code: str, asked: str) -> bool:
    code, asked = (x.lower().replace("_", "-") for x in (code, asked))
    return code == asked or code.startswith(f"{asked}-")


def _text(element: ElementTree.Element) -> str:
    parts = [element.text or ""]
    for child in element:
        if child.tag in _TEXT_MARKUP:
            parts.append(_text(child))
        parts.append(child.tail or "")
    return "".join(parts)


def _keep_out(pairs: list[Pair], sizes: dict[str, int]) -> dict[str, list[Pair]]:
    """Takes so many pairs, or a few more of equal sources, for each split; the others are 'train'.

    Raises:
      UserError: if nothing is left to train on, or a split would be empty.
    """
    for split, size in sizes.items():
        if size < 1:
            raise UserError(f"config.data.{split}_size: {size} leaves nothing to judge; set more")
    if sum(sizes.values()) >= len(pairs):
        asked = " + ".join(f"config.data.{split}_size" for split in sizes)
        raise UserError(
            f"{asked} = {sum(sizes.values())} of {len(pairs)} pairs leave nothing to train on; set "
            "less"
        )
    digest = lambda pair: hashlib.sha256(pair.source.encode()).digest()
    digests = [digest(pair) for pair in pairs]
    order = sorted(range(len(pairs)), key=lambda i: digests[i])
    splits, start = {}, 0
    for split, size in sizes.items():
        end = start + size
        while end < len(order) and digests[order[end]] == digests[order[end - 1]]:
            end += 1
        splits[split] = [pairs[i] for i in sorted(order[start:end])]
        start = end
    if start >= len(order):
        raise UserError(
            "config.data.path: too few different sources to keep some out; set "
            "config.data.validation_size and config.data.test_size lower"
        )
    return splits | {"train": [pairs[i] for i in sorted(order[start:])]}


class Dropped(NamedTuple):
    """How many training pairs were left out, and why.

    Attributes:
      pairs: of how many.
      long: over the limit of either side.
      uneven: one side too many times as long as the other.
    """

    pairs: int
    long: int
    uneven: int


def filtered(
    pairs: Iterable[Pair],
    lengths: Callable[[Pair], tuple[int, int]],
    *,
    limits: tuple[int, int],
    max_ratio: float,
) -> tuple[list[Pair], Dropped]:
    """Leaves out pairs that are too long, and those that can hardly be translations.

    As Moses's clean-corpus-n does: a pair is uneven if one side has more than `max_ratio` times as
    many tokens as the other.

    Args:
      pairs: the training pairs.
      lengths: a pair's tokens on either side, the end token included.
      limits: most tokens of the source, and of the target.
      max_ratio: see above.

    Returns:
      The pairs that stay, and counts of the others.
    """
    kept, count, long, uneven = [], 0, 0, 0
    for pair in pairs:
        count += 1
        source, target = lengths(pair)
        if source > limits[0] or target > limits[1]:
            long += 1
        elif max(source, target) > max_ratio * min(source, target):
            uneven += 1
        else:
            kept.append(pair)
    return kept, Dropped(count, long, uneven)
