"""Clips of coloured shapes and digits that move, drawn on demand: the embedded default data.

One or two objects move in straight lines before a dark background, bounce off the picture's
edges, and turn; a later one hides an earlier one. Clip i of a split is a pure function of (seed,
split, i), so that clips of other splits were never seen.

Lengths are in units of 1/32 of the picture's side (`SIDE`), x to the right and y downwards; time
is in frames.
"""

from typing import NamedTuple

import numpy as np

SIDE = 32.0
BACKGROUND = (20, 22, 34)
COLOURS = ((230, 60, 50), (60, 120, 240), (245, 205, 60))
KINDS = ("circle", "square", "triangle", "cross", "digit")
RADII = (6.0, 9.0)
SPEEDS = (2.0, 3.5)  # of each object, units a frame
TURNS = 0.25  # radians a frame at most, either way
MOST = 2  # objects
EDGE = 2.0  # width of the border over which an object fades into what lies behind it

# Seven rows of five, from top to bottom.
_DIGITS = (
    "01110100011001110101110011000101110",
    "00100011000010000100001000010001110",
    "01110100010000100010001000100011111",
    "11111000100010000010000011000101110",
    "00010001100101010010111110001000010",
    "11111100001111000001000011000101110",
    "00110010001000011110100011000101110",
    "11111000010001000100010000100001000",
    "01110100011000101110100011000101110",
    "01110100011000101111000010001001100",
)
DIGITS = np.array([[int(c) for c in rows] for rows in _DIGITS], np.float64).reshape(10, 7, 5)


class Object(NamedTuple):
    """Something that moves.

    Attributes:
      kind: one of `KINDS`.
      digit: which, of a digit.
      colour: RGB, 0 to 255.
      radius: of the circle that it turns in.
      centre: (x, y) in frame 0.
      velocity: (x, y) a frame, in frame 0.
      angle: in frame 0, radians.
      turn: radians a frame.
    """

    kind: str
    digit: int
    colour: tuple[int, int, int]
    radius: float
    centre: tuple[float, float]
    velocity: tuple[float, float]
    angle: float
    turn: float


class Scene(NamedTuple):
    """A clip before it is drawn: the background's colour and the objects, the farthest first."""

    background: tuple[int, int, int]
    objects: tuple[Object, ...]


def scene(seed: int, split: int, i: int) -> Scene:
    """Scene i of a split, a pure function of its arguments."""
    bits = np.random.PCG64(np.random.SeedSequence([seed, split, i]))
    # NumPy promises the stability of raw bits, not that of a Generator's methods.
    uniform = lambda low=0.0, high=1.0: low + (high - low) * (int(bits.random_raw()) >> 11) / 2**53
    choose = lambda options: options[int(len(options) * uniform())]
    objects = []
    for _ in range(1 + int(MOST * uniform())):
        radius = uniform(*RADII)
        direction, speed = uniform(0, 2 * np.pi), uniform(*SPEEDS)
        objects.append(
            Object(
                kind=choose(KINDS),
                digit=int(10 * uniform()),
                colour=choose(COLOURS),
                radius=radius,
                centre=(uniform(radius, SIDE - radius), uniform(radius, SIDE - radius)),
                velocity=(speed * np.cos(direction), speed * np.sin(direction)),
                angle=uniform(0, 2 * np.pi),
                turn=uniform(-TURNS, TURNS),
            )
        )
    return Scene(BACKGROUND, tuple(objects))


def place(thing: Object, time: float) -> tuple[float, float]:
    """Where an object's centre is: reflected wherever its circle would leave the picture."""
    low, range_ = thing.radius, SIDE - 2 * thing.radius
    where = []
    for start, speed in zip(thing.centre, thing.velocity, strict=True):
        unfolded = (start + speed * time - low) % (2 * range_)
        where.append(low + min(unfolded, 2 * range_ - unfolded))
    return where[0], where[1]


def draw(what: Scene, frames: int, size: int) -> np.ndarray:
    """Draws a scene, with edges as soft as a lens leaves them.

    Returns:
      uint8 [frames, size, size, 3].
    """
    pixel = SIDE / size
    grid = (np.arange(size) + 0.5) * pixel
    clip = np.empty((frames, size, size, 3))
    clip[:] = what.background
    for thing in what.objects:
        for time in range(frames):
            x, y = place(thing, time)
            angle = thing.angle + thing.turn * time
            dx, dy = grid - x, (grid - y)[:, None]
            u = np.cos(angle) * dx + np.sin(angle) * dy
            v = np.cos(angle) * dy - np.sin(angle) * dx
            inside = _inside(thing, u / thing.radius, v / thing.radius) * thing.radius
            cover = np.clip(inside / max(EDGE, pixel) + 0.5, 0, 1)[..., None]
            clip[time] += cover * (np.array(thing.colour) - clip[time])
    return np.round(clip).astype(np.uint8)


def _inside(thing: Object, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """About how far each point lies inside an object, negative outside, in units of its radius."""
    if thing.kind == "circle":
        return 1 - np.hypot(u, v)
    if thing.kind == "square":
        return 0.5**0.5 - np.maximum(abs(u), abs(v))
    if thing.kind == "triangle":
        return 0.5 - np.maximum(v, abs(u) * 0.75**0.5 - v / 2)
    if thing.kind == "cross":
        long, short = 0.95, 0.3
        bars = [np.maximum(abs(a) - long, abs(b) - short) for a, b in ((u, v), (v, u))]
        return -np.minimum(*bars)
    return _inside_digit(DIGITS[thing.digit], u, v)


def _inside_digit(bitmap: np.ndarray, u: np.ndarray, v: np.ndarray) -> np.ndarray:
    """Between the bitmap's points it is interpolated; they are 0.25 apart, strokes thick."""
    step = 0.25
    rows, columns = np.clip(v / step + 3, -1, 7), np.clip(u / step + 2, -1, 5)
    padded = np.pad(bitmap, 1)
    r, c = np.floor(rows).astype(int), np.floor(columns).astype(int)
    a, b = rows - r, columns - c
    r, c = r + 1, c + 1
    below, right = np.minimum(r + 1, 8), np.minimum(c + 1, 6)
    top = (1 - b) * padded[r, c] + b * padded[r, right]
    bottom = (1 - b) * padded[below, c] + b * padded[below, right]
    return ((1 - a) * top + a * bottom - 0.35) * step
