"""Pictures, read back from their files and judged by their pixels."""

import warnings

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.reporting import pictures


@pytest.fixture(autouse=True)
def _no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def solid(colour, height=40, width=40):
    return np.full((height, width, 3), colour, np.uint8)


def read(path):
    return np.asarray(Image.open(path))


def box(mask):
    """First and last row and column where the mask is true."""
    rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
    return rows[0], rows[-1], columns[0], columns[-1]


def test_caption_sheet_has_every_image_over_its_own_text(tmp_path):
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255)]
    captions = ["one", "a caption so long that it needs several lines " * 3, "x" * 90]
    path = tmp_path / "sheet.png"
    sheet = pictures.caption_sheet([solid(c) for c in colours], captions, path, columns=2)
    np.testing.assert_array_equal(read(path), sheet)
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    boxes = [box((sheet == colour).all(-1)) for colour in colours]
    assert boxes[0][:2] == boxes[1][:2]  # side by side
    assert boxes[0][3] < boxes[1][2]
    assert boxes[2][0] > boxes[0][1]  # the second row
    assert boxes[2][2:] == boxes[0][2:]
    ink = (sheet < 128).all(-1)  # black text
    allowed = np.zeros_like(ink)
    for (_, bottom, left, right), limit in zip(
        boxes, [boxes[2][0], boxes[2][0], len(sheet)], strict=True
    ):
        under = (slice(bottom, limit), slice(left, right + 2))
        assert ink[under].any()
        allowed[under] = True
    assert not (ink & ~allowed).any()  # no caption leaves its column
    assert not ink[-20:].any()  # nor the sheet


def ink_of(caption, tmp_path, **options):
    sheet = pictures.caption_sheet(
        [solid((200, 150, 100))], [caption], tmp_path / "c.png", **options
    )
    below = box((sheet == (200, 150, 100)).all(-1))[1] + 1
    return sheet[below:].mean(-1) < 150


def test_dollar_signs_and_broken_formulas_are_drawn_as_they_are(tmp_path):
    bare, dollars = ink_of("a", tmp_path), ink_of("$a$", tmp_path)
    width = [box(ink)[3] - box(ink)[2] for ink in (bare, dollars)]
    assert width[1] > 2 * width[0]
    assert ink_of(r"$\frac{ ^ [red] $$ \x1b \ud800", tmp_path).any()
    assert ink_of("\x1b\x00\ud800 一个", tmp_path).any()


def test_marks_differ_in_shape_not_in_colour_alone(tmp_path):
    inks = [ink_of("same words", tmp_path, verdicts=[v]) for v in (True, False, None)]
    assert len({ink.tobytes() for ink in inks}) == 3
    numpy_verdict = ink_of("same words", tmp_path, verdicts=[np.bool_(True)])
    np.testing.assert_array_equal(numpy_verdict, inks[0])


def test_references_and_scores_add_lines(tmp_path):
    heights = [
        len(ink_of("a", tmp_path, **options))
        for options in ({}, {"references": ["b"]}, {"references": ["b"], "scores": [0.5]})
    ]
    assert heights[0] < heights[1] < heights[2]


@pytest.mark.parametrize("level", [0, 128, 255])
@pytest.mark.parametrize("cell", [(0, 0), (2, 1), (1, 3)])
def test_overlay_is_brightest_where_the_weight_is(level, cell):
    weights = np.full((3, 4), 0.02)
    weights[cell] = 1 - weights.sum()
    lit = pictures.overlay(solid(level, 60, 80), weights)
    assert lit.shape == (180, 240, 3)
    rows, columns = np.nonzero(lit[..., 0] == lit.max())
    assert abs((rows.mean() + 0.5) / 60 - 0.5 - cell[0]) <= 0.5
    assert abs((columns.mean() + 0.5) / 60 - 0.5 - cell[1]) <= 0.5
    # At a cell's centre the interpolation is the cell's own weight.
    a = 0.02 / weights[cell]
    other = (1, 0)
    expected = (1 - a) * 0.3 * level + a * (0.8 * level + 51)
    assert abs(lit[other[0] * 60 + 30, other[1] * 60 + 30, 0] - expected) <= 2


def test_attention_sheet_lights_each_words_place_in_its_panel(tmp_path):
    weights = np.zeros((2, 9))
    weights[0, 2] = weights[1, 6] = 1  # upper right, lower left
    path = tmp_path / "a.png"
    image = solid((128, 128, 128))
    sheet = pictures.attention_sheet(image, ["$up$", "down"], weights, (3, 3), path)
    np.testing.assert_array_equal(read(path), sheet)
    panels = np.array_split(sheet[..., 0].astype(int), 3, axis=1)
    for panel, bright, dark in ((panels[1], (0, -1), (-1, 0)), (panels[2], (-1, 0), (0, -1))):
        rows = np.nonzero((panel < 200).sum(1) > 150)[0]
        columns = np.nonzero((panel[rows] < 200).mean(0) > 0.9)[0]
        inside = panel[rows[0] + 2 : rows[-1] - 2, columns[0] + 2 : columns[-1] - 2]
        assert inside.min() < 45 < 145 < inside.max()
        assert inside[bright] > 145
        assert inside[dark] < 45
    with pytest.raises(ValueError, match="2 words"):
        pictures.attention_sheet(image, ["a", "b"], weights[:1], (3, 3), path)


def points(shift):
    """A line from lower left to upper right over the temperatures 0.5, 1 and 1.5."""
    return [
        (t, Metric(t, 0.01, 9, "nats"), Metric(t + shift, 0.01, 9, "nats")) for t in (0.5, 1, 1.5)
    ]


def test_tradeoff_shows_every_curve_where_it_is(tmp_path):
    path = tmp_path / "t.png"
    both = {"mle": points(0.0), "$gan$": points(0.5)}
    sheet = pictures.tradeoff(both, ("x", "y"), path)
    np.testing.assert_array_equal(read(path), sheet)
    blue = (abs(sheet.astype(int) - (0x0B, 0x5C, 0xAD)) < 60).all(-1)
    red = (abs(sheet.astype(int) - (0xB4, 0x23, 0x18)) < 60).all(-1)
    legend = slice(len(sheet) // 4, None)  # below it, and right of the axis
    rows = [np.nonzero(ink[legend, 100:])[0] for ink in (blue, red)]
    assert rows[1].mean() < rows[0].mean() - 50  # the second one lies higher
    for ink in (blue, red):
        assert ink.sum() > 500
    one = pictures.tradeoff({"mle": points(0.0)}, ("x", "y"), path)
    assert not (abs(one.astype(int) - (0xB4, 0x23, 0x18)) < 60).all(-1).any()


def test_tradeoff_differs_in_marks_and_rings_temperature_one(tmp_path):
    draw = lambda values: pictures.tradeoff(values, ("x", "y"), tmp_path / "t.png").mean(-1) < 160
    first, second = draw({"a": points(0.0)}), draw({"b": points(9.0), "a": points(0.0)})
    assert first.shape == second.shape
    assert (first != second).any()
    ringed = draw({"a": points(0.0)})
    without = draw({"a": [(t + 0.01, x, y) for t, x, y in points(0.0)]})
    assert ringed.sum() > without.sum() + 20


def test_a_path_that_cannot_be_written_is_named(tmp_path):
    with pytest.raises(UserError, match=r"missing/c\.png"):
        pictures.caption_sheet([solid(0)], ["a"], tmp_path / "missing" / "c.png")
