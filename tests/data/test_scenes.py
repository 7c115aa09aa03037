import colorsys
import itertools
import math
from collections import Counter

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image, ImageDraw
from scipy import ndimage, stats

from seqgan_jax.data import scenes
from seqgan_jax.data.scenes import HELD_OUT, Group, Scene, is_true
from seqgan_jax.errors import UserError

SPLITS = ("train", "validation", "test", "heldout")


def config(**changes):
    values = {"seed": 3, "image_size": 48, "validation_size": 2000, "test_size": 2000}
    return ConfigDict(values | changes)


@pytest.fixture(scope="module")
def splits():
    return scenes.load(config())


def pairs(scene):
    return [(group.colour, group.shape) for group in scene.groups]


def kinds(scene):
    return [(group.size, group.colour, group.shape) for group in scene.groups]


def hue_name(rgb):
    """The colour's everyday name, from its hue and saturation."""
    hue, saturation, _ = colorsys.rgb_to_hsv(*(c / 255 for c in rgb))
    if saturation < 0.15:
        return "white"
    names = {"red": (-20, 20), "yellow": (38, 66), "green": (90, 160), "blue": (205, 235)}
    names["purple"] = (265, 310)
    degrees = (360 * hue + 20) % 360 - 20
    return next((name for name, (low, high) in names.items() if low <= degrees <= high), None)


# Splits


def test_an_example_depends_only_on_seed_split_and_index(splits):
    again = scenes.load(config())
    for split in SPLITS:
        forwards = [splits[split][i] for i in range(20)]
        backwards = [again[split][i] for i in reversed(range(20))][::-1]
        for i, (a, b) in enumerate(zip(forwards, backwards, strict=True)):
            np.testing.assert_array_equal(a["source"], b["source"])
            assert (a["captions"], a["example_id"]) == (b["captions"], b["example_id"])
            np.testing.assert_array_equal(a["source"], scenes.render(splits[split].scene(i), 48))
            assert a["source"].shape == (48, 48, 3)
            assert a["source"].dtype == np.uint8
            assert len(a["captions"]) == 5


def test_seeds_splits_and_indices_give_different_scenes(splits):
    drawn = [
        scenes.load(config(seed=s))[t].scene(i) for s in (3, 4) for t in SPLITS for i in (0, 1)
    ]
    assert len(set(drawn)) == len(drawn)


def test_ids_are_unique_and_small(splits):
    ids = {s: {splits[s][i]["example_id"] for i in (0, 1, len(splits[s]) - 1)} for s in SPLITS}
    assert len(set().union(*ids.values())) == 3 * len(SPLITS)
    assert max(map(max, ids.values())) < 2**31
    most = scenes.load(config(validation_size=2**28, test_size=2**28))
    ends = sorted(
        (most[s][0]["example_id"], most[s][len(most[s]) - 1]["example_id"]) for s in SPLITS
    )
    assert all(a[1] < b[0] for a, b in itertools.pairwise(ends))
    assert ends[-1][1] < 2**31


def test_lengths_and_ends(splits):
    assert [len(splits[s]) for s in SPLITS] == [2**30, 2000, 2000, 2000]
    for i in (-1, 2000):
        with pytest.raises(IndexError):
            splits["test"][i]
    assert splits["train"][np.int64(7)]["captions"] == splits["train"][7]["captions"]
    assert splits["test"].name(17) == "scene 17"
    assert splits["test"].image(17).shape == (192, 192, 3)


def test_progress_and_report_are_taken_and_left_alone():
    def never(*args, **kwargs):
        raise AssertionError

    assert set(scenes.load(config(), progress=never, report=never)) == set(SPLITS)


@pytest.mark.parametrize(
    ("option", "value"),
    [("image_size", 16), ("validation_size", 0), ("test_size", 2**29), ("seed", -1)],
)
def test_bad_options_are_named(option, value):
    with pytest.raises(UserError, match=rf"config\.data\.{option} is {value}"):
        scenes.load(config(**{option: value}))


# Descriptions


def test_held_out_kinds_occur_in_heldout_only(splits):
    found = {split: Counter() for split in SPLITS}
    for split in SPLITS:
        for i in range(2000):
            here = set(kinds(splits[split].scene(i)))
            assert bool(here & set(HELD_OUT)) == (split == "heldout")
            found[split].update(here)
    everything = set(itertools.product(("small", "large"), scenes.COLOURS, scenes.SHAPES))
    assert len(everything) == 48
    assert set(found["heldout"]) == everything
    assert all(set(found[split]) == everything - set(HELD_OUT) for split in SPLITS[:3])
    # Each colour is seen with each shape all the same.
    assert {kind[1:] for kind in found["train"]} == {kind[1:] for kind in everything}
    held = [found["heldout"][kind] for kind in HELD_OUT]  # false alarms: 1 in 1000 seeds
    assert stats.chisquare(held).pvalue > 1e-3


def test_attributes_are_uniform(splits):
    drawn = [splits["train"].scene(i) for i in range(3000)]
    assert all(len(set(pairs(scene))) == len(scene.groups) for scene in drawn)
    groups = [group for scene in drawn for group in scene.groups]
    counts = {
        4: Counter(scene.relation for scene in drawn if scene.relation),
        42: Counter(kind for scene in drawn for kind in kinds(scene)),
        6: Counter((group.count, group.size) for group in groups),
    }
    for number, found in counts.items():  # false alarms: 3 in 1000 choices of the seed
        assert len(found) == number
        assert stats.chisquare(list(found.values())).pvalue > 1e-3


def test_nothing_is_clipped_or_overlaps_and_relations_are_clear(splits):
    for split, i in itertools.product(("train", "heldout"), range(2000)):
        scene = splits[split].scene(i)
        boxes = [(np.array(c), g.radius) for g in scene.groups for c in g.centres]
        assert [len(g.centres) for g in scene.groups] == [g.count for g in scene.groups]
        for centre, radius in boxes:
            assert np.all(centre - radius > 0.99)
            assert np.all(centre + radius < 47.01)
        for (a, p), (b, q) in itertools.combinations(boxes, 2):
            assert np.max(np.abs(a - b)) > p + q + 1
        assert (scene.relation is None) == (len(scene.groups) == 1)
        if scene.relation:
            axis = int(scene.relation in ("above", "below"))
            first, second = scene.groups[:: 1 if scene.relation in ("left", "above") else -1]
            ends = max(c[axis] for c in first.centres) + first.radius
            starts = min(c[axis] for c in second.centres) - second.radius
            assert starts - ends > 4.99


# Pixels


def test_each_shape_has_its_colour_at_its_centre(splits):
    for i in range(150):
        scene = splits["train"].scene(i)
        small, large = splits["train"][i]["source"], splits["train"].image(i)
        for group in scene.groups:
            for x, y in group.centres:
                assert hue_name(small[int(y), int(x)]) == group.colour
                column, row = round(4 * x), round(4 * y)
                patch = large[row - 2 : row + 2, column - 2 : column + 2]
                assert hue_name(patch.mean((0, 1))) == group.colour


def test_relations_hold_for_the_pixels(splits):
    seen = Counter()
    for i in range(400):
        scene = splits["train"].scene(i)
        first, *second = [group.colour for group in scene.groups]
        if not second or second == [first]:
            continue
        picture = splits["train"][i]["source"].astype(float)
        distinct = np.abs(picture - picture[0, 0]).max(-1) > 60
        rows, columns = np.nonzero(distinct)
        names = np.array([hue_name(picture[r, c]) for r, c in zip(rows, columns, strict=True)])
        middles = [
            np.array([columns[names == name].mean(), rows[names == name].mean()])
            for name in (first, *second)
        ]
        dx, dy = middles[0] - middles[1]
        sideways = "left" if dx < 0 else "right"
        assert scene.relation == (sideways if abs(dx) > abs(dy) else "above" if dy < 0 else "below")
        seen[scene.relation] += 1
    assert len(seen) == 4


def test_shapes_can_be_counted_in_the_pixels(splits):
    for i in range(200):
        scene, source = splits["train"].scene(i), splits["train"][i]["source"].astype(float)
        background = np.array(scene.background)
        border = np.concatenate([source[0], source[-1], source[:, 0], source[:, -1]])
        assert np.abs(border - background).max() <= 1
        # Covered by half: at least half as far from the background as the nearest full colour.
        covered = np.abs(source - background).max(-1)
        contrast = ndimage.maximum_filter(covered, 9)
        found = ndimage.label(covered > np.maximum(contrast / 2, 30))[1]
        assert found == sum(group.count for group in scene.groups)


@pytest.mark.parametrize("shape", scenes.SHAPES)
@pytest.mark.parametrize(("radius", "size"), [(3.7, 48), (6.9, 48), (6.9, 100)])
def test_rendering_agrees_with_supersampling(shape, radius, size):
    centre, fine = (17.3, 21.8), 32
    group = Group(1, "large", "white", shape, radius, (255.0,) * 3, (centre,))
    found = scenes.render(Scene((group,), None, (0.0,) * 3), size)[..., 0] / 255

    def corners(*points):
        scale = fine * size / 48
        return [
            tuple(scale * (c + radius * p) - 0.5 for c, p in zip(centre, q, strict=True))
            for q in points
        ]

    mask = Image.new("L", (fine * size, fine * size))
    draw, h = ImageDraw.Draw(mask), math.sqrt(3) / 2
    if shape == "circle":
        draw.ellipse(corners((-1, -1), (1, 1)), fill=255)
    elif shape == "square":
        draw.rectangle(corners((-1, -1), (1, 1)), fill=255)
    elif shape == "triangle":
        draw.polygon(corners((-1, h), (1, h), (0, -h)), fill=255)
    else:
        draw.rectangle(corners((-1, -0.36), (1, 0.36)), fill=255)
        draw.rectangle(corners((-0.36, -1), (0.36, 1)), fill=255)
    expected = np.array(mask, float).reshape(size, fine, size, fine).mean((1, 3)) / 255
    assert np.abs(found - expected).max() < 0.3  # at corners, which the distance rounds off
    assert abs(found.sum() / expected.sum() - 1) < 0.03


# Captions


def test_generated_captions_are_true_varied_and_short(splits):
    words, distinct, two, sized = set(), [], Counter(), Counter()
    for split in ("train", "heldout"):
        for i in range(1200):
            scene, captions = splits[split].scene(i), splits[split][i]["captions"]
            for caption in captions:
                assert is_true(caption, scene), (caption, scene)
                assert 3 <= len(caption.split()) <= 12
                words.update(caption.split())
                said = scenes.statements(caption)
                sized.update(phrase.size is not None for phrase in said.phrases)
                # A relation has one verb, before it or in the opening, and no other opening.
                verbs = len({"is", "are"} & set(caption.split()))
                there = caption.startswith(("there is ", "there are "))
                if said.relation:
                    assert verbs == 1, caption
                    assert there or caption.split()[0] in ("a", "one", "two", "three")
                    assert "picture" not in caption
                else:
                    assert verbs == there, caption
                if scene.relation:
                    two[len(said.phrases), said.relation is not None] += 1
            distinct.append(len(set(captions)))
    assert len(words) == 34
    assert all(word.isalpha() and word.islower() for word in words)
    assert np.mean(distinct) > 4.6
    assert np.mean(np.array(distinct) >= 4) > 0.92
    for found, shares in (  # false alarms: 2 in 1000 choices of the seed
        (two, {(2, True): 0.7, (2, False): 0.15, (1, False): 0.15}),
        (sized, {True: 0.6, False: 0.4}),
    ):
        assert set(found) == set(shares)
        expected = [share * found.total() for share in shares.values()]
        assert stats.chisquare([found[key] for key in shares], expected).pvalue > 1e-3


def test_held_out_kinds_are_never_mentioned_in_training(splits):
    for i in range(1000):
        for caption in splits["train"][i]["captions"]:
            for phrase in scenes.statements(caption).phrases:
                assert (phrase.size, phrase.colour, phrase.shape) not in HELD_OUT


TWO = Scene(
    (
        Group(2, "small", "green", "cross", 4.0, (0, 255, 0), ((8, 8), (8, 18))),
        Group(1, "large", "red", "square", 7.0, (255, 0, 0), ((30, 12),)),
    ),
    "left",
    (0, 0, 0),
)
ONE = Scene(TWO.groups[1:], None, (0, 0, 0))


@pytest.mark.parametrize(
    "caption",
    [
        "two green crosses",
        "there are two little green crosses and one big red square",
        "a red square and two green crosses",
        "the picture shows two small green crosses to the left of a large red square",
        "a large red square is to the right of two small green crosses",
        "two green crosses are left of a red square",
        "two green cross is left of one red squares",  # agreement isn't asked for
    ],
)
def test_true_captions(caption):
    assert is_true(caption, TWO)


@pytest.mark.parametrize(
    "caption",
    [
        "",
        "a",
        "and",
        "there is",
        "a picture of",
        "a square",
        "red square",
        "large red square",
        "a red large square",
        "a large big red square",
        "a red square a red square",
        "a red square and",
        "and a red square",
        "a red square and and two green crosses",
        "a red square and a red square",
        "a red square two green crosses",
        "two green crosses and a red square and a red square",
        "one green cross",
        "three green crosses",
        "two large green crosses",
        "two red crosses",
        "two green squares",
        "A red square",
        "a red square.",
        "the picture shows",
        "the red square",
        "an red square",
        "picture of a red square",
        "a picture of there is a red square",
        "a red square is",
        "a red square is two green crosses",
        "there is a red square is right of two green crosses",
        "a red square is are right of two green crosses",
        "a red square is to the right of",
        "a red square to the right two green crosses",
        "to the right of two green crosses",
        "a red square left of two green crosses",
        "a red square above two green crosses",
        "two green crosses right of a red square",
        "two green crosses left of two green crosses",
        "two green crosses left of a red square left of two green crosses",
        "two green crosses left of a red square and a red square",
        "two green crosses and a red square is right of two green crosses",
        "a red square is right of three green crosses",
        "a red square beside two green crosses",
        "<unk> red square",
    ],
)
def test_false_captions(caption):
    assert not is_true(caption, TWO)


def test_one_group_has_no_relations():
    assert is_true("there is a red square", ONE)
    assert not is_true("a red square above a red square", ONE)
    assert not is_true("a red square and two green crosses", ONE)


# What may be said, written out once more: the oracle lists every true caption of a scene.
OPENINGS = """a picture of|an image of|a drawing of|the picture shows|the image shows|we see
i can see|there is|there are|here is|here are""".replace("\n", "|").split("|")
COUNTS = {1: ("a ", "one "), 2: ("two ",), 3: ("three ",)}
SIZES = {"small": ("", "small ", "little "), "large": ("", "large ", "big ")}
PLACES = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}


def all_true_captions(scene):
    """(captions that an opening may precede, captions that none may precede)."""
    phrases = [
        [
            f"{count}{size}{group.colour} {group.shape}{end}"
            for count in COUNTS[group.count]
            for size in SIZES[group.size]
            for end in ("", "es" if group.shape == "cross" else "s")
        ]
        for group in scene.groups
    ]
    free, bare = set(itertools.chain(*phrases)), set()
    if scene.relation:
        for order, relation in ((1, scene.relation), (-1, OPPOSITE[scene.relation])):
            for a, b in itertools.product(*phrases[::order]):
                free.add(f"{a} and {b}")
                free.update(f"{a} {place} {b}" for place in PLACES[relation])
                bare.update(
                    f"{a} {verb} {place} {b}"
                    for verb in ("is", "are")
                    for place in PLACES[relation]
                )
    return free, bare


def test_every_change_of_a_word_is_judged_as_the_oracle_does(splits):
    # The checker also knows openings and places that the generator doesn't write.
    captions = [c for i in range(300) for c in splits["train"][i]["captions"]]
    places = itertools.chain(*PLACES.values())
    vocabulary = sorted({"beside", "<unk>", *" ".join([*captions, *OPENINGS, *places]).split()})
    rng = np.random.default_rng(0)
    changed, kept_true = 0, 0
    for i in range(40):
        split = splits["heldout" if i % 2 else "train"]
        scene = split.scene(i)
        free, bare = all_true_captions(scene)
        others = [f"{rng.choice(OPENINGS)} {rng.choice(sorted(free))}" for _ in range(2)]
        others += [rng.choice(sorted(bare)) for _ in range(2) if bare]
        for caption in {*split[i]["captions"], *others}:
            words = caption.split()
            variants = [words]
            for k in range(len(words)):
                variants += [[*words[:k], word, *words[k + 1 :]] for word in vocabulary]
                variants += [words[:k], words[:k] + words[k + 1 :], words[: k + 1] + words[k:]]
                variants += [words[k:] + words[:k], [*words, *words[k:]]]
            for variant in variants:
                text = " ".join(variant)
                rests = [text.removeprefix(o + " ") for o in OPENINGS if text.startswith(o + " ")]
                expected = text in bare or any(rest in free for rest in [text, *rests])
                assert is_true(text, scene) == expected, (text, scene)
                changed += variant != words
                kept_true += expected and variant != words
    assert changed > 30_000
    assert kept_true < 0.1 * changed  # the words that matter are caught
