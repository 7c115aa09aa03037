"""The demonstration page: what it lets through, and a server that nothing brings down."""

import gc
import math
import sys
import threading
import time
import wave
from pathlib import Path

import av
import gradio_client
import numpy as np
import pytest
from PIL import Image

from seqgan_jax import demo
from seqgan_jax.errors import UserError


@pytest.fixture(scope="module", autouse=True)
def no_leftovers():
    """Gradio leaves event loops to the garbage collector: not to that of another file's tests."""
    yield
    gc.collect()


@pytest.fixture
def page(tiny_model, tmp_path):
    """By a task's name, its page."""
    return lambda task: demo.Page(tiny_model(task), tmp_path)


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.png"
    Image.effect_noise((60, 50), 80).convert("RGB").save(path)
    return str(path)


def test_a_picture_is_captioned(page, tiny_model, picture):
    settings = {"num_samples": 2, "seed": 4}
    rows, drawn, files = page("captions").answer({"image": picture}, settings, "two red", True)
    (found,) = tiny_model("captions").generate(
        image=picture, num_samples=2, seed=4, prefix="two red"
    )
    assert [row[0] for row in rows] == [h.text for h in found.hypotheses]
    for row, hypothesis in zip(rows, found.hypotheses, strict=True):
        assert row[1:] == [round(hypothesis.score, 4), round(hypothesis.log_prob, 2)]
    assert files == []
    assert len(drawn) == 2
    for path, title in drawn:
        assert np.asarray(Image.open(path)).std() > 10
        assert title[3:] in {row[0] for row in rows}


def test_a_phrase_is_spoken(page):
    spoken = page("speech")
    asked = {"text": "seven two", "speaker": "f2"}
    rows, drawn, files = spoken.answer(asked, {"num_samples": 2}, "", True)
    assert len(rows) == len(drawn) == len(files) == 2
    for path in files:
        with wave.open(path) as file:
            assert file.getnframes() % 1024 == 0


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips") / "clip.gif"
    frames = [Image.effect_noise((32, 24), 80).convert("RGB") for _ in range(4)]
    frames[0].save(path, save_all=True, append_images=frames[1:])
    return str(path)


def test_a_hole_is_filled(page, clip):
    asked = {"video": clip, "mask": "8,6,12,8,2,4"}
    rows, drawn, files = page("video").answer(asked, {"num_samples": 2}, "", True)
    assert (len(rows) % 2, drawn) == (0, [])
    assert len(files) == 2
    for path in files:
        with av.open(path) as container:
            assert sum(1 for _ in container.decode(video=0)) == 4


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"temperature": 0.0}, "temperature: must be 0.1 to 2"),
        ({"temperature": math.nan}, "temperature: must be a number"),
        ({"temperature": "1"}, "temperature: must be a number"),
        ({"num_samples": 9}, "num_samples: must be 1 to 8"),
        ({"num_samples": True}, "num_samples: must be a number"),
        ({"num_samples": [2]}, "num_samples: must be a number"),
        ({"rerank": 10**9}, "rerank: must be 1 to 8"),
        ({"top_k": -1}, "top_k: must be 0 to 100"),
        ({"top_p": 0}, "top_p: must be 0.05 to 1"),
        ({"seed": 2**40}, "seed: must be"),
        ({"seed": None}, "seed: must be a number"),
    ],
)
def test_settings_are_bounded(page, settings, words):
    with pytest.raises(UserError, match=words):
        page("oracle").answer({}, settings, "", False)


def test_what_is_sent_is_bounded(page, picture, tmp_path, monkeypatch):
    captions, oracle = page("captions"), page("oracle")
    torn, text = tmp_path / "torn.png", tmp_path / "text.png"
    torn.write_bytes(Path(picture).read_bytes()[:2000])
    text.write_text("no picture")
    for image, words in (
        (str(torn), "can't be read"),
        (str(text), "no picture that can be read"),
        (str(tmp_path / "none.png"), "must be a file"),
        (str(tmp_path), "must be a file"),
        ({"path": picture}, "must be a file"),
        (None, "none given"),
    ):
        with pytest.raises(UserError, match=words):
            captions.answer({"image": image}, {}, "", False)
    monkeypatch.setattr(demo, "PIXELS", 60 * 50 - 1)
    with pytest.raises(UserError, match="60 x 50 is too large"):
        captions.answer({"image": picture}, {}, "", False)
    monkeypatch.setattr(demo, "FILE", 2 * 10**3)
    with pytest.raises(UserError, match="more than"):
        captions.answer({"image": picture}, {}, "", False)
    with pytest.raises(UserError, match="prefix: 3,000 characters"):
        oracle.answer({}, {}, "1 " * 1500, False)
    with pytest.raises(UserError, match="prefix: must be a text"):
        oracle.answer({}, {}, 5, False)


def test_clips_and_arrays_are_bounded(page, clip, tmp_path, monkeypatch):
    """And what is wrong with one is no matter to the next."""
    video, pairs = page("video"), page("pairs")
    torn, text, empty = (tmp_path / name for name in ("torn.gif", "text.mp4", "empty.mp4"))
    torn.write_bytes(Path(clip).read_bytes()[:40])
    text.write_text("no clip")
    empty.write_bytes(b"")
    hole = "8,6,12,8,2,4"
    for asked, words in (
        ({"video": str(torn), "mask": hole}, "torn.gif|no clip that can be read"),
        ({"video": str(text), "mask": hole}, "no clip that can be read"),
        ({"video": str(empty), "mask": hole}, "no clip that can be read"),
        ({"mask": hole}, "--video: none given"),
        ({"video": clip}, "--mask: none given"),
        ({"video": clip, "mask": "8,6,400,8"}, "--mask=8,6,400,8"),
        ({"video": clip, "mask": "a hole"}, "--mask=a hole"),
        ({"video": clip, "mask": "1" * 3000}, "mask: 3,000 characters"),
    ):
        with pytest.raises(UserError, match=words):
            video.answer(asked, {}, "", False)
    assert len(video.answer({"video": clip, "mask": hole}, {"num_samples": 2}, "", True)[2]) == 2
    monkeypatch.setattr(demo, "FRAMES", 3)
    with pytest.raises(UserError, match="4 frames of this size are too many"):
        video.answer({"video": clip, "mask": hole}, {}, "", False)
    np.savez_compressed(tmp_path / "large.npz", source=np.zeros((1, 2, 3), np.float32))
    np.savez(tmp_path / "other.npz", target=np.zeros(3))
    for name, words in (("other.npz", "source"), ("text.mp4", "no .npz file")):
        with pytest.raises(UserError, match=words):
            pairs.answer({"input": str(tmp_path / name)}, {}, "", False)
    monkeypatch.setattr(demo, "UNPACKED", 100)
    with pytest.raises(UserError, match="its arrays have more"):
        pairs.answer({"input": str(tmp_path / "large.npz")}, {}, "", False)


def test_settings_lie_on_a_grid(page, monkeypatch):
    """Which bounds what is compiled; more than `PROGRAMS` are forgotten."""
    oracle, asked, cleared = page("oracle"), [], []
    monkeypatch.setattr(oracle.model, "generate", lambda **how: asked.append(how) or [])
    monkeypatch.setattr(demo.jax, "clear_caches", lambda: cleared.append(len(asked)))
    oracle.answer({}, {"temperature": 0.7000001, "top_p": 0.9499, "num_samples": 2.2}, "", False)
    assert asked[0]["temperature"] == 0.7
    assert asked[0]["top_p"] == 0.95
    assert asked[0]["num_samples"] == 2
    for seed in range(3):
        for k in range(demo.PROGRAMS):
            oracle.answer({}, {"top_k": k, "seed": seed}, "", False)
    # The first program is one more.
    assert cleared == [demo.PROGRAMS]
    monkeypatch.setattr(demo, "KEPT", 2)
    for _ in range(4):
        oracle.answer({}, {}, "", False)
    assert len(list(oracle._folder.iterdir())) <= demo.PROGRAMS * 3 + 1


@pytest.fixture(scope="module")
def server(tiny_model):
    blocks = demo.serve(tiny_model("oracle"))
    yield blocks
    blocks.close(verbose=False)


def test_twenty_visitors_at_once(server, tiny_model):
    """Every one gets what they asked for, though others send what can't be answered."""
    (known,) = tiny_model("oracle").generate(num_samples=3, seed=5)
    known = [hypothesis.text for hypothesis in known.hypotheses]
    defaults = [r.value for r in demo.RANGES.values()]
    wrong, right, refused = [], [], []
    until = time.monotonic() + 3

    def visit(number):
        try:
            client = gradio_client.Client(server.local_url, verbose=False)
            while True:
                if number % 4 == 0:
                    try:
                        client.predict(*defaults, "no number", False, api_name="/write")
                    except gradio_client.exceptions.AppError as error:
                        refused.append(str(error))
                table, _ = client.predict(*defaults[:-1], 5, "", False, api_name="/write")
                right.append([row[0] for row in table["data"]] == known)
                if time.monotonic() > until:
                    return
        except Exception as error:
            wrong.append(error)

    visitors = [threading.Thread(target=visit, args=(number,)) for number in range(20)]
    for visitor in visitors:
        visitor.start()
    for visitor in visitors:
        visitor.join()
    assert wrong == []
    assert len(right) >= 20
    assert all(right)
    assert len(refused) >= 5
    assert all("whole numbers of 0 to 8" in words for words in refused)


def test_only_this_machine_can_reach_it(server):
    assert server.local_url.startswith("http://127.0.0.1:")


def test_a_wrong_start_is_one_line(server, tiny_model, tmp_path, monkeypatch, capsys):
    for arguments, words in (
        ([f"--workdir={tmp_path}"], "no run here"),
        ([], "--workdir"),
    ):
        monkeypatch.setattr(sys, "argv", ["demo", *arguments])
        monkeypatch.setattr(demo, "compilation_cache", lambda: None)
        with pytest.raises(SystemExit) as stop:
            demo.main()
        assert stop.value.code == 2
        assert words in capsys.readouterr().err.splitlines()[-1]
    port = int(server.local_url.rstrip("/").rpartition(":")[2])
    with pytest.raises(UserError, match=f"--port={port}"):
        demo.serve(tiny_model("oracle"), port=port)


def test_without_gradio_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, "gradio", None)
    with pytest.raises(UserError, match=r"pip install 'seqgan_jax\[demo\]'"):
        demo.serve(tmp_path)
