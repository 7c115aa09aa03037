"""Unlimited true pairs of phrases in two languages, from what packages know of languages.

num2words writes whole numbers and prices in words. Babel has the words of the Unicode Common Locale
Data Repository (CLDR) for dates, times of day and quantities, whose numerals stay numerals: whether
"one" agrees with "hour" no package says. A value is drawn from a seed and an index alone and
written in both languages; a hash of the value decides whether it is for training, validation or
test, so that no held-out value is ever seen in training.
"""

import datetime
import functools
import hashlib
from collections.abc import Callable
from decimal import Decimal
from typing import Any, NamedTuple

import babel
import num2words
from babel import dates, units

from seqgan_jax.data.parallel import Pair, refuse_equal
from seqgan_jax.errors import UserError

# One value in so many is for validation, and as many for test.
_HELD_OUT_SHARE = 20
# Numbers below are always for training: all others are made of their words.
_ALWAYS_LEARNT = 100
_FIRST_DAY = datetime.date(1900, 1, 1)
_DAYS = (datetime.date(2100, 1, 1) - _FIRST_DAY).days
_CURRENCIES = ("EUR", "GBP", "USD")
_UNITS = (
    "area-square-meter", "digital-gigabyte", "duration-day", "duration-hour", "duration-minute",
    "duration-second", "duration-week", "length-centimeter", "length-inch", "length-kilometer",
    "length-meter", "length-mile", "mass-gram", "mass-kilogram", "mass-pound", "mass-ton",
    "speed-kilometer-per-hour", "temperature-celsius", "volume-cubic-meter", "volume-liter",
)  # fmt: skip
_PROBES = 20
# Examples before any number that a training run reaches.
_LENGTH = 2**30


class Language(NamedTuple):
    """What the packages know of a language.

    Attributes:
      code: num2words's.
      locale: Babel's.
      currencies: those that num2words has the words of.
      units: those that CLDR has the words of.
    """

    code: str
    locale: babel.Locale
    currencies: frozenset[str]
    units: frozenset[str]


class Kind(NamedTuple):
    """A kind of phrase.

    Attributes:
      draw: a value from a large random integer, given the currencies and units to choose from.
      write: a value's words in a language.
    """

    draw: Callable[[int, "_Choices"], Any]
    write: Callable[[Any, Language], str]


class _Choices(NamedTuple):
    currencies: tuple[str, ...]
    units: tuple[str, ...]


def _number(bits: int, choices: _Choices) -> int:
    """As many numbers of six digits as of one."""
    del choices
    bits, digits = divmod(bits, 6)
    smallest = 10**digits if digits else 0
    return smallest + bits % (10 ** (digits + 1) - smallest)


def _write_number(value: int, language: Language) -> str:
    return num2words.num2words(value, lang=language.code)


def _date(bits: int, choices: _Choices) -> str:
    del choices
    return str(_FIRST_DAY + datetime.timedelta(bits % _DAYS))


def _write_date(value: str, language: Language) -> str:
    return dates.format_date(datetime.date.fromisoformat(value), "full", locale=language.locale)


def _time(bits: int, choices: _Choices) -> str:
    del choices
    rest, second = divmod(bits, 60)
    rest, minute = divmod(rest, 60)
    return str(datetime.time(rest % 24, minute, second))


def _write_time(value: str, language: Language) -> str:
    pattern = _time_pattern(language.locale)
    return pattern.apply(datetime.time.fromisoformat(value), language.locale)


@functools.cache
def _time_pattern(locale: babel.Locale) -> dates.DateTimePattern:
    """Hours, minutes and seconds with the part of the day, which is spelt out (BBBB)."""
    return dates.parse_pattern(str(locale.datetime_skeletons["Bhms"]).replace("B", "BBBB"))


def _price(bits: int, choices: _Choices) -> tuple[str, int]:
    """A currency and an amount below a thousand, in hundredths."""
    bits, currency = divmod(bits, len(choices.currencies))
    return choices.currencies[currency], 1 + bits % 99_999


def _write_price(value: tuple[str, int], language: Language) -> str:
    currency, hundredths = value
    amount = Decimal(hundredths) / 100
    return num2words.num2words(amount, lang=language.code, to="currency", currency=currency)


def _quantity(bits: int, choices: _Choices) -> tuple[str, int]:
    """A unit and an amount below a thousand, whole or not, in tenths."""
    bits, unit = divmod(bits, len(choices.units))
    bits, whole = divmod(bits, 2)
    return choices.units[unit], 10 * (1 + bits % 999) if whole else 1 + bits % 9_999


def _write_quantity(value: tuple[str, int], language: Language) -> str:
    unit, tenths = value
    return units.format_unit(Decimal(tenths) / 10, unit, locale=language.locale)


KINDS = {
    "numbers": Kind(_number, _write_number),
    "dates": Kind(_date, _write_date),
    "times": Kind(_time, _write_time),
    "prices": Kind(_price, _write_price),
    "quantities": Kind(_quantity, _write_quantity),
}


class Phrases:
    """One split, endless: example i is a function of the seed and i alone.

    Attributes:
      unlimited: whether examples never end.
      kinds: which kinds both languages have.
    """

    def __init__(
        self, split: str, source: Language, target: Language, *, seed: int, size: int | None = None
    ):
        self.unlimited = size is None
        self._split = split
        self._languages = source, target
        self._seed = seed
        self._size = _LENGTH if size is None else size
        self._choices = _Choices(
            *(tuple(sorted(a & b)) for a, b in zip(source[2:], target[2:], strict=True))
        )
        self.kinds = tuple(kind for kind in KINDS if self._has(kind))

    def __len__(self) -> int:
        return self._size

    def __getitem__(self, i: int) -> Pair:
        if not 0 <= i < self._size:
            raise IndexError(f"phrase {i} of {self._size}")
        kind, value = self.value(i)
        source, target = (KINDS[kind].write(value, language) for language in self._languages)
        return Pair(source, target, kind)

    def value(self, i: int) -> tuple[str, Any]:
        """The kind of example i, and the value that is said."""
        attempt = 0
        while True:
            bits, kind = divmod(_bits(self._seed, self._split, i, attempt), len(self.kinds))
            kind = self.kinds[kind]
            value = KINDS[kind].draw(bits, self._choices)
            if split_of(kind, value) == self._split:
                return kind, value
            attempt += 1

    def _has(self, kind: str) -> bool:
        """Whether both languages can say some values of a kind, without any of them failing."""
        try:
            for i in range(_PROBES):
                value = KINDS[kind].draw(_bits(0, kind, i, 0), self._choices)
                for language in self._languages:
                    KINDS[kind].write(value, language)
        # num2words raises whatever its unfinished languages run into.
        except Exception:
            return False
        return True


def split_of(kind: str, value: Any) -> str:
    """The split that a value belongs to, whatever the languages and the seed."""
    if kind == "numbers" and value < _ALWAYS_LEARNT:
        return "train"
    place = _bits(kind, value) % _HELD_OUT_SHARE
    return {0: "validation", 1: "test"}.get(place, "train")


def _bits(*parts: Any) -> int:
    """256 random bits, the same everywhere."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest())


def load(config, *, report: Callable[[str], None] = lambda message: None) -> dict[str, Phrases]:
    """The splits 'train', which has no end, 'validation' and 'test'.

    Args:
      config: source_language, target_language, seed, validation_size, test_size.
      report: is told which kinds of phrases a language lacks.

    Raises:
      UserError: for a language that a package lacks, or twice the same one, or an empty split.
    """
    source, target = (
        _language(config, option) for option in ("source_language", "target_language")
    )
    refuse_equal(source.code, target.code)
    splits = {"train": Phrases("train", source, target, seed=config.seed)}
    for split in ("validation", "test"):
        size = config[f"{split}_size"]
        if size < 1:
            raise UserError(f"config.data.{split}_size: {size} leaves nothing to judge; set more")
        splits[split] = Phrases(split, source, target, seed=config.seed, size=size)
    kinds = splits["train"].kinds
    missing = [kind for kind in KINDS if kind not in kinds]
    if missing:
        report(
            f"data: no {' or '.join(missing)}, which the packages can't say in both {source.code} "
            f"and {target.code}"
        )
    return splits


def _language(config, option: str) -> Language:
    code = config[option]
    try:
        converter, locale = num2words.CONVERTER_CLASSES[code], babel.Locale.parse(code)
    except (KeyError, ValueError, babel.UnknownLocaleError) as error:
        raise UserError(
            f"config.data.{option}: no phrases in '{code}'; choose from {', '.join(languages())}"
        ) from error
    forms = getattr(converter, "CURRENCY_FORMS", {})
    return Language(
        code,
        locale,
        frozenset(currency for currency in _CURRENCIES if currency in forms),
        frozenset(unit for unit in _UNITS if units.get_unit_name(unit, locale=locale)),
    )


def languages() -> list[str]:
    """The codes of the languages that both packages know."""
    known = set(babel.localedata.locale_identifiers())
    return sorted(code for code in num2words.CONVERTER_CLASSES if code in known)
