"""Every notebook runs from top to bottom, on runs that have learnt nothing."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from seqgan_jax.tasks import TASKS

FOLDER = Path(__file__).parents[1] / "examples"
NOTEBOOKS = {path.stem: json.loads(path.read_text()) for path in FOLDER.glob("*.ipynb")}


@pytest.fixture
def execute(tmp_path, monkeypatch):
    """Runs a notebook's code with other parameters: what its names stand for then."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "agg")

    def execute(name, **parameters):
        found, given = {"__name__": "__main__"}, set()
        for cell in NOTEBOOKS[name]["cells"]:
            if cell["cell_type"] != "code":
                continue
            code = compile("".join(cell["source"]), f"{name}.ipynb, cell {cell['id']}", "exec")
            exec(code, found)
            if "parameters" in cell["metadata"].get("tags", ()):
                assert parameters.keys() <= found.keys()
                found |= parameters
                given |= parameters.keys()
        assert given == parameters.keys()
        return found

    return execute


def test_every_task_has_one_and_none_holds_output():
    assert NOTEBOOKS.keys() == {*TASKS, "own_network"}
    for content in NOTEBOOKS.values():
        assert content["nbformat"] == 4
        for cell in content["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == []
                assert cell["execution_count"] is None


def test_captions(execute, tiny_run, tmp_path):
    Image.effect_noise((40, 40), 80).convert("RGB").save(tmp_path / "noise.png")
    found = execute("captions", RUN=tiny_run("captions"), PICTURE="noise.png")
    drawn = sorted(found["found"].hypotheses, key=lambda caption: -caption.score)
    best = [caption.score for caption in drawn[:3]]
    assert sorted(c.score for c in found["chosen"].hypotheses) == sorted(best)
    shown = [image for axis in found["axes"][1:] for image in axis.get_images()]
    for image, weights in zip(shown, found["caption"].attention, strict=True):
        np.testing.assert_allclose(image.get_array().sum(), weights.sum(), rtol=1e-5)


def test_translation(execute, tiny_run):
    found = execute("translation", RUN=tiny_run("translation"), TEXTS=["seven", "two"])
    assert [len(each.hypotheses) for each in found["found"]] == [3, 3]
    assert len(found["right"]) == len(found["wrong"]) == 2


def test_speech(execute, tiny_run, tmp_path):
    found = execute("speech", RUN=tiny_run("speech"), TEXT="two")
    assert [path.name for path in found["paths"]] == ["reading-1.wav", "reading-2.wav"]
    assert all((tmp_path / path).stat().st_size > 44 for path in found["paths"])


def test_video(execute, tiny_run, tmp_path):
    frames = [Image.effect_noise((32, 24), 80).convert("RGB") for _ in range(4)]
    frames[0].save(tmp_path / "clip.gif", save_all=True, append_images=frames[1:])
    found = execute("video", RUN=tiny_run("video"), CLIP="clip.gif", HOLE="8,6,12,8,2,4")
    one, two = found["clips"]
    assert one.shape == two.shape == (4, 24, 32, 3)
    with Image.open(tmp_path / "clip.gif") as clip:
        clip.seek(1)
        seen = np.asarray(clip.convert("RGB"), int)
    # A palette is drawn for each frame of a GIF anew.
    assert abs(one[1] - seen).mean() < 10
    hole = np.s_[2:4, 6:14, 8:20]
    assert (one[hole] != two[hole]).any()


def test_text(execute, tiny_run):
    fewer = {"TEMPERATURES": (1.0,), "NUM_NOISE": (2,)}  # each is a program to compile
    found = execute("text", RUN=tiny_run("text"), PREFIX="red dog", **fewer)
    lines = found["found"].hypotheses
    assert len(lines) == 2
    assert all(line.text.startswith("red dog") for line in lines)


def test_oracle(execute, tiny_run):
    found = execute("oracle", RUN=tiny_run("oracle"), COUNT=6)
    assert found["written"].shape == (6, 4)
    assert found["log_p"].shape == found["log_q"].shape == (6,)


def test_own_network(execute):
    found = execute("own_network", STEPS=10, SIZE=4)
    network, codec = found["generator"], found["codec"]
    assert codec.decode(codec.encode("GATTACA")) == "GATTACA"
    assert len(found["shares"]) == 2
    # One token after the other, or all at once: the contract that training relies on.
    params = {"params": found["state"].generator.params}
    z, inputs = np.ones((3, network.noise_size)), np.array([[1, 3, 4], [1, 6, 2], [1, 5, 5]])
    state = network.apply(params, None, z, 3, method="initial_state")
    logits, states = network.apply(params, None, state, inputs, method="unroll")
    for t in range(3):
        state, one = network.apply(params, None, state, inputs[:, t], method="step")
        np.testing.assert_allclose(one, logits[:, t], atol=1e-5)
        same = network.apply(params, states, t + 1, method="prefix_state")
        np.testing.assert_allclose(same, state, atol=1e-5)
