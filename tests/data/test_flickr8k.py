import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from seqgan_jax.data.flickr8k import load
from seqgan_jax.errors import UserError


@pytest.fixture
def config(tmp_path, monkeypatch):
    """Twelve images with two captions each."""
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "data"
    (folder / "Images").mkdir(parents=True)
    lines = ["image,caption"]
    for i in range(12):
        Image.new("RGB", (30, 20), (20 * i, 0, 0)).save(folder / "Images" / f"{i}.png")
        lines += [f"{i}.png,number {i}", f'{i}.png,"{i}, again"']
    (folder / "captions.txt").write_text("\n".join(lines))
    return ConfigDict(
        {
            "path": str(folder),
            "image_size": 8,
            "validation_size": 2,
            "test_size": 3,
            "max_unreadable_share": 0.1,
        }
    )


def everything(sources):
    return {
        sources[split].name(i): (split, sources[split][i])
        for split in sources
        for i in range(len(sources[split]))
    }


def test_images_meet_their_captions(config):
    sources = load(config)
    assert [len(sources[split]) for split in ("train", "validation", "test")] == [7, 2, 3]
    examples = everything(sources)
    assert len(examples) == 12
    assert len({example["example_id"] for _, example in examples.values()}) == 12
    for name, (_, example) in examples.items():
        number = int(name.removesuffix(".png"))
        assert example["captions"] == (f"number {number}", f"{number}, again")
        np.testing.assert_array_equal(
            example["source"], np.broadcast_to(np.uint8([20 * number, 0, 0]), (8, 8, 3))
        )


def test_more_captions_move_nothing(config, tmp_path):
    before = everything(load(config))
    with open(tmp_path / "data" / "captions.txt", "a") as file:
        file.write("\n3.png,one more\n")
    after = everything(load(config))
    assert {name: split for name, (split, _) in after.items()} == {
        name: split for name, (split, _) in before.items()
    }
    assert len(after["3.png"][1]["captions"]) == 3


def test_an_image_that_is_not_there_is_left_out(config, tmp_path):
    (tmp_path / "data" / "Images" / "5.png").unlink()
    said = []
    assert "5.png" not in everything(load(config, report=said.append))
    assert said == ["left out 1 of 12 images: 5.png (no such file or directory)"]
    config.max_unreadable_share = 0.01
    with pytest.raises(UserError, match=r"5\.png.*max_unreadable_share"):
        load(config)


def test_bad_folders_are_refused(config, tmp_path):
    config.test_size = 10
    with pytest.raises(UserError, match=r"config\.data\.validation_size"):
        load(config)
    (tmp_path / "data" / "Images").rename(tmp_path / "data" / "images")
    with pytest.raises(UserError, match="Images: there is no such folder"):
        load(config)
    (tmp_path / "data" / "captions.txt").unlink()
    with pytest.raises(UserError, match=r"captions\.txt"):
        load(config)
