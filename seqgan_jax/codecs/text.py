"""Text <-> tokens: words, characters, SentencePiece subwords, or what a pattern matches."""

import base64
import collections
import functools
import hashlib
import io
import json
import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import sentencepiece

from seqgan_jax.codecs.vocabulary import Vocabulary
from seqgan_jax.errors import UserError
from seqgan_jax.files import replace_file

KINDS = ("word", "character", "sentencepiece", "regex:PATTERN")
REGEX = "regex:"
PAD, BOS, EOS, UNK = range(4)
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>")
FILE = "codec.json"


def split_words(text: str) -> list[str]:
    """Splits at white space, and every punctuation mark or symbol into a word of its own.

    Apostrophes, hyphens and underscores between letters stay inside their word ("don't",
    "t-shirt"), as do points, commas and colons between digits ("3.5", "10:30"). Splitting the
    words joined by spaces gives the same words again.
    """
    words = []
    for chunk in text.split():
        if chunk.isalnum():
            words.append(chunk)
            continue
        start = 0
        for i, mark in enumerate(chunk):
            if not _is_mark(mark) or _joins(chunk, i):
                continue
            if start < i:
                words.append(chunk[start:i])
            words.append(mark)
            start = i + 1
        if start < len(chunk):
            words.append(chunk[start:])
    return words


def _is_mark(character: str) -> bool:
    # Not "neither letter nor digit": vowel signs and combining accents belong to their word.
    return unicodedata.category(character)[0] in "PS"


def _joins(chunk: str, i: int) -> bool:
    if not 0 < i < len(chunk) - 1:
        return False
    before, after = chunk[i - 1], chunk[i + 1]
    if chunk[i] in ".,:":
        return before.isdigit() and after.isdigit()
    return chunk[i] in "'’-_" and not _is_mark(before) and not _is_mark(after)


def split_matches(pattern: re.Pattern, text: str) -> list[str]:
    """The matches of a pattern that aren't empty, and the words that lie between them.

    So nothing but white space is ever lost: what the pattern should have matched and didn't is
    among the tokens.
    """
    tokens, end = [], 0
    for match in pattern.finditer(text):
        if match.end() > match.start():
            tokens += text[end : match.start()].split()
            tokens.append(match.group())
            end = match.end()
    return tokens + text[end:].split()


class TextCodec:
    """A text's tokens, by a vocabulary fitted to a corpus.

    Ids 0 to 3 are padding, beginning, end and unknown; the others are words, characters,
    SentencePiece pieces (Kudo and Richardson 2018, arXiv:1808.06226; unigram model) or a pattern's
    matches, see `split_matches`.

    Attributes:
      kind: 'word', 'character', 'sentencepiece' or 'regex:PATTERN'.
      lowercase: whether text is lower-cased first.
      tokens: every token as a string to show, by id.
      vocabulary: what the networks need to know.
      spaced: whether tokens are joined by spaces; of no meaning for SentencePiece.
      dropped: how many different words (or characters) of the corpus are not in the vocabulary.
    """

    def __init__(
        self,
        kind: str,
        tokens: list[str],
        *,
        lowercase: bool = False,
        dropped: int = 0,
        model: bytes | None = None,
        spaced: bool = True,
    ):
        self.kind = kind
        self.lowercase = lowercase
        self.tokens = list(tokens)
        self.dropped = dropped
        self.vocabulary = Vocabulary(size=len(self.tokens), bos=BOS, pad=PAD, eos=EOS)
        self._ids = {token: i for i, token in enumerate(self.tokens)}
        self.spaced = spaced
        self._split = _splitter(kind)
        self._model = model
        if model is not None:
            self._pieces = sentencepiece.SentencePieceProcessor(model_proto=model)

    @classmethod
    def fit(
        cls,
        texts: Iterable[str],
        *,
        kind: str,
        max_size: int | None = None,
        min_count: int = 1,
        seed: int = 0,
        lowercase: bool = False,
    ) -> "TextCodec":
        """Builds the vocabulary of a corpus.

        Args:
          texts: the training texts.
          kind: 'word': the most frequent words, equally frequent ones in alphabetical order.
            'character': all characters, any script. 'sentencepiece': pieces of words.
            'regex:PATTERN': the most frequent matches; when decoded they are joined by spaces if
            white space stands between any two of the corpus.
          max_size: the largest number of tokens, the four special ones included; of pieces there
            are as many, or as the texts give. None sets no limit (not for 'sentencepiece').
          min_count: a word or character seen less often is unknown. Not for 'sentencepiece'.
          seed: of SentencePiece's choice of sentences where there are over a million.
          lowercase: whether to lower-case all text.

        Raises:
          UserError: for an empty corpus, an unknown kind, a pattern that is no regular expression
            or matches nothing, or more characters than `max_size`.
        """
        split = _splitter(kind)
        if max_size is not None and max_size <= len(SPECIAL):
            raise UserError(
                f"config.codec.max_size: {max_size} leaves no room for a word beside the "
                f"{len(SPECIAL)} special tokens; set it higher"
            )
        normalised = (_normalise(text, kind, lowercase) for text in texts)
        if kind == "sentencepiece":
            return cls._fit_sentencepiece(normalised, max_size, seed, lowercase)

        counts = collections.Counter()
        spaced = matched = False
        for text in normalised:
            tokens = split(text)
            counts.update(tokens)
            if kind.startswith(REGEX):
                spaced = spaced or "".join(tokens).split() != text.split()
                matches = re.finditer(kind.removeprefix(REGEX), text)
                matched = matched or any(match.group() for match in matches)
        if not counts:
            raise UserError("the training texts are all empty: no vocabulary can be built")
        if kind.startswith(REGEX) and not matched:
            raise UserError(
                f"config.codec.kind: {kind} matches nothing in the training texts; mend the pattern"
            )
        kept = [token for token, count in counts.items() if count >= min_count]
        if not kept:
            raise UserError(
                f"config.codec.min_count: nothing occurs {min_count} times in the training texts; "
                "set it lower"
            )
        kept.sort(key=lambda token: (-counts[token], token))
        if max_size is not None and len(kept) + len(SPECIAL) > max_size:
            if kind == "character":
                raise UserError(
                    f"config.codec.max_size: the texts have {len(kept)} different characters, "
                    f"which with {len(SPECIAL)} special tokens is over the limit of {max_size}; "
                    f"set it to {len(kept) + len(SPECIAL)} or raise config.codec.min_count"
                )
            kept = kept[: max_size - len(SPECIAL)]
        dropped = len(counts) - len(kept)
        spaced = kind == "word" or spaced
        return cls(kind, [*SPECIAL, *kept], lowercase=lowercase, dropped=dropped, spaced=spaced)

    @classmethod
    def _fit_sentencepiece(cls, texts, max_size, seed, lowercase):
        if max_size is None:
            raise UserError("config.codec.max_size: SentencePiece needs a vocabulary size; set one")
        texts = [text for text in texts if text]
        if not texts:
            raise UserError("the training texts are all empty: no vocabulary can be built")
        try:
            model = _trained_pieces(texts, max_size, seed)
        except (RuntimeError, OSError) as error:
            most = re.search(r"value <= (\d+)", str(error))
            if not most:
                raise UserError(
                    f"config.codec.max_size: SentencePiece can't make {max_size} pieces of these "
                    "texts, whose letters alone are as many; set it higher"
                ) from error
            # The texts have no more: few of them, or few words.
            model = _trained_pieces(texts, int(most[1]), seed)
        pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
        tokens = [pieces.id_to_piece(i) for i in range(pieces.vocab_size())]
        return cls("sentencepiece", tokens, lowercase=lowercase, model=model)

    @property
    def identity(self) -> list:
        """What decides where a text is split; two codecs alike in it split all texts alike."""
        model = self._model and hashlib.sha256(self._model).hexdigest()
        return [self.kind, self.lowercase, model]

    def normalise(self, text: str) -> str:
        """The text that `decode(encode(text))` gives back where no token is unknown.

        Unicode form C, lower case if so set; words are joined by single spaces, and SentencePiece
        too knows white space only as single spaces.
        """
        text = _normalise(text, self.kind, self.lowercase)
        return text if self.kind == "sentencepiece" else self._join(self._split(text))

    def split(self, text: str) -> list[str]:
        """The text's tokens as strings, also those that the vocabulary doesn't have."""
        text = _normalise(text, self.kind, self.lowercase)
        if self.kind == "sentencepiece":
            return self._pieces.encode(text, out_type=str)
        return self._split(text)

    def encode(self, text: str) -> list[int]:
        """The text's token ids, ending with the end token; no beginning token."""
        if self.kind == "sentencepiece":
            text = _normalise(text, self.kind, self.lowercase)
            return [*self._pieces.encode(text), EOS]
        get = self._ids.get
        return [*(get(token, UNK) for token in self.split(text)), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of token ids up to the first end token; padding and beginnings are skipped."""
        kept = []
        for i in map(int, ids):
            if i == EOS:
                break
            if i not in (PAD, BOS):
                kept.append(i)
        if self.kind == "sentencepiece":
            return self._pieces.decode(kept)
        return self._join(self.tokens[i] for i in kept)

    def _join(self, tokens: Iterable[str]) -> str:
        return (" " if self.spaced else "").join(tokens)

    def save(self, directory: str | Path) -> None:
        """Writes `codec.json` in a directory, which is made if need be."""
        content = {
            "kind": self.kind,
            "lowercase": self.lowercase,
            "dropped": self.dropped,
            "spaced": self.spaced,
            "tokens": self.tokens,
            "model": self._model and base64.b64encode(self._model).decode(),
        }
        document = {"checksum": _checksum(content), **content}
        Path(directory).mkdir(parents=True, exist_ok=True)
        with replace_file(Path(directory) / FILE) as file:
            file.write(json.dumps(document, ensure_ascii=False, indent=0).encode())

    @classmethod
    def load(cls, directory: str | Path) -> "TextCodec":
        """Reads what `save` wrote.

        Raises:
          UserError: if the file is missing or is not as it was written.
        """
        path = Path(directory) / FILE
        try:
            content = json.loads(path.read_bytes())
            checksum = content.pop("checksum")
        except OSError as error:
            raise UserError(f"{path}: can't read the codec: {error.strerror}") from error
        except (ValueError, KeyError, AttributeError, TypeError) as error:
            raise UserError(f"{path}: the codec file is damaged; restore it from a copy") from error
        if checksum != _checksum(content):
            raise UserError(f"{path}: the codec file is damaged; restore it from a copy")
        model = content.pop("model")
        return cls(**content, model=model and base64.b64decode(model))


def _splitter(kind: str) -> Callable[[str], list[str]]:
    """What splits a text into tokens; for SentencePiece, whose model does it, nothing of use."""
    if kind.startswith(REGEX):
        try:
            pattern = re.compile(kind.removeprefix(REGEX))
        except re.error as error:
            raise UserError(
                f"config.codec.kind: {kind} is no regular expression ({error}); mend it"
            ) from error
        return functools.partial(split_matches, pattern)
    known = {"word": split_words, "character": list, "sentencepiece": list}
    if kind not in known:
        raise UserError(f"config.codec.kind: no codec '{kind}'; choose one of {', '.join(KINDS)}")
    return known[kind]


def _trained_pieces(texts: Sequence[str], size: int, seed: int) -> bytes:
    """A SentencePiece model of so many pieces."""
    sentencepiece.set_random_generator_seed(seed)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts),
        model_writer=model,
        vocab_size=size,
        normalization_rule_name="identity",
        input_sentence_size=1_000_000,
        max_sentence_length=1 << 16,
        # Its default leaves rare letters unknown, and an unknown one can't be written.
        character_coverage=1.0,
        split_digits=True,
        num_threads=4,  # fixed: the pieces must not depend on the machine
        pad_id=PAD,
        bos_id=BOS,
        eos_id=EOS,
        unk_id=UNK,
        pad_piece=SPECIAL[PAD],
        bos_piece=SPECIAL[BOS],
        eos_piece=SPECIAL[EOS],
        unk_piece=SPECIAL[UNK],
        unk_surface=SPECIAL[UNK],
        minloglevel=2,
    )
    return model.getvalue()


def _normalise(text: str, kind: str, lowercase: bool) -> str:
    text = unicodedata.normalize("NFC", text.lower() if lowercase else text)
    if kind == "sentencepiece":
        # SentencePiece writes a space as this lower block, so it can't be told from one.
        text = " ".join(text.replace("\u2581", " ").split())
    return text


def _checksum(content: dict) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
