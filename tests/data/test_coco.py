import json

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from seqgan_jax.data.coco import load
from seqgan_jax.errors import UserError


def write(folder, part, numbers):
    """One image for each number, with two captions; and one image without."""
    (folder / part).mkdir(parents=True, exist_ok=True)
    (folder / "annotations").mkdir(exist_ok=True)
    for number in numbers:
        colour = (number % 256, 0, 0)
        Image.new("RGB", (20, 30), colour).save(folder / part / f"{number:012}.png")
    document = {
        "images": [{"id": n, "file_name": f"{n:012}.png"} for n in [*numbers, 999_999]],
        "annotations": [
            {"id": 10 * n + c, "image_id": n, "caption": f"number {n}\n caption {c} "}
            for c in range(2)
            for n in numbers
        ],
    }
    path = folder / "annotations" / f"captions_{part}.json"
    path.write_text(json.dumps(document))
    return path


@pytest.fixture
def config(tmp_path, monkeypatch):
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))
    return ConfigDict(
        {
            "path": str(tmp_path / "coco"),
            "image_size": 8,
            "validation_size": 2,
            "test_size": 3,
            "max_unreadable_share": 0.0,
        }
    )


@pytest.mark.parametrize("year", ["2017", "2014"])
def test_the_public_layout(config, tmp_path, year):
    write(tmp_path / "coco", f"train{year}", range(10, 16))
    write(tmp_path / "coco", f"val{year}", range(500_100, 500_107))
    sources = load(config)
    numbers = {
        split: [source[i]["example_id"] for i in range(len(source))]
        for split, source in sources.items()
    }
    assert numbers["train"] == list(range(10, 16))
    assert len(numbers["validation"]) == 2
    assert len(numbers["test"]) == 3
    assert len({*numbers["validation"], *numbers["test"]} & set(range(500_100, 500_107))) == 5
    for split, source in sources.items():
        for i, number in enumerate(numbers[split]):
            assert source.name(i) == f"{number:012}.png"
            assert source[i]["captions"] == (
                f"number {number} caption 0",
                f"number {number} caption 1",
            )
            assert (source[i]["source"] == np.uint8([number % 256, 0, 0])).all()


def one_image(number, name):
    images = f'[{{"id": {number}, "file_name": {name}}}]'
    return f'{{"images": {images}, "annotations": [{{"image_id": {number}, "caption": "x"}}]}}'


def test_bad_annotations_are_refused(config, tmp_path):
    folder = tmp_path / "coco"
    folder.mkdir()
    with pytest.raises(UserError, match=r"captions_train2017\.json: can't be read"):
        load(config)
    path = write(folder, "train2017", range(5))
    with pytest.raises(UserError, match=r"captions_val2017\.json: can't be read"):
        load(config)
    write(folder, "val2017", range(3, 9))
    with pytest.raises(UserError, match="image 3 is also in the training"):
        load(config)
    write(folder, "val2017", range(5, 9))
    with pytest.raises(UserError, match=r"= 5 of 4 images leave too few"):
        load(config)
    for text, message in (
        ("{", "line 1 is not JSON"),
        ("[]", "not COCO"),
        ('{"images": [], "annotations": [{"caption": "x"}]}', "not COCO.*image_id"),
        ('{"images": [], "annotations": []}', "no captions"),
        ('{"images": [], "annotations": [{"image_id": 7, "caption": "x"}]}', "image 7"),
        (one_image('"7"', '"a.jpg"'), "not COCO.*id '7' is no whole number"),
        (one_image(2**31, '"a.jpg"'), "not COCO.*id 2147483648 is no whole number"),
        (one_image(7, "null"), "not COCO.*file_name None of image 7"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            load(config)
    write(folder, "train2017", range(5))
    (folder / "train2017").rename(folder / "elsewhere")
    with pytest.raises(UserError, match="train2017: there is no such folder"):
        load(config)
