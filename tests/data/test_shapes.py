"""Rendered clips: where things are, what hides what, and that a seed says it all."""

import numpy as np
import pytest

from seqgan_jax.data import shapes
from seqgan_jax.data.shapes import Object, Scene

WHITE, BLACK, RED = (255, 255, 255), (0, 0, 0), (255, 0, 0)


def thing(kind, **changes):
    values = dict(
        kind=kind, digit=0, colour=WHITE, radius=8.0, centre=(16.0, 16.0), velocity=(0.0, 0.0),
        angle=0.0, turn=0.0,
    )  # fmt: skip
    return Object(**values | changes)


def drawn(*things, frames=1, size=64):
    return shapes.draw(Scene(BLACK, things), frames, size)


# Areas in units of the squared radius.
AREAS = {"circle": np.pi, "square": 2.0, "triangle": 3 * 3**0.5 / 4, "cross": 4 * 0.6 * 0.95 - 0.36}


@pytest.mark.parametrize("kind", AREAS)
def test_shapes_cover_their_areas(kind):
    # Soft edges are symmetric: what fades inside is made up for outside, but for corners.
    clip = drawn(thing(kind, angle=0.3), size=128)
    area = clip[0, ..., 0].sum() / 255 / 16  # pixels are a quarter of a unit
    assert area == pytest.approx(64 * AREAS[kind], rel=0.05)


def test_digits_are_their_bitmaps():
    for digit in range(10):
        clip = drawn(thing("digit", digit=digit), size=256)[0, ..., 0]
        # Points of the bitmap are 0.25 radii apart: 16 pixels here.
        points = clip[128 - 48 : 128 + 49 : 16, 128 - 32 : 128 + 33 : 16]
        np.testing.assert_array_equal(points > 127, shapes.DIGITS[digit] > 0)
    assert len({bitmap.tobytes() for bitmap in shapes.DIGITS}) == 10


def test_a_quarter_turn_is_one():
    for kind in shapes.KINDS:
        clip = drawn(thing(kind, digit=2, turn=np.pi / 2), frames=2)
        np.testing.assert_allclose(clip[1].astype(int), np.rot90(clip[0], -1).astype(int), atol=1)


def test_things_bounce_where_a_slow_simulation_does():
    ball = thing("circle", radius=5.0, centre=(24.0, 10.0), velocity=(2.5, -1.25))
    where, speed = np.array(ball.centre), np.array(ball.velocity)
    for time in range(20):
        np.testing.assert_allclose(shapes.place(ball, time), where, atol=0.05)  # steps overshoot
        for _ in range(500):
            where = where + speed / 500
            speed = np.where((where < 5) & (speed < 0) | (where > 27) & (speed > 0), -speed, speed)


def test_later_things_hide_earlier_ones():
    clip = drawn(thing("square"), thing("circle", colour=RED, radius=4.0))
    assert clip[0, 32, 32].tolist() == list(RED)
    clip = drawn(thing("circle", colour=RED, radius=4.0), thing("square"))
    assert clip[0, 32, 32].tolist() == list(WHITE)
    assert clip[0, 0, 0].tolist() == list(BLACK)


def test_scenes_are_functions_of_seed_split_and_number():
    scenes = {(s, p, i): shapes.scene(s, p, i) for s in (0, 1) for p in range(3) for i in range(50)}
    assert len(set(scenes.values())) == len(scenes)
    assert shapes.scene(1, 2, 3) == scenes[1, 2, 3]
    things = [one for scene in scenes.values() for one in scene.objects]
    assert {one.kind for one in things} == set(shapes.KINDS)
    assert {one.digit for one in things} == set(range(10))
    assert {len(scene.objects) for scene in scenes.values()} == {1, 2}
    for one in things:
        assert shapes.SPEEDS[0] - 1e-9 <= np.hypot(*one.velocity) <= shapes.SPEEDS[1] + 1e-9
        for time in range(8):
            x, y = shapes.place(one, time)
            assert one.radius - 1e-9 <= min(x, y)
            assert max(x, y) <= shapes.SIDE - one.radius + 1e-9
