"""What the video task says of clips with holes, of hand-made fills and of a user's own clips."""

import fractions
import itertools
import json
import runpy
from pathlib import Path

import av
import jax
import numpy as np
import pytest
from PIL import Image

from seqgan_jax.data import holes
from seqgan_jax.data import video as data
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation import judges
from seqgan_jax.evaluation import video as metrics
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.models import build
from seqgan_jax.reporting import clips
from seqgan_jax.tasks.video import Video, window_starts
from seqgan_jax.training import phases

ROOT = Path(__file__).parents[2]
VARIANTS = ("default", "smoke", "files", "image", "large")


class Told:
    """A display that remembers what it was told."""

    def __init__(self):
        self.messages = []

    def message(self, text):
        self.messages.append(text)

    def track(self, items, total, description):
        self.messages.append(f"{description}, {total}")
        return items


def config_of(variant, **changes):
    config = runpy.run_path(str(ROOT / "configs" / "video.py"))["get_config"](variant)
    config.update_from_flattened_dict(changes)
    return config


def task_of(folder, **changes):
    plain = {"codec.reference": "none", "hole.alike": 0.0}
    config = config_of("smoke", **plain | changes)
    config.data.update(train_size=20, validation_size=6, test_size=24)
    told = Told()
    return Video(config.lock(), folder, told), told


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SEQGAN_JAX_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def judged(monkeypatch):
    """What the fresh judge is given."""
    given = []

    def judge(real, generated, *, vocabulary_size, **_):
        assert max(real.max(), generated.max()) < vocabulary_size
        given.append([real.tolist(), generated.tolist()])
        figure = Metric(0.5, 0.1, 20, "0-1")
        return judges.Verdict(figure, figure)

    monkeypatch.setattr(judges, "real_or_generated", judge)
    return given


CHANGES = {
    "box": {},
    "levels": {"codec.levels": 2},
    "linear": {"codec.reference": "linear"},
    "mean": {"codec.reference": "mean"},
    "kinds": {"hole.kinds": ("frames", "patches"), "hole.evaluated": "patches"},
}


@pytest.fixture(scope="module", params=CHANGES)
def task(request, tmp_path_factory):
    return task_of(tmp_path_factory.mktemp(request.param), **CHANGES[request.param])[0]


@pytest.fixture(scope="module")
def box(tmp_path_factory):
    return task_of(tmp_path_factory.mktemp("run"))[0]


def sample_of(rows):
    tokens = np.array(rows, np.int32)
    log_probs = -1.0 - np.arange(len(tokens))
    return Sample(tokens, np.ones(tokens.shape), log_probs, np.full(len(tokens), 0.25))


def true_sample(task, split, i, count=1):
    return sample_of([task.splits[split][i]["captions"][0]] * count)


# What the networks see


def test_pixels_of_the_hole_never_reach_the_networks(task):
    rng = np.random.default_rng(0)
    for i in range(8):
        split = task.splits[("train", "test")[i % 2]]
        clip, hole = split.clip(i), split.hole(i)
        mask = holes.to_pixels(hole, task.patch)
        assert 0 < mask.sum() < mask.size
        noise = rng.integers(0, 256, clip.shape).astype(np.uint8)
        other = np.where(mask[..., None], noise, clip)
        jax.tree.map(
            np.testing.assert_array_equal, task.source(clip, hole), task.source(other, hole)
        )
        # Any visible pixel does.
        t, y, x = rng.permutation(np.argwhere(~mask))[0]
        other = clip.copy()
        other[t, y, x] ^= 255
        assert (task.source(other, hole)["clip"] != task.source(clip, hole)["clip"]).any()


def test_a_source_is_the_visible_clip_and_where_it_is_not(task):
    example = task.splits["test"][3]
    clip, hole = task.splits["test"].clip(3), task.splits["test"].hole(3)
    mask = holes.to_pixels(hole, task.patch)
    seen, t = example["source"]["clip"], task.patch[0]
    assert seen.dtype == np.uint8
    for frame in range(len(clip)):
        channels = seen[frame // t][..., 4 * (frame % t) : 4 * (frame % t) + 4]
        np.testing.assert_array_equal(channels[..., 3], 255 * mask[frame])
        np.testing.assert_array_equal(channels[~mask[frame]][:, :3], clip[frame][~mask[frame]])
    missing = np.flatnonzero(hole).tolist()
    assert example["source"]["places"][: len(missing)].tolist() == missing


def test_a_target_is_the_codes_of_the_missing_patches(task):
    split, levels = task.splits["test"], task.codec.quantiser.levels
    clip, hole = split.clip(2), split.hole(2)
    reference = np.zeros(clip.shape)
    if task._config.codec.reference == "linear":
        reference = metrics.interpolate(clip, holes.to_pixels(hole, task.patch))
    elif task._config.codec.reference == "mean":
        reference = task.guess(clip, hole)
    codes = split[2]["captions"][0].reshape(-1, levels)
    t, h, w = task.patch
    _, rows, columns = task.grid
    for place, written in zip(split[2]["source"]["places"], codes, strict=True):
        s, y, x = place // (rows * columns), place // columns % rows, place % columns
        block = (clip - reference)[s * t : s * t + t, y * h : y * h + h, x * w : x * w + w]
        expected = task.codec.encode(block.astype(np.float32).reshape(1, -1) / 255)
        np.testing.assert_array_equal(written, expected)
    assert len(codes) * levels == task.length
    # Filled with its own codes, it is what the codec leaves of it, and the rest is as it was.
    filled = task.fill(clip, hole, codes.ravel())
    mask = holes.to_pixels(hole, task.patch)
    np.testing.assert_array_equal(filled[~mask], clip[~mask])
    count = int(hole.sum())
    places = split[2]["source"]["places"][:count]
    decoded = task.codec.decode(codes.ravel())[:count] * 255
    for place, vector in zip(places, decoded, strict=True):
        s, y, x = place // (rows * columns), place // columns % rows, place % columns
        area = slice(s * t, s * t + t), slice(y * h, y * h + h), slice(x * w, x * w + w)
        wanted = np.clip(reference[area] + vector.reshape(t, h, w, 3), 0, 255)
        np.testing.assert_allclose(filled[area], wanted, atol=0.51)
    with pytest.raises(UserError, match=r"^--length: .* missing patches; leave it out"):
        task.fill(clip, hole, codes.ravel()[:levels])


def test_batches_are_functions_of_seed_and_number_with_new_holes_each_epoch(box):
    batch = next(box.training_batches(batch_size=8, targets=1, seed=0, start=3))
    again = next(box.training_batches(batch_size=8, targets=1, seed=0, start=3))
    jax.tree.map(np.testing.assert_array_equal, batch, again)
    for name, leaf in box.template().items():
        other = batch[name]
        assert jax.tree.structure(leaf) == jax.tree.structure(other)
        for ours, theirs in zip(jax.tree.leaves(leaf), jax.tree.leaves(other), strict=True):
            assert (ours.shape[1:], ours.dtype) == (theirs.shape[1:], theirs.dtype)
    assert batch["mask"].all()
    train = box.splits["train"]
    epochs = [[train.clip(20 * epoch + i).tobytes() for i in range(20)] for epoch in range(2)]
    assert sorted(epochs[0]) == sorted(epochs[1])
    assert epochs[0] != epochs[1]
    of_one = [train.hole(20 * e + epochs[e].index(epochs[0][0])).tobytes() for e in range(2)]
    assert train.hole(5).tobytes() == train.hole(5).tobytes()
    assert len({train.hole(i).tobytes() for i in range(40)}) > 10 or of_one[0] != of_one[1]
    test = box.splits["test"]
    assert {int(test.hole(i).sum()) for i in range(24)} == {box.length}
    pairs = next(box.pairs("test", batch_size=4, limit=4))
    np.testing.assert_array_equal(pairs["target"][2], test[2]["captions"][0])
    with pytest.raises(UserError, match="has no end"):
        next(box.pairs("train", batch_size=4, limit=None))


def test_a_share_of_the_holes_to_learn_from_is_like_those_of_evaluation(tmp_path):
    task, _ = task_of(tmp_path, **{"hole.alike": 0.75, "data.frames": 8})
    train = task.splits["train"]
    found = [train.hole(i) for i in range(400)]
    like = [h.sum() == task.length and h.any((1, 2)).tolist() == [0, 1, 1, 0] for h in found]
    # The others are so in less than half of all cases, too; 5 standard errors.
    error = 5 * 0.5 / 400**0.5
    assert 0.75 - error < np.mean(like) < 0.75 + 0.25 / 2 + error
    test = task.splits["test"]
    assert all(test.hole(i).any((1, 2)).tolist() == [0, 1, 1, 0] for i in range(24))


def test_the_mean_of_a_training_example_is_found_once(tmp_path, monkeypatch):
    task, told = task_of(tmp_path, **{"codec.reference": "mean"})
    train = task.splits["train"]
    assert (len(train), train.unlimited) == (task._config.codec.mean.examples, False)
    for i in (0, 21, 31):
        fresh = task.source(train.clip(i), train.hole(i))
        known = train[i]["source"]
        np.testing.assert_array_equal(known["places"], fresh["places"])
        # Clips that are filled together may be rounded otherwise.
        far = known["clip"].astype(int) - fresh["clip"]
        assert np.abs(far).max() <= 1
        guess = task.guess(train.clip(i), train.hole(i))
        wanted = task.codec.encode(task.vectors(train.clip(i), train.hole(i), guess)).ravel()
        assert np.mean(train[i]["captions"][0] == wanted) > 0.9
    assert len({train.hole(i).tobytes() for i in range(32)}) > 4
    assert sum("filling clips with the mean" in text for text in told.messages) == 1
    # The same of clips that the model is judged by.
    test = task.splits["test"]
    assert len(test) == 24
    mean = test.mean(3, test.clip(3), test.hole(3))
    far = mean - task.guess(test.clip(3), test.hole(3))
    assert np.abs(far).max() <= 1
    tokens = test[3]["captions"][0]
    filled = [task.fill(test.clip(3), test.hole(3), tokens, known) for known in (mean, None)]
    assert np.abs(filled[0].astype(int) - filled[1]).max() <= 1
    monkeypatch.setattr(task, "_filler", None)
    assert task.splits["train"][5]["captions"][0].shape == (task.length,)


def test_more_examples_find_means_of_their_own(tmp_path):
    for count in (8, 12):
        changes = {"codec.reference": "mean", "codec.mean.examples": count, "codec.size": 8}
        task, _ = task_of(tmp_path / f"{count}", **changes)
        assert task.splits["train"][count - 1]["captions"][0].shape == (task.length,)


def test_mirrored_clips_are_half_of_those_to_learn_from(tmp_path):
    task, _ = task_of(tmp_path, **{"data.flip": True})
    train = task.splits["train"]
    own = {task._windows["train"][i].tobytes() for i in range(20)}
    mirrored = {task._windows["train"][i][:, :, ::-1].tobytes() for i in range(20)}
    kept = [train.clip(i).tobytes() in own for i in range(200)]
    assert all(train.clip(i).tobytes() in own | mirrored for i in range(200))
    # A fair coin's share lies within 5 standard errors but for one time in a million.
    assert abs(np.mean(kept) - 0.5) < 5 * 0.5 / 200**0.5
    assert task.splits["test"].clip(0).tobytes() == task._windows["test"][0].tobytes()


def test_writing_needs_no_clips(box, monkeypatch):
    folder = box._folder.parent
    (folder / "config.json").write_text("{}")
    monkeypatch.setattr(data, "load", None)
    again, _ = task_of(folder)
    assert again.template()["source"]["clip"].shape == (1, 2, 16, 16, 8)
    (folder / "config.json").unlink()


# Figures


def test_figures_are_what_hand_made_fills_deserve(box, judged):
    own = [true_sample(box, "test", i, 2) for i in range(12)]
    found = box.evaluate("test", own, None, thorough=True)
    clips_, hidden = box._truths("test", 12)
    errors = []
    for clip, hole, sample in zip(clips_, hidden, own, strict=True):
        mask = holes.to_pixels(hole, box.patch)
        filled = box.fill(clip, hole, sample.tokens[0])
        errors.append(np.mean((filled[mask].astype(float) - clip[mask]) ** 2))
    assert found["psnr"].value == pytest.approx(10 * np.log10(255**2 / np.mean(errors)))
    off = 10 * abs(np.log10(found["sharpness"].value))
    assert found["quality_diversity"].value == pytest.approx(found["psnr"].value - off)
    assert found["sample_distance"].value == 0
    tokens = [sample.tokens[0].tolist() for sample in own]
    assert judged == [[tokens, tokens]]
    others = [true_sample(box, "test", (i + 1) % 12) for i in range(12)]
    worse = box.evaluate("test", others, None, thorough=False)
    assert worse["psnr"].value < found["psnr"].value - 1
    assert "judge_accuracy" not in worse
    assert set(box.shown) <= set(worse)
    assert set(box.beam) <= set(worse)


def test_fills_that_learn_nothing_are_compared(box, judged):
    columns, lines = box.comparisons("test", 20, 2)
    assert list(columns) == [*metrics.FILLS, "the truth, coded"]
    clips_, hidden = box._truths("test", 20)
    masks = box._pixels(hidden)
    filled = [
        metrics.blend(c, m, metrics.interpolate(c, m)) for c, m in zip(clips_, masks, strict=True)
    ]
    expected = metrics.figures(filled, clips_, masks)
    for name, figure in expected.items():
        assert columns["linear in time"][name] == figure
    rows = box._real("test", 0, 20).tolist()
    assert judged == [[rows[10:], rows[:10]]]
    assert "judge_accuracy" in columns["the truth, coded"]
    assert lines[0].startswith("codec: 5.0 bits for a patch of 2 x 4 x 4, ")


def test_a_single_clip_is_compared_without_a_judge(box):
    columns, _ = box.comparisons("test", 1, 2)
    assert "judge_accuracy" not in columns["the truth, coded"]
    assert columns["linear in time"]["psnr"].value > 0


def test_strips_and_moving_pictures_are_written(box, tmp_path):
    samples = [true_sample(box, "validation", i) for i in range(2)]
    drawn = box.illustrate(tmp_path / "x", "validation", samples, None)
    names = {path.name for path in (tmp_path / "x").iterdir()}
    assert names == {"1.png", "1.gif", "2.png", "2.gif", "video.json"}
    assert set(drawn) == {"1"}
    rows = json.loads((tmp_path / "x" / "video.json").read_text())
    assert [row["clip"] for row in rows] == [
        "clip at frame 0 of 'validation'",
        "clip at frame 4 of 'validation'",
    ]
    figures = [box.evaluate("validation", samples[:1], None, thorough=False), None]
    assert rows[0]["psnr"] == pytest.approx(figures[0]["psnr"].value, abs=0.01)
    with Image.open(tmp_path / "x" / "1.gif") as image:
        assert image.n_frames == 4


# A user's clip


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """20 frames, 40 x 32, of which each is a slope moved on."""
    path = tmp_path_factory.mktemp("film") / "film.mp4"
    y, x = np.mgrid[:32, :40]
    slope = lambda t: np.stack([4 * x + t, 6 * y + t, x + y + 3 * t], -1)
    clips.write(path, (slope(t).astype(np.uint8) for t in range(20)), fractions.Fraction(12))
    return path


def test_windows_cover_the_hole_with_room_around_it():
    assert window_starts((10, 14), 8, 100) == [8]
    assert window_starts((0, 4), 8, 100) == [0]
    assert window_starts((96, 100), 8, 100) == [92]
    assert window_starts((10, 30), 8, 100) == [10, 14, 18, 22]
    assert window_starts((0, 21), 8, 21) == [0, 4, 8, 12, 13]
    for first in range(30):
        for end in range(first + 1, 31):
            starts = window_starts((first, end), 8, 30)
            covered = {t for start in starts for t in range(start, start + 8)}
            assert covered >= set(range(first, end))
            assert covered <= set(range(30))
            assert all(b - a <= 4 for a, b in itertools.pairwise(starts))


def test_a_users_clip_becomes_windows_with_the_hole_marked(box, film, tmp_path):
    names, batch = box.request({"video": [str(film)], "mask": ["4,2,5,5,3,9"]})
    assert names == [f"{film} from frame {start} on" for start in (3, 5)]
    assert batch["source"]["clip"].shape == (2, 2, 16, 16, 8)
    # x 4 .. 9 of 40 is 1.6 .. 3.6 of 16, y 2 .. 7 of 32 is 1 .. 3.5: the first patch of each slot.
    for places in batch["source"]["places"]:
        assert places[:2].tolist() == [0, 16]
    marked = batch["source"]["clip"][0][..., 3] > 0
    np.testing.assert_array_equal(np.argwhere(marked[0])[[0, -1]], [[0, 0], [3, 3]])


@pytest.mark.parametrize(
    "mask", ["50,40,50,40,3,9", "0,30,45,44", "0,0,200,80,2,5", "60,0,90,160,3,5"]
)
def test_nothing_of_a_users_hole_reaches_the_networks(tmp_path, mask):
    """Frames are made smaller, by which a pixel is mixed with those around it."""
    task, _ = task_of(tmp_path, **{"hole.side": 1.0})
    x, y, w, h, first, end = (*map(int, mask.split(",")), 0, 20)[:6]
    frames = np.random.default_rng(0).integers(0, 256, (20, 160, 200, 3), np.uint8)
    sources = []
    for value in (0, 255):
        frames[first:end, y : y + h, x : x + w] = value
        folder = tmp_path / f"{value}"
        folder.mkdir()
        for i, frame in enumerate(frames):
            Image.fromarray(frame).save(folder / f"{i:02}.png")
        sources.append(task.request({"video": [str(folder)], "mask": [mask]})[1]["source"])
    for name, leaf in sources[0].items():
        assert np.ptp(leaf) > 0
        np.testing.assert_array_equal(leaf, sources[1][name])


def test_windows_are_averaged_and_the_rest_is_kept(tmp_path, film):
    task, _ = task_of(tmp_path, **{"hole.side": 0.5, "hole.time": 1.0})
    _, batch = task.request({"video": [str(film)], "mask": ["4,2,10,8,3,9"]})
    assert len(batch["weight"]) == 2
    rng = np.random.default_rng(0)
    rows = rng.integers(0, task.codec.vocabulary.size, (2, 2, task.length))
    paths = task.save(tmp_path / "out.mp4", [sample_of(each) for each in rows])
    assert [path.name for path in paths] == ["out-1.mp4", "out-2.mp4"]
    read = lambda path: [frame for _, frame in data.frames_of(path)]
    for number, path in enumerate(paths):
        with av.open(str(path)) as container:
            assert container.streams.video[0].average_rate == 12
        ours, theirs = np.array(read(path), int), np.array(read(film), int)
        asked = task._requested
        fills = [
            task.fill(small, hole, rows[k][number]).astype(float)
            for k, (small, hole) in enumerate(zip(asked.small, asked.hidden, strict=True))
        ]
        assert asked.starts == [3, 5]
        # Frame 5 is the third of the first window, weight 2, and the first of the second, weight 1.
        mean = np.round((2 * fills[0][2] + 1 * fills[1][0]) / 3).astype(np.uint8)
        wanted = data.resize(mean, 32, 40)[2:10, 4:14].astype(int)
        assert np.abs(ours[5, 4:8, 6:12] - wanted[2:6, 2:8]).mean() < 12  # H.264 loses a little
        far = np.ones((32, 40), bool)
        far[:16, :20] = False
        assert np.abs(ours - theirs)[:, far].mean() < 3
        assert np.abs(ours - theirs)[[0, 1, 2, *range(9, 20)]].mean() < 3
        assert np.abs(ours - theirs)[5, 2:10, 4:14].mean() > 10


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (None, ": none given"),
        ("1,2,3", "must be whole numbers"),
        ("a,b,c,d", "must be whole numbers"),
        ("0,0,0,4", "hides nothing"),
        ("0,0,4,4,5,5", "hides nothing"),
        ("30,0,20,4", "lies outside of film.mp4, which has 40 x 32 pixels and 20 frames"),
        ("0,0,4,4,5,21", "lies outside"),
        ("-1,0,4,4", "lies outside"),
        ("0,0,40,32", "covers everything"),
        ("0,0,30,30", "hides 24 of the 32 patches of 4 frames, and this model fills 4"),
    ],
)
def test_bad_masks_are_refused_in_one_line(box, film, mask, message):
    with pytest.raises(UserError, match=f"^--mask.*{message}") as error:
        box.request({"video": [str(film)], "mask": mask and [mask]})
    assert "\n" not in str(error.value)


def test_bad_clips_are_refused_in_one_line(box, film, tmp_path):
    clips.write(
        tmp_path / "short.mp4", iter([np.zeros((16, 16, 3), np.uint8)]), fractions.Fraction(9)
    )
    cases = [
        (None, "--video: none given"),
        ([str(film)] * 2, "--video: more than one"),
        (["no.mp4"], "--video=no.mp4: there is no such file"),
        ([str(tmp_path / "short.mp4")], "short.mp4: 1 frames are fewer than the 4"),
        ([str(tmp_path / "none")], "none: no pictures in this folder"),
    ]
    (tmp_path / "none").mkdir()
    for video, message in cases:
        with pytest.raises(UserError, match=message):
            box.request({"video": video, "mask": ["0,0,4,4"]})


def test_what_is_never_seen_is_said(tmp_path, film):
    task, told = task_of(tmp_path)
    task.request({"video": [str(film)], "mask": ["0,0,8,8,5,6"]})
    assert not any("hides some places" in text for text in told.messages)
    task.request({"video": [str(film)], "mask": ["0,0,8,8"]})
    assert any("--mask=0,0,8,8: hides some places in all of the 4" in m for m in told.messages)


def test_a_varying_rate_is_said(tmp_path_factory, film):
    folder = tmp_path_factory.mktemp("rate")
    task, told = task_of(folder)
    pictures = [Image.fromarray(np.full((16, 16, 3), 9 * t, np.uint8)) for t in range(6)]
    pictures[0].save(
        folder / "b.gif", save_all=True, append_images=pictures[1:],
        duration=[100, 100, 400, 100, 100, 100],
    )  # fmt: skip
    task.request({"video": [str(folder / "b.gif")], "mask": ["0,0,4,4"]})
    assert any("its frame rate varies; frames are taken as they come" in m for m in told.messages)


def test_what_was_written_is_told(box):
    one = sample_of([[1, 2, 3, 33]])
    assert box.decode(one.tokens[0]) == "4 codes: 1 2 3 1"
    assert box.row("a.mp4 from frame 0 on", one)["fills"][0]["codes"] == [1, 2, 3, 33]
    assert box.describe("a window", one)[1].startswith("  4 codes  (log-probability -1.00, ")
    assert box.prefix("") == ()
    with pytest.raises(UserError, match="--prefix=x: of no use"):
        box.prefix("x")


# Pictures without a source


def test_pictures_have_no_source_and_all_their_codes(tmp_path, judged):
    config = config_of("image")
    config.data.update(image_size=16, train_size=30, validation_size=6, test_size=24)
    config.codec.update(size=32, fitted=30, iterations=5)
    task = Video(config.lock(), tmp_path, Told())
    assert task.template()["source"] is None
    assert task.length == 16
    batch = next(task.training_batches(batch_size=4, targets=1, seed=0, start=0))
    assert batch["source"] is None
    assert batch["target"].shape == (4, 16)
    own = [true_sample(task, "test", i, 2) for i in range(20)]
    whole = task._whole(own[0].tokens[0]).astype(int)
    assert np.abs(whole - task.splits["test"].clip(0)).mean() < 30
    found = task.evaluate("test", own, None, thorough=True)
    assert found["quality_diversity"].value == -found["frechet"].value
    assert found["sample_distance"].value == 0
    assert set(task.shown) <= set(found)
    columns, _ = task.comparisons("test", 20, 2)
    assert list(columns) == ["the same, coded"]
    assert set(task.illustrate(tmp_path / "x", "test", own[:3], None)) == {"samples"}
    names, batch = task.request({})
    assert (names, batch["source"]) == ([""], None)
    paths = task.save(tmp_path / "a.png", [own[0]])
    assert [path.name for path in paths] == ["a-1.png", "a-2.png"]
    with Image.open(paths[0]) as image:
        assert image.size == (96, 96)


# Settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"codec.patch": (2, 4)}, r"config\.codec\.patch: \(2, 4\) must be three whole numbers"),
        ({"data.frames": 5}, r"config\.data\.frames: 5 is no multiple"),
        ({"data.image_size": 18}, r"config\.data\.image_size: 18 is no multiple"),
        ({"codec.reference": "cubic"}, r"config\.codec\.reference: no reference 'cubic'"),
        ({"hole.kinds": (), "codec.reference": "linear"}, "without holes there is none"),
        (
            {"codec.reference": "mean", "data.image_size": 20},
            r"config\.data\.image_size: 20 is no multiple of 8, which",
        ),
        ({"hole.alike": 1.5}, r"config\.hole\.alike: 1\.5 is no share"),
        (
            {"codec.reference": "mean", "codec.mean.examples": 0},
            r"config\.codec\.mean\.examples: 0 leaves none",
        ),
        (
            {"encoder.channels": (8,)},
            r"config\.encoder\.channels: 1 stages look at patches of 2 x 2",
        ),
        ({"hole.evaluated": "disc"}, r"config\.hole\.evaluated: no hole 'disc'"),
        ({"codec.fitted": 0}, r"config\.codec\.fitted: 0 leaves none"),
    ],
)
def test_settings_that_make_no_sense_are_refused(tmp_path, changes, message):
    with pytest.raises(UserError, match=message):
        task_of(tmp_path, **changes)


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_are_whole(variant):
    config = config_of(variant)
    found = phases.parse(config.phases)
    assert [phase.name for phase in found] == list(config.phases.order)
    t, h, w = config.codec.patch
    grid = config.data.frames // t, config.data.image_size // h, config.data.image_size // w
    shape = grid, config.hole.side, config.hole.time
    if config.hole.kinds:
        most = max(holes.largest(kind, *shape) for kind in config.hole.kinds)
        assert 0 < most * config.codec.levels <= 512
        size = config.data.image_size
        source = {"clip": np.zeros((1, grid[0], size, size, 4 * t), np.uint8)}
        source["places"] = np.zeros((1, most), np.int32)
        build.check_encoder(config.encoder, source)
    else:
        build.check_encoder(config.encoder, None)


def test_the_default_hole_is_a_quarter_of_the_picture_in_half_of_the_frames():
    config = config_of("default")
    t, h, w = config.codec.patch
    grid = config.data.frames // t, config.data.image_size // h, config.data.image_size // w
    hole = holes.draw(
        "box",
        grid,
        config.hole.side,
        config.hole.time,
        np.random.default_rng(0).uniform,
        largest=True,
    )
    mask = holes.to_pixels(hole, (t, h, w))
    shares = mask.mean((1, 2))
    assert sorted(shares.tolist()) == [0.0] * 4 + [0.25] * 4
    rows = {
        tuple(np.flatnonzero(frame.any(1))) + tuple(np.flatnonzero(frame.any(0)))
        for frame in mask
        if frame.any()
    }
    assert len(rows) > 1  # it moves
