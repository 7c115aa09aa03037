"""Captioned scenes of coloured shapes, drawn on demand: the embedded default data.

A scene is one group of one to three equal shapes, or two groups of which one stands to the left
of, to the right of, above or below the other. Example i of a split is a pure function of (seed,
split, i), so the data needs no disk, never repeats and can be read from any place by any process.

The language is small on purpose, and every caption can be checked: `is_true` parses a caption and
holds it to the description of the scene. The parser has its own grammar, so that it judges what a
model writes, in whatever words, and not whether the generator below could have written it.

Lengths are in units of 1/48 of the picture's side (`SIDE`), x to the right and y downwards.
"""

import functools
import itertools
import math
import operator
import re
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from seqgan_jax.errors import UserError

SIDE = 48.0
COLOURS = {
    "red": (225, 45, 40),
    "green": (40, 170, 60),
    "blue": (40, 100, 240),
    "yellow": (240, 215, 45),
    "purple": (165, 55, 200),
    "white": (242, 242, 242),
}
SHAPES = ("circle", "square", "triangle", "cross")
RADII = {"small": 4.0, "large": 7.0}
# A left of B is B right of A; groups[0] is `relation` groups[1].
INVERSE = {"left": "right", "right": "left", "above": "below", "below": "above"}
KINDS = tuple(itertools.product(RADII, COLOURS, SHAPES))
# Never in train, validation or test, and in every scene of heldout. Sizes are part of them so that
# each colour with each shape is still learnt, in the other size; each colour is held out once.
HELD_OUT = (
    ("large", "blue", "circle"),
    ("small", "red", "square"),
    ("large", "yellow", "triangle"),
    ("small", "green", "cross"),
    ("small", "white", "circle"),
    ("large", "purple", "square"),
)
SEEN = tuple(kind for kind in KINDS if kind not in HELD_OUT)
CAPTIONS = 5  # per image

_COLOUR_JITTER = 13.0  # of 255, uniform, per channel and group
_JITTER = 0.2  # of each shape's position, uniform, per axis
_GAP = 1.4  # least distance between two shapes' boxes within a group
_MARGIN = 5.0  # least distance between the boxes of two groups along their relation's axis
_EDGE = 1.0  # least distance from the picture's border
_MAX_SLOPE = 1 / 3  # offset of two groups' centres across the relation's axis over that along it

# Where a group's members may stand, (x, y) in units of the distance between neighbours. Any two
# differ by at least 1 in x or in y: their boxes are disjoint whatever the shape.
_ARRANGEMENTS = {
    1: (((0.0, 0.0),),),
    2: (
        ((-0.5, 0.0), (0.5, 0.0)),
        ((0.0, -0.5), (0.0, 0.5)),
        ((-0.5, -0.5), (0.5, 0.5)),
        ((-0.5, 0.5), (0.5, -0.5)),
    ),
    3: (
        ((-1.0, 0.0), (0.0, 0.0), (1.0, 0.0)),
        ((0.0, -1.0), (0.0, 0.0), (0.0, 1.0)),
        ((0.0, -0.5), (-0.5, 0.5), (0.5, 0.5)),
        ((-0.5, -0.5), (0.5, -0.5), (0.0, 0.5)),
    ),
}


@dataclass(frozen=True)
class Group:
    """Equal shapes that stand together.

    Attributes:
      count: 1 to 3.
      size: 'small' or 'large'.
      colour: a key of `COLOURS`.
      shape: one of `SHAPES`.
      radius: half the side of each shape's bounding box.
      rgb: the colour as drawn, 0 to 255.
      centres: `count` pairs (x, y), the centres of the bounding boxes.
    """

    count: int
    size: str
    colour: str
    shape: str
    radius: float
    rgb: tuple[float, float, float]
    centres: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Scene:
    """One or two groups on a plain background.

    Attributes:
      groups: two groups differ in colour or shape.
      relation: 'left', 'right', 'above' or 'below': where groups[0] stands as seen from
        groups[1]; None for one group.
      background: its colour, 0 to 255.
    """

    groups: tuple[Group, ...]
    relation: str | None
    background: tuple[float, float, float]


# Drawing a scene


def _pick(options, u):
    """The option that the uniform number u falls on."""
    return options[int(u * len(options))]


def _extent(arrangement, axis, radius):
    """Length of a group's box along an axis, jitter included."""
    spread = [offset[axis] for offset in arrangement]
    pitch = 2 * (radius + _JITTER) + _GAP
    return (max(spread) - min(spread)) * pitch + 2 * (radius + _JITTER)


@functools.cache
def _fitting(counts, sizes, axis):
    """Pairs of arrangements for two groups of the given counts and sizes that fit along `axis`."""
    room = SIDE - 2 * _EDGE - _MARGIN + 1e-9
    radii = [RADII[size] for size in sizes]
    return tuple(
        pair
        for pair in itertools.product(*(_ARRANGEMENTS[count] for count in counts))
        if sum(_extent(a, axis, r) for a, r in zip(pair, radii, strict=True)) <= room
    )


def _between(low, high, u):
    return low + (high - low) * u


def _place_one(arrangement, radius, uniform):
    """A centre for a group that is alone."""
    reach = [_EDGE + _extent(arrangement, axis, radius) / 2 for axis in (0, 1)]
    return [[_between(r, SIDE - r, uniform()) for r in reach]]


def _place_two(arrangements, radii, axis, uniform):
    """Centres for two groups, the first at lower coordinates along `axis`."""
    along = [_extent(a, axis, r) for a, r in zip(arrangements, radii, strict=True)]
    spare = SIDE - 2 * _EDGE - _MARGIN - sum(along)
    before, upto = sorted((uniform() * spare, uniform() * spare))
    first = _EDGE + before + along[0] / 2
    second = _EDGE + upto + along[0] + _MARGIN + along[1] / 2

    reach = [_EDGE + _extent(a, 1 - axis, r) / 2 for a, r in zip(arrangements, radii, strict=True)]
    # The longer group goes first: wherever it stands, the shorter one fits beside it.
    longer = int(reach[1] > reach[0])
    across = [0.0, 0.0]
    across[longer] = _between(reach[longer], SIDE - reach[longer], uniform())
    slack, other = _MAX_SLOPE * (second - first), 1 - longer
    across[other] = _between(
        max(reach[other], across[longer] - slack),
        min(SIDE - reach[other], across[longer] + slack),
        uniform(),
    )
    points = zip((first, second), across, strict=True)
    return [[a, c] if axis == 0 else [c, a] for a, c in points]


def _members(arrangement, centre, radius, uniform):
    pitch = 2 * (radius + _JITTER) + _GAP
    return tuple(
        tuple(
            c + o * pitch + _JITTER * (2 * uniform() - 1)
            for c, o in zip(centre, offset, strict=True)
        )
        for offset in arrangement
    )


def draw_scene(rng: np.random.Generator, held_out: bool = False) -> Scene:
    """Draws a scene.

    One scene in three has one group, the others have two. Counts, relations and the kinds (size,
    colour, shape) are uniform, but two groups always differ in colour or shape: the second kind is
    uniform among those that differ so from the first.

    Args:
      rng: source of randomness; one call is made to it.
      held_out: whether one group's kind is drawn from `HELD_OUT` and the other's from all kinds,
        rather than both from `SEEN`.
    """
    uniform = iter(rng.random(48).tolist()).__next__
    number = 1 if uniform() < 1 / 3 else 2
    kinds = [_pick(HELD_OUT if held_out else SEEN, uniform())]
    if number == 2:
        options = [kind for kind in (KINDS if held_out else SEEN) if kind[1:] != kinds[0][1:]]
        kinds.append(_pick(options, uniform()))
        if uniform() < 0.5:
            kinds.reverse()
    counts = tuple(_pick((1, 2, 3), uniform()) for _ in kinds)
    sizes = tuple(size for size, _, _ in kinds)
    radii = [RADII[size] for size in sizes]

    relation = None
    if number == 1:
        arrangements = [_pick(_ARRANGEMENTS[counts[0]], uniform())]
        middles = _place_one(arrangements[0], radii[0], uniform)
    else:
        relation = _pick(tuple(INVERSE), uniform())
        axis = int(relation in ("above", "below"))
        arrangements = _pick(_fitting(counts, sizes, axis), uniform())
        order = slice(None, None, 1 if relation in ("left", "above") else -1)
        middles = _place_two(arrangements[order], radii[order], axis, uniform)[order]

    groups = tuple(
        Group(
            count,
            *kind,
            radius,
            tuple(min(255.0, c + _COLOUR_JITTER * (2 * uniform() - 1)) for c in COLOURS[kind[1]]),
            _members(arrangement, middle, radius, uniform),
        )
        for count, kind, radius, arrangement, middle in zip(
            counts, kinds, radii, arrangements, middles, strict=True
        )
    )
    grey = _between(12.0, 60.0, uniform())
    return Scene(groups, relation, tuple(grey + 10 * (uniform() - 0.5) for _ in range(3)))


# Rendering


def _distance(shape, x, y, radius):
    """Signed distance to the shape's outline, negative inside; a lower bound near corners."""
    if shape == "circle":
        return np.sqrt(x * x + y * y) - radius
    x = np.abs(x)
    if shape == "triangle":  # equilateral, its base as wide as the box
        half = math.sqrt(3) / 2 * radius
        return np.maximum(math.sqrt(3) / 2 * x - 0.5 * (y + half), y - half)
    y = np.abs(y)
    if shape == "square":
        return np.maximum(x, y) - radius
    return np.maximum(np.maximum(x, y) - radius, np.minimum(x, y) - 0.36 * radius)


def render(scene: Scene, size: int) -> np.ndarray:
    """Draws a scene as an anti-aliased picture, uint8 [size, size, 3], for a size of 32 or more."""
    scale = size / SIDE
    pad = 2  # a shape's window of pixels may reach over the border, though the shape doesn't
    background = np.array(scene.background, np.float32)
    canvas = np.empty((size + pad, size + pad, 3), np.float32)
    canvas[:] = background
    for group in scene.groups:
        radius = group.radius * scale
        centres = np.array(group.centres, np.float32).T * np.float32(scale)  # [2, n]
        corners = np.floor(centres - radius)
        window = np.arange(math.ceil(2 * radius) + 1, dtype=np.float32)
        # The middle of pixel k is at k + 1/2; x and y [n, P] are relative to the shape's centre.
        x, y = (corners - centres + 0.5)[:, :, None] + window
        distance = _distance(group.shape, x[:, None, :], y[:, :, None], radius)
        cover = np.minimum(np.maximum(0.5 - distance, 0), 1)
        # Shapes don't overlap, so what each covers of a pixel adds up.
        change = cover[..., None] * (np.array(group.rgb, np.float32) - background)
        for left, top, patch in zip(*corners.astype(int).tolist(), change, strict=True):
            canvas[top : top + len(window), left : left + len(window)] += patch
    return (canvas[:size, :size] + 0.5).astype(np.uint8)


# Captions: the generator's grammar

_NUMBER_WORDS = {"a": 1, "one": 1, "two": 2, "three": 3}
_SIZE_WORDS = {"small": "small", "little": "small", "large": "large", "big": "large"}
_PLURALS = {"circle": "circles", "square": "squares", "triangle": "triangles", "cross": "crosses"}
_PLACES = {
    "left": ("left of",),
    "right": ("right of",),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_WORDINGS = {  # the inverse of both tables of words: meaning -> wordings
    meaning: tuple(word for word, m in table.items() if m == meaning)
    for table in (_NUMBER_WORDS, _SIZE_WORDS)
    for meaning in table.values()
}


def _phrase(group, uniform):
    words = [_pick(_WORDINGS[group.count], uniform())]
    if uniform() < 0.6:
        words.append(_pick(_WORDINGS[group.size], uniform()))
    return " ".join(
        [*words, group.colour, group.shape if group.count == 1 else _PLURALS[group.shape]]
    )


def draw_caption(scene: Scene, rng: np.random.Generator) -> str:
    """Draws a caption of 3 to 12 words, lower case, without punctuation, wholly true of the scene.

    Of two groups, 70 % of the captions state the relation, 15 % list both, 15 % speak of one. There
    are few ways to say the same thing, so that most of a caption's entropy is in what it says of
    the picture.
    """
    uniform = iter(rng.random(12).tolist()).__next__
    order = 1 if uniform() < 0.5 else -1
    groups = scene.groups[::order]
    verb = "is" if groups[0].count == 1 else "are"
    opening = _pick(("", f"there {verb} ", "a picture of "), uniform())
    kind = uniform()
    first = _phrase(groups[0], uniform)
    if len(groups) == 1 or kind >= 0.85:
        return f"{opening}{first}"
    second = _phrase(groups[1], uniform)
    if kind >= 0.7:
        return f"{opening}{first} and {second}"
    place = _pick(_PLACES[scene.relation if order == 1 else INVERSE[scene.relation]], uniform())
    if uniform() < 0.5:
        return f"{first} {verb} {place} {second}"
    return f"there {verb} {first} {place} {second}"


# Captions: the checker's grammar
#
#   caption  = [opening] phrase {"and" phrase}
#            | [opening] phrase relation phrase
#            | phrase verb relation phrase
#   phrase   = number [size] colour shape
#   verb     = "is" | "are"
#
# It has more openings and relations than the generator.


class Phrase(NamedTuple):
    """What a noun phrase says of a group; size is None where it says nothing of it."""

    count: int
    size: str | None
    colour: str
    shape: str


class Statements(NamedTuple):
    """What a caption says: its phrases, and where the first group stands as seen from the second.

    The relation is None where nothing is said of it.
    """

    phrases: tuple[Phrase, ...]
    relation: str | None


_SINGULARS = {shape: shape for shape in SHAPES} | {many: one for one, many in _PLURALS.items()}
_OPENINGS = (
    "a picture of",
    "an image of",
    "a drawing of",
    "the picture shows",
    "the image shows",
    "we see",
    "i can see",
    "there is",
    "there are",
    "here is",
    "here are",
)
_RELATION_WORDS = {  # a wording stands before any other that it contains
    "to the left of": "left",
    "left of": "left",
    "to the right of": "right",
    "right of": "right",
    "above": "above",
    "over": "above",
    "below": "below",
    "under": "below",
}


def _parse_phrase(text):
    match text.split():
        case number, colour, shape:
            size = None
        case number, size, colour, shape if size in _SIZE_WORDS:
            size = _SIZE_WORDS[size]
        case _:
            return None
    if number not in _NUMBER_WORDS or colour not in COLOURS or shape not in _SINGULARS:
        return None
    return Phrase(_NUMBER_WORDS[number], size, colour, _SINGULARS[shape])


def statements(caption: str) -> Statements | None:
    """Parses a caption; None if it isn't a whole, grammatical caption of known words.

    Number agreement isn't asked for: "two red circle" and "there is two red circles" pass.
    """
    body = " ".join(caption.split())
    start = next((start for start in _OPENINGS if body.startswith(f"{start} ")), "")
    body = body.removeprefix(start)
    parts, relation = body.split(" and "), None
    for wording, meaning in _RELATION_WORDS.items():
        before, found, after = body.partition(f" {wording} ")
        if found:
            if not start:
                before = re.sub(" (is|are)$", "", before)
            parts, relation = (before, after), meaning
            break
    phrases = tuple(_parse_phrase(part) for part in parts)
    return None if None in phrases else Statements(phrases, relation)


def _describes(phrase, group):
    return (
        (phrase.count, phrase.colour, phrase.shape) == (group.count, group.colour, group.shape)
    ) and phrase.size in (None, group.size)


def is_true(caption: str, scene: Scene) -> bool:
    """Whether a caption is grammatical and everything it states is true of the scene.

    A noun phrase is true of a group with exactly its count and all of its attributes. Each noun
    phrase must mean a group of its own ("a red circle and a red circle" needs two such groups),
    and a stated relation must hold between the groups that its phrases mean. What a caption
    leaves out doesn't make it false.
    """
    said = statements(caption)
    if said is None:
        return False
    for meant in itertools.permutations(range(len(scene.groups)), len(said.phrases)):
        relation = scene.relation if meant[0] == 0 else INVERSE[scene.relation]
        groups = [scene.groups[k] for k in meant]
        if said.relation in (None, relation) and all(map(_describes, said.phrases, groups)):
            return True
    return False


# The source of examples

_SPLITS = {  # first example id and greatest length
    "train": (0, 2**30),
    "validation": (2**30, 2**28),
    "test": (2**30 + 2**28, 2**28),
    "heldout": (2**30 + 2**29, 2**28),
}


class Scenes:
    """A split of the scenes: a CaptionSource whose every index is a fresh draw.

    Item i is a dict of `source` (uint8 [image_size, image_size, 3]), `captions` (five strings,
    independent draws that may coincide) and `example_id`.
    """

    unlimited = True

    def __init__(self, split: str, seed: int, length: int, image_size: int):
        self.image_size = image_size
        self._held_out = split == "heldout"
        self._seed = seed
        self._length = length
        self._first_id = _SPLITS[split][0]

    def __len__(self) -> int:
        return self._length

    def _example_id(self, i):
        i = operator.index(i)
        if not 0 <= i < self._length:
            raise IndexError(f"scene {i} of {self._length}")
        return self._first_id + i

    def _draw(self, i):
        # Ids differ between splits, so the splits' streams differ too.
        entropy = np.random.SeedSequence((self._seed, self._example_id(i)))
        rng = np.random.Generator(np.random.Philox(entropy))
        return draw_scene(rng, self._held_out), rng

    def __getitem__(self, i: int) -> dict:
        scene, rng = self._draw(i)
        return {
            "source": render(scene, self.image_size),
            "captions": tuple(draw_caption(scene, rng) for _ in range(CAPTIONS)),
            "example_id": self._example_id(i),
        }

    def scene(self, i: int) -> Scene:
        """The description of scene i, which `is_true` judges captions by."""
        return self._draw(i)[0]

    def image(self, i: int) -> np.ndarray:
        """Scene i at four times the size that the network sees, uint8 [H, W, 3]."""
        return render(self.scene(i), 4 * self.image_size)

    def name(self, i: int) -> str:
        return f"scene {i}"


def load(config, *, progress=None, report=None) -> dict[str, Scenes]:
    """The splits 'train', 'validation', 'test' and 'heldout'.

    Args:
      config: `seed`, `image_size` (pixels), `validation_size` and `test_size` (images; the held-out
        split has `test_size` images too).
      progress: taken as by the other sources, but there is nothing to prepare.
      report: likewise; no image is ever left out.

    Raises:
      UserError: a value is out of range.
    """
    most = _SPLITS["test"][1]
    for option, low, high in (
        ("seed", 0, 2**63 - 1),
        ("image_size", 32, 1024),
        ("validation_size", 1, most),
        ("test_size", 1, most),
    ):
        value = config[option]
        if not isinstance(value, int) or not low <= value <= high:
            raise UserError(
                f"config.data.{option} is {value}: scenes need a whole number, {low} to {high}"
            )
    sizes = {"train": _SPLITS["train"][1], "validation": config.validation_size}
    sizes |= {"test": config.test_size, "heldout": config.test_size}
    return {split: Scenes(split, config.seed, n, config.image_size) for split, n in sizes.items()}
