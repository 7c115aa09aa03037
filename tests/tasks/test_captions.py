"""What the captions task says of hand-made captions and of a user's own images."""

import json
import math
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.data.scenes import is_true
from seqgan_jax.errors import UserError
from seqgan_jax.evaluation.captions import diversity
from seqgan_jax.evaluation.held_out import Sample
from seqgan_jax.evaluation.report import Metric
from seqgan_jax.models import build, efficientnet
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.tasks.captions import Captions
from seqgan_jax.training import phases

ROOT = Path(__file__).parents[2]

COLOURS = ("red", "green", "blue", "yellow", "purple", "white")


@pytest.fixture
def scenes_config(tiny_config):
    tiny_config.data.update(source="scenes", path=None, validation_size=8, test_size=8)
    tiny_config.data.image_size = 32
    return tiny_config


def task_of(config, folder):
    with Progress(quiet=True) as progress:
        return Captions(config, folder, progress)


@pytest.fixture
def task(scenes_config, tmp_path):
    return task_of(scenes_config, tmp_path)


def plain(scene, *, wrong=False):
    """What is seen of the scene's first group, said in the plainest way; or of a colour not there.

    Written from the scene's fields alone.
    """
    group = scene.groups[0]
    there = {g.colour for g in scene.groups}
    colour = next(c for c in COLOURS if c not in there) if wrong else group.colour
    plural = {"cross": "crosses"}.get(group.shape, group.shape + "s")
    number = ("one", "two", "three")[group.count - 1]
    return f"{number} {colour} {group.shape if group.count == 1 else plural}"


def test_true_share_is_what_hand_made_captions_deserve(task):
    scenes = [task.splits["validation"].scene(i) for i in range(4)]
    # 2, 1, 0 and 1 of two captions are true.
    samples = [
        [plain(scenes[0]), plain(scenes[0])],
        [plain(scenes[1]), plain(scenes[1], wrong=True)],
        [plain(scenes[2], wrong=True), "one"],
        ["", plain(scenes[3])],
    ]
    figures = task.judge("validation", samples, thorough=False)
    truth = figures["true_captions"]
    assert (truth.value, truth.n, truth.unit) == (0.5, 4, "share")
    # Images are independent, samples of one are not.
    assert truth.stderr == pytest.approx(np.std([1, 0.5, 0, 0.5], ddof=1) / 2)
    assert "cider_d" not in figures
    # A picture's own captions are not another's.
    moved = task.judge("validation", [samples[1], *samples[:1]], thorough=False)
    wanted = [[is_true(t, s) for t in texts] for texts, s in zip(samples[1::-1], scenes)]  # noqa: B905
    assert moved["true_captions"].value == pytest.approx(np.mean(wanted))


def test_thorough_figures(task):
    references = task.references("test", 6)
    figures = task.judge("test", [texts[:2] for texts in references])
    assert figures["true_captions"].value == 1
    assert figures["rouge_l"].value == pytest.approx(1)
    assert figures["bleu_4"].value == pytest.approx(100)
    known = {word for texts in references for text in texts[:2] for word in text.split()}
    size = len(task.codec.tokens) - 4
    assert figures["vocabulary_used"].value == pytest.approx(len(known) / size)
    training = set(task._training_captions())
    flat = [text for texts in references for text in texts[:2]]
    novel = np.mean([text not in training for text in flat])
    assert figures["novel_captions"].value == pytest.approx(novel)


def test_quality_times_diversity(task):
    """Quality times the ratio of distinct captions to the references', at most 1."""
    scenes = [task.splits["validation"].scene(i) for i in range(8)]
    references = [texts[:3] for texts in task.references("validation", 8)]
    theirs = np.mean([len(set(texts)) / 3 for texts in references])
    assert theirs == diversity(references)["distinct_captions"].value
    same = [[plain(scene)] * 3 for scene in scenes]
    figures = task.judge("validation", same, thorough=False)
    found = figures["quality_diversity"]
    assert found.value == pytest.approx(1 * (1 / 3) / theirs)
    mixed = [[plain(s), plain(s), plain(s, wrong=True)] for s in scenes]
    found = task.judge("validation", mixed, thorough=False)["quality_diversity"]
    assert found.value == pytest.approx(2 / 3 * min(1, (2 / 3) / theirs))
    # More diverse than the references is no better.
    various = [[plain(s), f"there {('is', 'are')[s.groups[0].count > 1]} {plain(s)}",
                f"a picture of {plain(s)}"] for s in scenes]  # fmt: skip
    found = task.judge("validation", various, thorough=False)
    assert found["distinct_captions"].value == 1
    assert found["quality_diversity"].value == found["true_captions"].value == 1
    one = task.judge("validation", [texts[:1] for texts in same], thorough=False)
    assert "quality_diversity" not in one


def test_quality_is_cider_d_on_other_data(tiny_config, tmp_path):
    task = task_of(tiny_config, tmp_path)
    references = task.references("validation", 4)
    samples = [[texts[0], texts[0]] for texts in references]
    figures = task.judge("validation", samples, thorough=False)
    cider, theirs = figures["cider_d"], np.mean([len(set(texts)) / 2 for texts in references])
    found = figures["quality_diversity"]
    assert cider.value > 1
    assert found.value == pytest.approx(cider.value * min(1, 0.5 / theirs))
    assert found.stderr == pytest.approx(cider.stderr * min(1, 0.5 / theirs))
    assert "true_captions" not in figures


def test_captions_without_a_common_word_are_judged_too(tiny_config, tmp_path):
    task = task_of(tiny_config, tmp_path)
    right = task.references("validation", 1)[0][0]
    for first, text in (("", ""), ("z", "z"), ("dog dog dog", ""), (right, "z")):
        figures = task.judge("validation", [[first, text], *[[text, text]] * 3])
        assert all(isinstance(figure, Metric) for figure in figures.values())
        assert all(f.value is None or math.isfinite(f.value) for f in figures.values())


def test_references_are_the_yardstick(task):
    found = task.reference_figures("validation", 8, 3)
    references = task.references("validation", 8)
    assert found["distinct_captions"].value == np.mean([len(set(t[:3])) / 3 for t in references])
    assert found["cider_d"].n == 8


def test_the_codec_is_the_runs_own(scenes_config, tmp_path):
    """Taken from a run's directory, but not from what a refused start left behind."""
    first = task_of(scenes_config, tmp_path).codec
    scenes_config.codec.kind = "character"
    second = task_of(scenes_config, tmp_path).codec
    assert second.kind == "character"
    (tmp_path / "config.json").write_text("{}")
    scenes_config.codec.kind = "word"
    assert task_of(scenes_config, tmp_path).codec.tokens == second.tokens != first.tokens


def test_request_reads_files_and_folders(task, tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in (("b.png", "blue"), ("a.JPG", "red")):
        Image.new("RGB", (50, 40), colour).save(folder / name)
    (folder / "notes.txt").write_text("no picture")
    single = tmp_path / "c.png"
    Image.new("RGB", (9, 9), "white").save(single)
    names, batch = task.request({"image": [str(single), str(folder)]})
    assert names == [str(single), str(folder / "a.JPG"), str(folder / "b.png")]
    assert batch["source"].shape == (3, 32, 32, 3)
    assert batch["source"].dtype == np.uint8
    means = batch["source"].mean((1, 2))
    np.testing.assert_allclose(means, [[255] * 3, [254, 0, 0], [0, 0, 255]], atol=2)
    np.testing.assert_array_equal(batch["weight"], np.ones(3))
    assert len(set(batch["example_id"])) == 3


def test_request_refuses(task, tiny_config, tmp_path):
    with pytest.raises(UserError, match=r"^--image: none given"):
        task.request({"image": None})
    with pytest.raises(UserError, match=r"no-such\.png: this image can't be read"):
        task.request({"image": [str(tmp_path / "no-such.png")]})
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty: no pictures in this folder"):
        task.request({"image": [str(tmp_path / "empty")]})
    tiny_config.data.source = "features"
    tiny_config.data.path = "unused"
    task._config = tiny_config
    with pytest.raises(UserError, match=r"--image: this .* precomputed features .* evaluate\.py"):
        task.request({"image": [str(tmp_path / "any.png")]})


def photographs(folder, count):
    """A folder in Flickr8k's layout; every caption has a word of its own."""
    (folder / "Images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.integers(0, 256, (40, 60, 3), np.uint8)
        Image.fromarray(picture).save(folder / "Images" / f"{i}.jpg", quality=95)
    lines = [f"{i}.jpg,a dog sits alone{i}" for i in range(count)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return folder


def test_photographs_are_seen_through_a_pretrained_network(tmp_path):
    folder = photographs(tmp_path / "photographs", 6)
    config = runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"]("flickr8k")
    config.data.update(path=str(folder), validation_size=1, test_size=1)
    task = task_of(config, tmp_path / "run")
    assert task.message == "vocabulary: 7 tokens; 4 rarer ones are unknown"
    seen = {
        split.name(i): split[i]["source"]
        for split in task.splits.values()
        for i in range(len(split))
    }
    assert sorted(seen) == [f"{i}.jpg" for i in range(6)]
    names, batch = task.request({"image": [str(folder / "Images")]})
    template = task.template()["source"]
    for name, source in zip(names, batch["source"], strict=True):
        assert source.shape == template.shape[1:]
        np.testing.assert_allclose(source, seen[Path(name).name], atol=1e-2)
    assert np.abs(batch["source"][0] - batch["source"][1]).max() > 0.1
    training = next(task.training_batches(batch_size=2, targets=1, seed=0, start=0))
    assert training["source"].shape == (2, *template.shape[1:])


def test_every_split_needs_an_image_that_can_be_read(tiny_config, tmp_path):
    folder = photographs(tmp_path / "photographs", 6)
    changes = {"source": "flickr8k", "path": str(folder), "image_size": 32}
    tiny_config.data.update(**changes, validation_size=1, test_size=1, max_unreadable_share=0.5)
    task = task_of(tiny_config, tmp_path / "run")
    lost = task.splits["validation"].name(0)
    (folder / "Images" / lost).write_bytes(b"no picture")
    with pytest.raises(UserError, match=rf"{folder}: no image is left in 'validation'"):
        task_of(tiny_config, tmp_path / "other").splits  # noqa: B018


@pytest.mark.parametrize("variant", ["default", "smoke", "flickr8k", "large"])
def test_variants_are_whole(variant):
    config = runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"](variant)
    assert [phase.name for phase in phases.parse(config.phases)] == list(config.phases.order)
    size = config.data.image_size
    image = np.zeros((1, size, size, 3), np.uint8)
    if config.data.features != "none":
        image = np.zeros((1, *efficientnet.GRID), np.float32)
    build.check_encoder(config.encoder, image)


@pytest.mark.parametrize(("option", "value"), [("source", "imagenet"), ("features", "vgg")])
def test_unknown_data_is_refused(tiny_config, tmp_path, option, value):
    tiny_config.data[option] = value
    with pytest.raises(UserError, match=rf"^config.data.{option}: no \w+ '{value}'; choose from "):
        task_of(tiny_config, tmp_path)


def test_pictures_are_drawn_for_what_was_written(task, tmp_path):
    captions = [plain(task.splits["validation"].scene(i)) for i in range(2)]
    samples = [sample_of(task, [caption]) for caption in captions]
    attention = np.full((4, 16), 1 / 16)
    drawn = task.illustrate(tmp_path / "s", "validation", samples, attention)
    assert set(drawn) == {"captions", "attention"}
    for name, picture in drawn.items():
        with Image.open(tmp_path / "s" / f"{name}.png") as image:
            np.testing.assert_array_equal(np.asarray(image.convert("RGB")), picture)
    rows = json.loads((tmp_path / "s" / "captions.json").read_text())
    assert [row["caption"] for row in rows] == captions
    assert [row["score"] for row in rows] == [0.25, 0.25]


def sample_of(task, captions):
    tokens = np.array([(task.codec.encode(text) + [0] * task.length)[:4] for text in captions])
    log_probs = -1.0 - np.arange(len(captions))
    return Sample(tokens, tokens > 0, log_probs, np.full(len(captions), 0.25))


def test_tokens_are_judged_as_their_text(task):
    texts = [["one", "two red"], ["two", ""]]
    samples = [sample_of(task, captions) for captions in texts]
    found = task.evaluate("validation", samples, None, thorough=False)
    assert found == task.judge("validation", texts, thorough=False)


def test_what_was_written_in_words(task):
    sample = sample_of(task, ["one red", "two"])
    row = task.row("a.png", sample)
    assert row == {
        "image": "a.png",
        "captions": [
            {"caption": "one red", "log_prob": -1.0, "score": 0.25},
            {"caption": "two", "log_prob": -2.0, "score": 0.25},
        ],
    }
    assert task.describe("a.png", sample)[2] == (
        "  two  (log-probability -2.00, discriminator 0.25)"
    )


def test_only_the_training_scenes_have_no_end(task):
    with pytest.raises(UserError, match=r"^--split=train: has no end; .* --limit"):
        task.pairs("train", batch_size=2, limit=None)
    with pytest.raises(UserError, match=r"^--split=train: has no end; .* --limit"):
        task.sources("train", batch_size=2, limit=None)
    assert len(list(task.sources("train", batch_size=2, limit=3))) == 2
    assert len(list(task.sources("validation", batch_size=2, limit=None))) == 4
    assert "rendered scenes" in task.message
