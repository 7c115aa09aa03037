"""The programs by the command line: bad input is one clear line and status 2, and nothing lost."""

import contextlib
import io
import json
import platform
import re
import runpy
import shlex
import shutil
import subprocess
import sys
import types
import warnings
import wave
from pathlib import Path

import jax
import numpy as np
import pytest
from absl import flags
from jax.experimental.compilation_cache import compilation_cache
from ml_collections import config_flags
from PIL import Image

from seqgan_jax.data.espeak import espeak
from seqgan_jax.evaluation import judges, sweep
from seqgan_jax.evaluation.report import Metric, write_evaluation
from seqgan_jax.programs import start
from seqgan_jax.programs.run import Run, parts
from seqgan_jax.programs.train import train
from seqgan_jax.reporting.metrics_log import read_metrics
from seqgan_jax.reporting.progress import Progress
from seqgan_jax.training import phases as schedule
from seqgan_jax.training.checkpoint import Checkpoints

ROOT = Path(__file__).parents[1]
CONFIG = f"--config={ROOT / 'configs' / 'captions.py'}"


@pytest.fixture
def call(capsys, monkeypatch):
    """Runs an entry point in this process: status, standard output, lines of standard error."""

    def call(name, *arguments):
        before, status = set(flags.FLAGS), 0
        entry = runpy.run_path(str(ROOT / f"{name}.py"), run_name=name)
        own = set(flags.FLAGS) - before
        try:
            monkeypatch.setattr("sys.argv", [f"{name}.py", *map(str, arguments)])
            entry["main"](start.parse_flags(sys.argv))
        except SystemExit as stop:
            status = stop.code
        finally:
            for flag in set(flags.FLAGS):
                if flag in own or flag.startswith("config."):
                    delattr(flags.FLAGS, flag)
            flags.FLAGS.unparse_flags()
        output = capsys.readouterr()
        return status, output.out, output.err.splitlines()

    return call


@pytest.fixture
def refused(call):
    """Checks that the program refuses its arguments in one line that holds all the given words."""

    def refused(words, name, *arguments):
        status, _, lines = call(name, *arguments)
        assert status == 2
        assert len(lines) == 1, lines
        assert lines[0].startswith("error: ")
        for word in words:
            assert word in lines[0]

    return refused


@pytest.fixture
def refused_training(refused, overrides, tmp_path):
    """The same of train.py on the tiny data, which must leave the directory free."""

    def refused_training(words, **changes):
        workdir, values = tmp_path / "run", overrides | changes
        arguments = [f"--config.{k}={v}" for k, v in values.items()]
        refused(words, "train", f"{CONFIG}:smoke", f"--workdir={workdir}", *arguments)
        assert not (workdir / "config.json").exists()

    return refused_training


# The command line itself


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--config.generator.hiden_size=3"], ["hiden_size"]),
        (["--config.generator.hidden_size=many"], ["hidden_size", "many"]),
        (["--config.data.path"], ["config.data.path"]),
        (["--config.encoder.channels=3.5"], ["config.encoder.channels"]),
        (["--config.clip=0.0"], ["config.clip: 0.0 must be above 0"]),
        (["--speed=3"], ["speed"]),
        (["more"], ["'more' belongs to no option"]),
    ],
)
def test_bad_options(refused, tmp_path, arguments, words):
    refused(words, "train", f"{CONFIG}:smoke", f"--workdir={tmp_path / 'run'}", *arguments)
    assert not (tmp_path / "run" / "config.json").exists()


def test_bad_configuration_file(refused, tmp_path):
    refused(["'huge'", "smoke"], "train", f"{CONFIG}:huge")
    refused(["No such file", "no-such.py"], "train", f"--config={tmp_path / 'no-such.py'}")
    for message, words in (
        ("flag --workdir=None: Flag --workdir must have a value other than None.", "none given"),
        ("Traceback (most recent call last):\n  File x\nValueError: no 'a'", "--config: no 'a'"),
    ):
        assert words in start._of_flag(message)
        assert "Traceback" not in start._of_flag(message)


def test_several_images_need_several_options(refused, tmp_path):
    arguments = [f"--workdir={tmp_path}", "--image", "a.png", "b.png"]
    refused(["'b.png' belongs to no option"], "generate", *arguments)


def test_interrupted_before_there_is_anything_to_save(capsys):
    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as stop:
        start.main(interrupted)
    assert stop.value.code == 130
    assert capsys.readouterr().err == "interrupted\n"


# Directories


def test_another_configuration_and_an_unknown_phase(refused, overrides, finished_run):
    before = {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()}
    arguments = [f"{CONFIG}:smoke", f"--workdir={finished_run}"]
    arguments += [f"--config.{k}={v}" for k, v in overrides.items()]
    words = [str(finished_run), "config.generator.hidden_size=16, not 17", "another directory"]
    refused(words, "train", *arguments, "--config.generator.hidden_size=17")
    words = ["config.phases.order: no phase 'warm_up'"]
    refused(words, "train", *arguments, "--config.phases.order=('warm_up',)")
    assert before == {p: p.stat().st_mtime_ns for p in finished_run.rglob("*") if p.is_file()}


def test_budgets_and_logging_may_change(finished_run, overrides, tmp_path):
    values = overrides | {"logging.every": 7, "phases.adversarial.steps": 9}
    shutil.copytree(finished_run, tmp_path / "run")
    config = runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(values)
    with Progress(quiet=True) as progress:
        Run(tmp_path / "run", config, progress)
        again = Run(tmp_path / "run", None, progress)
    assert again.config.to_dict() == config.to_dict()


def test_unwritable_directory(refused, overrides, tmp_path):
    (tmp_path / "file").write_text("")
    arguments = [f"{CONFIG}:smoke", *(f"--config.{k}={v}" for k, v in overrides.items())]
    for workdir in (tmp_path / "file", tmp_path / "file" / "run"):
        words = [f"--workdir={workdir}", "can't be written to", "another directory"]
        refused(words, "train", *arguments, f"--workdir={workdir}")


def test_no_run_or_no_checkpoint(refused, finished_run, tmp_path):
    refused([str(tmp_path), "no run here"], "evaluate", f"--workdir={tmp_path}")
    shutil.copytree(finished_run, tmp_path / "run", ignore=shutil.ignore_patterns("checkpoints"))
    refused(["checkpoints", "train this run first"], "evaluate", f"--workdir={tmp_path / 'run'}")
    for text in ('{"task": ', "[]", "3"):
        (tmp_path / "run" / "config.json").write_text(text)
        refused(["config.json", "can't be read"], "evaluate", f"--workdir={tmp_path / 'run'}")


def test_unknown_checkpoint_and_split(refused, finished_run):
    run = f"--workdir={finished_run}"
    refused(["--checkpoint=middle", "adversarial"], "evaluate", run, "--checkpoint=middle")
    refused(["--checkpoint", "names none"], "evaluate", run, "--checkpoint=")
    refused(["--seed", "4294967296"], "evaluate", run, f"--seed={2**32}")
    refused(["--split=dev", "validation", "test"], "evaluate", run, "--split=dev")
    refused(["--limit", "0"], "evaluate", run, "--limit=0")


# Data


@pytest.fixture
def folder(features_folder, tmp_path):
    shutil.copytree(features_folder, tmp_path / "data")
    return tmp_path / "data"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (b"image,words\n0.jpg,a dog\n", ["captions.txt", "no column 'caption'"]),
        (b"image,caption\n", ["captions.txt", "no captions"]),
        (b"", ["captions.txt", "no column 'image'"]),
        (b"image,caption\n0.jpg,a dog\n1.jpg,caf\xe9\n", ["captions.txt", "line 3", "UTF-8"]),
        (b"image,caption\n0.jpg,a dog\n1.jpg\n", ["captions.txt", "line 3"]),
    ],
)
def test_bad_captions(refused_training, folder, text, words):
    (folder / "captions.txt").write_bytes(text)
    refused_training(words, **{"data.path": folder})


def test_bad_data(refused_training, folder, tmp_path):
    refused_training(["no-such", "no such folder"], **{"data.path": tmp_path / "no-such"})
    refused_training(["nothing to train on", "of 16 images"], **{"data.validation_size": 12})
    (folder / "features.npz").unlink()
    refused_training([str(folder), "features"], **{"data.path": folder})


def test_more_characters_than_the_limit(refused_training):
    changes = {"codec.kind": "character", "codec.max_size": 10}
    refused_training(["config.codec.max_size", "limit of 10", "set it to"], **changes)


def photographs(folder, count):
    """A folder in Flickr8k's layout."""
    (folder / "Images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
        Image.fromarray(picture).save(folder / "Images" / f"{i}.jpg")
    lines = [f"{i}.jpg,a dog sits" for i in range(count)]
    (folder / "captions.txt").write_text("\n".join(["image,caption", *lines]))
    return folder


def test_bad_photographs(refused_training, tmp_path):
    folder = photographs(tmp_path / "photographs", 12)
    changes = {
        "data.source": "flickr8k",
        "data.path": folder,
        "data.image_size": 32,
        "encoder.kind": "convolutional",
    }
    torn = folder / "Images" / "3.jpg"
    torn.write_bytes(torn.read_bytes()[:300])
    refused_training(["3.jpg", "config.data.max_unreadable_share"], **changes)
    torn.unlink()
    refused_training(["3.jpg", "config.data.max_unreadable_share"], **changes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"encoder.kind": "pyramid"}, ["config.encoder.kind", "convolutional, clip, features"]),
        ({"encoder.kind": "convolutional"}, ["config.encoder.kind", "set it to features"]),
        ({"encoder.size": 0}, ["config.encoder.size: 0"]),
        ({"encoder.channels": (8,) * 5}, ["config.encoder.channels", "32 x 32 pixels"]),
        ({"encoder.channels": (8, -1)}, ["config.encoder.channels", "1 or more"]),
        ({"encoder.channels": ()}, ["config.encoder.channels", "1 or more"]),
    ],
)
def test_encoders_that_do_not_fit(refused_training, changes, words):
    if "encoder.channels" in changes:
        changes = changes | {"data.source": "scenes", "data.image_size": 32}
        changes |= {"encoder.kind": "convolutional"}
    refused_training(words, **changes)


# Writing and judging


@pytest.fixture(scope="module")
def scenes_run(overrides, tmp_path_factory):
    """A run on pictures that has learned nothing, with one checkpoint."""
    config = runpy.run_path(str(ROOT / "configs" / "captions.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(overrides)
    config.data.update(source="scenes", image_size=32)
    config.encoder.update(kind="convolutional", channels=(4, 4))
    workdir = tmp_path_factory.mktemp("scenes")
    with Progress(quiet=True) as progress:
        run = Run(workdir, config, progress)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(run.loop.initial_state(), phase="adversarial", ended=True, score=None)
        checkpoints.close()
    return workdir


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("pictures") / "picture.jpg"
    Image.effect_noise((60, 50), 80).convert("RGB").save(path)
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--temperature=0"], ["--temperature", "--beam_size=1"]),
        (["--temperature=-1"], ["--temperature"]),
        (["--temperature=nan"], ["--temperature"]),
        (["--top_p=2"], ["--top_p"]),
        (["--top_p=0"], ["--top_p"]),
        (["--top_k=-1"], ["--top_k"]),
        (["--num_samples=0"], ["--num_samples"]),
        (["--beam_size=-1"], ["--beam_size"]),
        (["--beam_size=2", "--rerank=2"], ["--rerank", "beam search"]),
        (["--prefix=two zyzzyvas"], ["--prefix=two zyzzyvas", "doesn't know"]),
        (["--prefix=one red cross one"], ["--prefix", "4 tokens"]),
        (["--checkpoint=middle"], ["--checkpoint=middle", "last, best, adversarial"]),
        (["--format=xml"], ["format"]),
    ],
)
def test_bad_requests(refused, scenes_run, picture, arguments, words):
    refused(words, "generate", f"--workdir={scenes_run}", f"--image={picture}", *arguments)


def test_bad_pictures(refused, scenes_run, picture, finished_run, tmp_path):
    run = f"--workdir={scenes_run}"
    refused(["no-such.jpg", "can't be read"], "generate", run, "--image=no-such.jpg")
    torn, text = tmp_path / "torn.jpg", tmp_path / "text.png"
    torn.write_bytes(picture.read_bytes()[:400])
    text.write_text("no picture")
    refused(["torn.jpg", "can't be read"], "generate", run, f"--image={torn}")
    refused(["text.png", "not an image"], "generate", run, f"--image={text}")
    words = ["--image", "precomputed features"]
    refused(words, "generate", f"--workdir={finished_run}", f"--image={picture}")
    refused(["--image", "none given"], "generate", run)


def test_generate_writes_what_was_asked_for(call, scenes_run, picture, tmp_path):
    shutil.copy(picture, tmp_path / "second.jpg")
    arguments = [f"--workdir={scenes_run}", f"--image={picture}", f"--image={tmp_path}"]
    arguments += ["--num_samples=3", "--prefix=two red"]
    status, text, errors = call("generate", *arguments, "--seed=1")
    assert (status, errors) == (0, [])
    status, found, _ = call("generate", *arguments, "--seed=1", "--format=json")
    rows = json.loads(found)
    assert [row["image"] for row in rows] == [str(picture), str(tmp_path / "second.jpg")]
    lines = iter(text.splitlines())
    for row in rows:
        assert next(lines) == row["image"]
        assert len(row["captions"]) == 3
        for caption in row["captions"]:
            assert caption["caption"].startswith("two red")
            assert caption["log_prob"] < 0 < caption["score"] < 1
            shown = f"  {caption['caption']}  (log-probability {caption['log_prob']:.2f}, "
            assert next(lines) == f"{shown}discriminator {caption['score']:.2f})"
    assert not list(lines)


def test_reranking_keeps_what_the_discriminator_likes(call, scenes_run, picture):
    arguments = [f"--workdir={scenes_run}", f"--image={picture}", "--format=json"]
    captions = {}
    for name, more in (("all", ["--num_samples=6"]), ("best", ["--num_samples=2", "--rerank=3"])):
        status, found, _ = call("generate", *arguments, *more)
        assert status == 0
        captions[name] = json.loads(found)[0]["captions"]
    best = sorted(captions["all"], key=lambda caption: -caption["score"])[:2]
    key = lambda caption: caption["score"]
    assert sorted(captions["best"], key=key) == sorted(best, key=key)


def test_beams_come_in_order(call, scenes_run, picture):
    arguments = [f"--workdir={scenes_run}", f"--image={picture}", "--beam_size=3", "--format=json"]
    _, found, _ = call("generate", *arguments)
    captions = json.loads(found)[0]["captions"]
    log_probs = [caption["log_prob"] for caption in captions]
    assert log_probs == sorted(log_probs, reverse=True)
    assert len({caption["caption"] for caption in captions}) == 3


def test_evaluate_writes_every_figure(call, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    arguments = [f"--workdir={tmp_path / 'run'}", "--num_samples=2", "--num_noise=2"]
    arguments += ["--batch_size=4", "--checkpoint=pretrain_generator,last", "--rerank=2"]
    status, text, _ = call("evaluate", *arguments)
    assert status == 0
    wanted = {"nll", "nll_shuffled", "bleu_4", "rouge_l", "chrf", "cider_d", "self_bleu_4"}
    wanted |= {"distinct_1", "vocabulary_used", "novel_captions", "discriminator_accuracy"}
    wanted |= {"reranked_cider_d", "reranked_self_bleu_4", "reranked_distinct_captions"}
    for name, which in (
        ("evaluation-pretrain_generator", "pretrain_generator"),
        ("evaluation", "last"),
    ):
        found = json.loads((tmp_path / "run" / f"{name}.json").read_text())
        assert (found["task"], found["split"], found["checkpoint"]) == ("captions", "test", which)
        assert wanted <= set(found["metrics"])
        for figure in found["metrics"].values():
            assert set(figure) == {"value", "stderr", "n", "unit"}
        assert found["metrics"]["nll"]["n"] == 8
        assert "cider_d" in found["comparisons"]["one caption for all"]
    assert "one caption for all" in text
    for document in ("model_card.md", "report.html"):
        assert "last on test data" in (tmp_path / "run" / document).read_text()


def test_evaluate_draws_at_another_temperature(call, finished_run, tmp_path):
    shutil.copytree(finished_run, tmp_path / "run")
    arguments = [f"--workdir={tmp_path / 'run'}", "--num_samples=2", "--num_noise=2"]
    status, _, _ = call(
        "evaluate", *arguments, "--batch_size=4", "--rerank=2", "--temperature=0.01"
    )
    assert status == 0
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    for how in ("at_0.01", "reranked_at_0.01"):
        names = ("cider_d", "self_bleu_4", "distinct_captions")
        assert {f"{how}_{name}" for name in names} <= set(found)
    # Nearly always the most probable words, where untrained networks draw any.
    assert found["at_0.01_distinct_captions"]["value"] < found["distinct_captions"]["value"]


@pytest.mark.filterwarnings("ignore:the load_module:DeprecationWarning")
def test_a_finished_run_documents_itself(finished, monkeypatch):
    workdir, run = finished
    text = (workdir / "report.html").read_text()
    assert "Finished after" in text
    assert "last on validation data" in text
    card = (workdir / "model_card.md").read_text()
    assert "last on validation data" in card
    state = run.restore("last")
    for name in ("generator", "discriminator"):
        count = sum(np.size(leaf) for leaf in jax.tree.leaves(getattr(state, name).params))
        assert f"| {name} | {count:,} |" in card
    # The card's command has the run's own configuration.
    (command,) = [line for line in card.splitlines() if line.startswith("python train.py ")]
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("sys.argv", shlex.split(command)[1:])
    parser = flags.FlagValues()
    config_flags.DEFINE_config_file("config", flag_values=parser)
    parser(sys.argv)
    assert parser.config.to_dict() == run.config.to_dict()


def test_endless_data_needs_a_limit(refused, scenes_run):
    words = ["--split=train", "no end", "--limit"]
    refused(words, "evaluate", f"--workdir={scenes_run}", "--split=train")


# The oracle: a task without sources


@pytest.fixture(scope="module")
def oracle_config():
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("smoke")
    config.generator.num_layers = config.discriminator.num_layers = 1
    config.oracle.update(vocabulary=9, size=3)
    config.data.update(length=4, train_size=8, validation_size=6, test_size=6)
    for name in config.phases.order[:-1]:
        config.phases[name].update(steps=2, batch_size=4, evaluate_every=2)
    config.evaluation.update(batch_size=4, validation_limit=6, num_pictures=2)
    return config.lock()


@pytest.fixture(scope="module")
def oracle_run(oracle_config, tmp_path_factory):
    workdir = tmp_path_factory.mktemp("oracle")
    train(oracle_config, str(workdir), quiet=True)
    return workdir


def test_the_oracle_trains(oracle_run, oracle_config, capsys):
    train(oracle_config, str(oracle_run))
    text = capsys.readouterr().out
    for words in ("on 6 held-out sequences", "forward_kl", "report: "):
        assert words in text
    assert "nll_shuffled" not in text
    rows = json.loads((oracle_run / "samples" / "final" / "sequences.json").read_text())
    assert len(rows) == 2
    assert all(" ".join(map(str, row["tokens"])) in text for row in rows)


def test_the_oracle_writes_integers(call, refused, oracle_run):
    run = f"--workdir={oracle_run}"
    arguments = [run, "--num_samples=3", "--prefix=7 0"]
    status, text, errors = call("generate", *arguments)
    assert (status, errors) == (0, [])
    status, found, _ = call("generate", *arguments, "--format=json")
    (row,) = json.loads(found)
    assert len(row["sequences"]) == len(text.splitlines()) == 3
    for sequence, line in zip(row["sequences"], text.splitlines(), strict=True):
        assert sequence["tokens"][:2] == [7, 0]
        assert len(sequence["tokens"]) == 4
        assert line.startswith(" ".join(map(str, sequence["tokens"])) + "  (log-probability -")
    _, found, _ = call("generate", *arguments, "--format=lines")
    assert found.splitlines() == [" ".join(map(str, each["tokens"])) for each in row["sequences"]]
    _, found, _ = call("generate", run, "--beam_size=2", "--format=json")
    log_probs = [s["log_prob"] for s in json.loads(found)[0]["sequences"]]
    assert len(log_probs) == 2
    assert log_probs == sorted(log_probs, reverse=True)
    refused(["--image", "of no use to a model of oracle"], "generate", run, "--image=a.png")
    refused(["--prefix=9", "0 to 8"], "generate", run, "--prefix=9")
    refused(["--prefix", "4 tokens of its sequences"], "generate", run, "--prefix=1 2 3 4")


def test_the_oracle_is_evaluated_and_swept(call, refused, oracle_run, tmp_path):
    shutil.copytree(oracle_run, tmp_path / "run")
    run, path = f"--workdir={tmp_path / 'run'}", tmp_path / "run" / "evaluation.json"
    arguments = [run, "--batch_size=4", "--checkpoint=pretrain_generator,last"]
    status, text, _ = call("evaluate", *arguments, "--sweep=temperature")
    assert status == 0
    assert "temperature 0.5" in text
    assert (tmp_path / "run" / "temperature.png").stat().st_size > 1000
    swept = json.loads(path.read_text())["sweep"]
    assert list(swept["checkpoints"]) == ["pretrain_generator", "last"]
    assert swept["comparisons"]["last"]["baseline"] == "pretrain_generator"
    points = {p["temperature"]: p["metrics"] for p in swept["checkpoints"]["last"]["points"]}
    assert list(points) == [0.5, 0.6, 0.7, 0.8, 0.9, 1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    status, text, _ = call("evaluate", run, "--batch_size=4")
    assert status == 0
    assert "oracle" in text.splitlines()[0]
    found = json.loads(path.read_text())
    assert found["sweep"] == swept  # and is not lost
    # At temperature 1 both read the same sequences, with the same numbers drawn for them.
    for name, figure in points[1.0].items():
        value = found["metrics"][name]["value"]
        assert value == pytest.approx(figure["value"], rel=1e-4), name
    assert len({figures["nll_test"]["value"] for figures in points.values()}) == len(points)


def test_what_a_task_has_no_use_for_is_refused(refused, oracle_run, scenes_run):
    run = f"--workdir={oracle_run}"
    refused(["--beam_size", "model of oracle"], "evaluate", run, "--beam_size=2")
    refused(["--rerank", "model of oracle"], "evaluate", run, "--rerank=2")
    refused(["--temperature", "model of oracle", "--sweep"], "evaluate", run, "--temperature=0.5")
    refused(["--num_samples", "sweep"], "evaluate", run, "--sweep=temperature", "--num_samples=2")
    refused(["--sweep", "captions"], "evaluate", f"--workdir={scenes_run}", "--sweep=temperature")


def test_what_the_discriminator_accepts(call, refused, oracle_run, text_run, tmp_path):
    shutil.copytree(oracle_run, tmp_path / "run")
    run = f"--workdir={tmp_path / 'run'}"
    arguments = [run, "--reject", "--num_samples=7", "--format=json"]
    status, text, (told,) = call("generate", *arguments)
    assert status == 0
    (row,) = json.loads(text)
    assert len(row["sequences"]) == 7
    drawn = re.fullmatch(r"drew (\d+) sequences to keep 7: ([\d.]+) for each(; .*)?", told)
    assert int(drawn[1]) / 7 == pytest.approx(float(drawn[2]), abs=0.05)
    assert call("generate", *arguments)[1] == text
    status, text, _ = call("evaluate", run, "--batch_size=4", "--reject")
    assert status == 0
    title, _, *lines = text.splitlines()
    assert title.index("last") < title.index("last, accepted") < title.index("oracle")
    rows = {line.split()[0]: line for line in lines}
    assert rows["js"].count("±") == 2
    figures = json.loads((tmp_path / "run" / "evaluation.json").read_text())["metrics"]
    for name in ("js", "reverse_kl", "forward_kl", "nll_oracle"):
        assert figures[f"accepted_{name}"]["value"] != figures[name]["value"]
    # The data's own density is nothing that sampling changes.
    assert figures["accepted_oracle_entropy"] == figures["oracle_entropy"]
    draws, mean = (figures[f"accepted_{n}"]["value"] for n in ("draws_per_sample", "acceptance"))
    assert 1 <= draws <= 40
    assert 0 < mean < 1
    (record,) = [r for r in read_metrics(oracle_run) if "calibration/scale" in r]
    assert record["phase"] == "calibrate"
    assert 0 < record["calibration/acceptance"] < 1
    refused(["--reject", "--rerank"], "generate", run, "--reject", "--rerank=2")
    refused(["--reject", "--beam_size"], "generate", run, "--reject", "--beam_size=2")
    refused(["--reject", "sweep"], "evaluate", run, "--reject", "--sweep=temperature")
    words = ["--reject", "checkpoint finetune", "not calibrated"]
    refused(words, "evaluate", run, "--reject", "--checkpoint=finetune")
    refused(["not calibrated"], "generate", f"--workdir={text_run}", "--reject")


# External rewards


def test_a_run_survives_a_users_function(tiny_config, tmp_path, monkeypatch, capsys):
    """It fails at its third call; mended, the same command ends the run, each step done once."""
    calls = []

    def score(samples, references, sources):
        calls.append(samples)
        assert all(len(truths) == 2 for truths in references)
        assert all(source.shape == (2, 3) for source in sources)
        if len(calls) == 3:
            raise KeyError("not in my list")
        return [len(sample) / 100 for sample in samples]

    monkeypatch.setitem(sys.modules, "taste", types.SimpleNamespace(score=score))
    tiny_config.reward.update(function="taste:score", weight=0.5)
    tiny_config.phases.order = ("pretrain_generator", "adversarial")
    tiny_config.phases.pretrain_generator.steps = 1
    tiny_config.phases.adversarial.steps = 8
    tiny_config.phases.adversarial.generator.update(estimator="dense", baseline="position")
    with pytest.raises(SystemExit) as stop:
        start.main(lambda: train(tiny_config, str(tmp_path), quiet=True))
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: config.reward.function: taste:score failed with KeyError: ")
    assert "not in my list" in line
    # The generator's third turn is the fifth update of the phase.
    assert Checkpoints(tmp_path, read_only=True).find("last") == 5
    train(tiny_config, str(tmp_path), quiet=True)
    rows = [r for r in read_metrics(tmp_path) if "generator/external_reward" in r]
    assert [r["step"] for r in rows] == [2, 4, 6, 8]
    assert all(0 < r["generator/external_reward"] < 1 for r in rows)


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("rejection.rate", 0.0, ["config.rejection.rate: 0.0"]),
        ("rejection.tries", 0, ["config.rejection.tries: 0"]),
        ("reward.weight", 1.5, ["config.reward.weight: 1.5", "0 to 1"]),
        ("reward.weight", 0.5, ["config.reward", "set both"]),
        ("reward.function", "bleu", ["config.reward", "'bleu' with weight 0.0", "set both"]),
    ],
)
def test_bad_sampling_and_rewards(refused_training, option, value, words):
    refused_training(words, **{option: value})


def test_rewards_that_phases_have_no_use_for(refused_training):
    reward = {"reward.function": "length", "reward.weight": 0.5}
    words = ["config.reward.function", "no phase has a policy gradient"]
    refused_training(words, **reward, **{"phases.order": "('pretrain_generator',)"})


# Anybody's samples


@pytest.fixture
def sample_files(tmp_path):
    """Two files of samples, references and a training text, of the oracle's tokens."""
    rng = np.random.default_rng(0)
    for name, count in (("a.txt", 30), ("b.txt", 40), ("real.txt", 60), ("train.txt", 50)):
        rows = rng.integers(0, 9, (count, 4))
        (tmp_path / name).write_text("\n".join(" ".join(map(str, row)) for row in rows))
    return tmp_path


@pytest.fixture
def quick_judge(monkeypatch):
    """Training a judge is tested where it lives."""
    verdict = judges.Verdict(*[Metric(0.5, 0.1, 12, "0-1")] * 2)
    monkeypatch.setattr(judges, "real_or_generated", lambda *_, **__: verdict)


def test_samples_are_judged_without_a_run(call, sample_files, quick_judge):
    files = {x: sample_files / f"{x}.txt" for x in ("real", "train")}
    output = sample_files / "found.json"
    arguments = [f"--samples={sample_files / 'a.txt'}", f"--references={files['real']}"]
    arguments += [f"--training={files['train']}", f"--output={output}", "--embedder=lsa"]
    status, text, errors = call("evaluate", *arguments)
    assert (status, errors) == (0, [])
    for words in ("references", "quality_diversity", "novel_sentences", "judge_accuracy",
                  "30 sentences of each, against 30 references", f"written: {output}"):  # fmt: skip
        assert words in text
    found = json.loads(output.read_text())
    assert found["embedder"] == "lsa"
    ours, real = found["metrics"].values()
    assert list(found["metrics"]) == [str(sample_files / "a.txt"), "references"]
    assert ours.keys() == real.keys()
    assert ours["lm_score"]["n"] == 30
    _, text, _ = call("evaluate", *arguments[:2], "--embedder=lsa", "--calibrate=false")
    assert "30 sentences of each, against 60 references\n" in text
    assert "novel_sentences" not in text


def test_files_and_a_run_side_by_side(call, oracle_run, sample_files, quick_judge):
    names = [str(oracle_run), str(sample_files / "a.txt"), str(sample_files / "b.txt")]
    output = sample_files / "c.json"
    status, text, _ = call(
        "evaluate", "--compare", *names, f"--references={sample_files / 'real.txt'}",
        f"--output={output}", "--embedder=lsa",
    )  # fmt: skip
    assert status == 0
    found = json.loads(output.read_text())["metrics"]
    assert list(found) == [*names, "references"]
    # 30 were drawn from the run: words of the oracle, four a line.
    assert found[names[0]]["length"]["value"] == 4
    assert found[names[0]]["lm_score"]["n"] == 30
    assert (sample_files / "c.png").stat().st_size > 1000
    assert f"picture: {sample_files / 'c.png'}" in text


def test_runs_side_by_side_by_what_was_found(call, refused, oracle_run, tmp_path):
    one, two, other = (tmp_path / name for name in ("one", "two", "other"))
    figures = lambda x: {
        name: Metric(x, 0.1, 9, "nats/token") for name in ("forward_kl", "reverse_kl")
    }
    for folder, x in ((one, 1.0), (two, 0.5), (other, 2.0)):
        folder.mkdir()
        task = "captions" if folder == other else "oracle"
        points = {t: figures(x + t) for t in (0.5, 1.0)}
        entry = sweep.entry(
            {"last": points}, {"last": 3}, ("forward_kl", "reverse_kl"), split="test", seed=0
        )
        found = figures(x) | {"frechet": Metric(x, None, 9, folder.name)}
        write_evaluation(
            folder / "evaluation.json", task=task, split="test", checkpoint="last", seed=0,
            metrics=found, sweep=entry if folder != two else None,
        )  # fmt: skip
    output = f"--output={tmp_path / 'c.json'}"
    status, text, _ = call("evaluate", "--compare", one, two, output)
    assert status == 0
    # Distances of different embedders are no matter of comparison.
    assert "frechet, one" in text
    assert "frechet, two" in text
    assert "1.00 ± 0.10" in text
    assert "0.50 ± 0.10" in text
    found = json.loads((tmp_path / "c.json").read_text())
    assert found[str(two)]["metrics"]["forward_kl"]["value"] == 0.5
    assert (tmp_path / "c.png").stat().st_size > 1000
    for folder, size in ((one, 9), (two, 10)):
        config = {"data": {"seed": 0}, "codec": {"mean": {"steps": size}}, "seed": size}
        config["hole"] = {} if size == 9 else {"side": 0.5}  # an option that only one of them has
        (folder / "config.json").write_text(json.dumps(config))
    status, text, _ = call("evaluate", "--compare", one, two, output)
    assert status == 0
    assert f"not of the same data: config.codec.mean.steps is 9 of {one}, 10 of {two}" in text
    assert "seed" not in text
    assert "hole" not in text
    status, text, _ = call("evaluate", f"--compare={one}", "--sweep=temperature", output)
    assert status == 0
    assert "temperature 0.5" in text
    refused([str(two), "hasn't been swept", "--sweep=temperature"],
            "evaluate", "--compare", one, two, "--sweep=temperature")  # fmt: skip
    refused(["different tasks", f"captions of {other}"], "evaluate", "--compare", one, other)
    refused(["hasn't been evaluated"], "evaluate", "--compare", one, tmp_path)
    refused(["names something twice"], "evaluate", "--compare", one, one)


def test_bad_comparisons(refused, sample_files, scenes_run, oracle_run):
    a, real = sample_files / "a.txt", sample_files / "real.txt"
    refused(["--workdir=RUN, --samples=FILE and --compare"], "evaluate")
    refused(["give one of"], "evaluate", f"--samples={a}", f"--workdir={oracle_run}")
    refused(["--references: none given", str(a)], "evaluate", f"--samples={a}")
    refused([str(a), "real text"], "evaluate", "--compare", a)
    refused([f"--samples={oracle_run}", "directory"],
            "evaluate", f"--samples={oracle_run}", f"--references={real}")  # fmt: skip
    references = f"--references={real}"
    refused(["--references", "of no use"], "evaluate", f"--workdir={oracle_run}", references)
    refused(["same sentences"], "evaluate", f"--samples={real}", references)
    refused(["same sentences", "--training"],
            "evaluate", f"--samples={a}", references, f"--training={real}")  # fmt: skip
    refused(["missing.txt", "no such file"],
            "evaluate", f"--samples={sample_files / 'missing.txt'}", references)  # fmt: skip
    refused(["--sweep", "no temperature"],
            "evaluate", f"--samples={a}", references, "--sweep=temperature")  # fmt: skip
    refused([str(scenes_run), "captions", "sources"],
            "evaluate", "--compare", scenes_run, references)  # fmt: skip
    refused(["--embedder=glove"], "evaluate", f"--samples={a}", references, "--embedder=glove")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("oracle.params", "missing.npz", ["missing.npz", "can't be read"]),
        ("generator.noise_size", 3, ["config.generator.noise_size", "set 0"]),
        ("encoder.kind", "features", ["config.encoder.kind", "set none"]),
        ("data.train_size", 0, ["config.data.train_size"]),
        ("phases.adversarial.discriminator.mismatch", 0.5, ["mismatch", "no sources"]),
        ("phases.pretrain_generator.generator.words", 0.5, ["words", "no sources"]),
        (
            "phases.adversarial.discriminator.gradient_penalty",
            1.0,
            ["config.phases.adversarial.discriminator.gradient_penalty", "choose cnn"],
        ),
        (
            "phases.adversarial.frozen",
            "('generator/nothing',)",
            ["config.phases.adversarial.frozen", "'generator/nothing'", "generator/embedding"],
        ),
        ("guard.backoff", 2.0, ["config.guard.backoff", "0 to 1"]),
    ],
)
def test_bad_oracles(refused, tmp_path, option, value, words):
    arguments = [f"--config={ROOT / 'configs' / 'oracle.py'}:smoke", f"--workdir={tmp_path}"]
    refused(words, "train", *arguments, f"--config.{option}={value}")
    assert not (tmp_path / "config.json").exists()


def test_the_papers_recipe_is_the_papers():
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"]("paper")
    epoch = config.data.train_size // 64
    pretraining, judging, rounds = (config.phases[name] for name in config.phases.order)
    assert (pretraining.steps, pretraining.batch_size) == (120 * epoch, 64)
    # An update of the discriminator sees 32 real and 32 generated sequences.
    assert judging.steps * judging.batch_size == 50 * 3 * 64 * epoch
    update = rounds.generator
    assert (update.updates, update.num_rollouts, update.rollout_decay) == (1, 16, 0.8)
    assert rounds.discriminator.updates * rounds.discriminator.batch_size == 5 * 3 * 64 * epoch
    assert rounds.steps == 200 * (1 + rounds.discriminator.updates)
    # The loss is summed over the batch and time; ours is a mean of this many tokens.
    assert update.policy_gradient == rounds.batch_size * config.data.length
    assert (update.learning_rate, rounds.discriminator.learning_rate, config.clip) == (
        0.01, 1e-4, 5.0
    )  # fmt: skip
    judge = config.discriminator
    assert dict(zip(judge.widths, judge.filters, strict=True)) == {
        1: 100, 2: 200, 3: 200, 4: 200, 5: 200, 6: 100, 7: 100, 8: 100, 9: 100, 10: 100,
        15: 160, 20: 160,
    }  # fmt: skip
    assert (judge.embedding_size, judge.gate_bias, judge.dropout, judge.l2) == (64, -2, 0.25, 0.2)
    generator = config.generator
    sizes = generator.embedding_size, generator.hidden_size, generator.num_layers
    assert (*sizes, generator.init_scale, generator.noise_size) == (32, 32, 1, 0.1, 0)


@pytest.mark.parametrize("variant", ["default", "paper", "smoke"])
def test_oracle_variants_are_whole(variant):
    config = runpy.run_path(str(ROOT / "configs" / "oracle.py"))["get_config"](variant)
    phases = schedule.parse(config.phases)
    assert [phase.name for phase in phases] == list(config.phases.order)
    assert config.generator.noise_size == 0
    assert not any(phase.discriminator and phase.discriminator.mismatch for phase in phases)


# Text


@pytest.fixture(scope="module")
def text_options(tmp_path_factory):
    """What makes configs/text.py:smoke tiny, on 60 lines of six words."""
    path = tmp_path_factory.mktemp("text") / "lines.txt"
    rng = np.random.default_rng(0)
    words = ("a", "red", "dog", "cat", "runs", "sits")
    lines = [" ".join(rng.choice(words, rng.integers(2, 6))) for _ in range(60)]
    path.write_text("\n".join(lines))
    options = {
        "data.path": str(path),
        "data.validation_share": 0.2,
        "data.test_share": 0.2,
        "codec.min_count": 1,
        "codec.max_length": 6,
        "generator.num_layers": 1,
        "discriminator.num_layers": 1,
        "evaluation.batch_size": 4,
        "evaluation.validation_limit": 8,
        "evaluation.num_pictures": 2,
        "evaluation.temperatures": (0.5, 1.0),
        "phases.order": ("pretrain_generator", "adversarial"),
    }
    for name in ("pretrain_generator", "adversarial"):
        options |= {f"phases.{name}.steps": 2, f"phases.{name}.batch_size": 4}
    return options


@pytest.fixture(scope="module")
def text_trained(text_options, tmp_path_factory):
    """A run's directory and what it printed."""
    config = runpy.run_path(str(ROOT / "configs" / "text.py"))["get_config"]("smoke")
    config.update_from_flattened_dict(text_options)
    workdir = tmp_path_factory.mktemp("text-run")
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        train(config.lock(), str(workdir))
    return workdir, printed.getvalue()


@pytest.fixture(scope="module")
def text_run(text_trained):
    return text_trained[0]


def test_text_trains_and_shows_temperatures(text_trained):
    text_run, text = text_trained
    for words in ("data: ", "60 lines", "lm_score", "quality_diversity"):
        assert words in text
    shown = text.partition("at temperature 0.5:\n")[2]
    cold, _, warm = shown.partition("sequences that it writes at temperature 1:\n")
    assert len(cold.splitlines()) == 2
    assert len(warm.partition("report: ")[0].splitlines()) == 2
    assert "never saw" not in text
    assert len(json.loads((text_run / "samples" / "final" / "texts.json").read_text())) == 2


def test_text_is_written_as_asked_for(call, refused, text_run, tmp_path):
    run = f"--workdir={text_run}"
    arguments = [run, "--num_samples=110", "--prefix=red", "--ban=dog,cat", "--length=4"]
    status, text, errors = call("generate", *arguments, "--seed=3")
    assert (status, errors) == (0, [])
    lines = text.splitlines()
    assert len(lines) == 110
    assert all(line.split()[0] == "red" and len(line.split()) <= 4 for line in lines)
    assert max(len(line.split()) for line in lines) == 4
    assert not {"dog", "cat", "<unk>"} & set(text.split())
    assert call("generate", *arguments, "--seed=3")[1] == text
    fewer = [run, "--num_samples=100", *arguments[2:]]
    assert call("generate", *fewer, "--seed=4")[1].splitlines() != lines[:100]
    fewer += ["--seed=3"]
    _, found, _ = call("generate", *fewer, "--format=json")
    (row,) = json.loads(found)
    for line, written in zip(lines[:100], row["texts"], strict=True):
        assert written["text"] == line
        assert len(written["tokens"]) == len(written["token_log_probs"]) <= 4
        assert sum(written["token_log_probs"]) == pytest.approx(written["log_prob"], rel=1e-4)
    path = tmp_path / "samples.txt"
    status, said, _ = call("generate", *arguments, "--seed=3", f"--output={path}")
    assert status == 0
    assert path.read_text() == text
    assert lines[0] not in said
    refused(["--output", "can't be written"], "generate", run, f"--output={tmp_path}/no/such.txt")
    refused(["--ban=zebra", "no token"], "generate", run, "--ban=zebra")
    refused(["--length=7", "1 to 6 tokens"], "generate", run, "--length=7")
    refused(["--prefix", "2 tokens"], "generate", run, "--length=2", "--prefix=red dog")
    refused(["--input", "no use"], "generate", run, "--input=a.npz")


def test_text_is_evaluated(call, text_run, tmp_path):
    shutil.copytree(text_run, tmp_path / "run")
    run = f"--workdir={tmp_path / 'run'}"
    status, text, _ = call("evaluate", run, "--batch_size=4", "--limit=8")
    assert status == 0
    assert "real text" in text.splitlines()[0]
    found = json.loads((tmp_path / "run" / "evaluation.json").read_text())
    assert {"nll", "lm_score", "self_bleu_4", "novel_sentences"} <= set(found["metrics"])


@pytest.mark.parametrize(
    ("content", "changes", "words"),
    [
        (b"", {}, ["lines.txt", "is empty"]),
        (b"one\n\0\n", {}, ["lines.txt: line 2", "zero byte"]),
        (b"one\ntwo\ncaf\xe9", {}, ["lines.txt: line 3", "not UTF-8"]),
        (b"one\n" + b"x" * 2**21, {}, ["lines.txt: line 2", "longer than"]),
        (b"one\ntwo\n" * 9, {"codec.kind": r"regex:\d+"}, ["config.codec.kind", "matches nothing"]),
        (None, {"phases.adversarial.batch_size": 64}, ["lines.txt", "fewer than a batch"]),
        (b'{"a": "b"}\n{"c": "d"}', {"data.field": "a"}, ["lines.jsonl: line 2", "'a'"]),
        (b"a,b\n1,2\n", {"data.field": "c"}, ["lines.csv", "no column 'c'"]),
        (None, {"data.source": "web"}, ["config.data.source", "docstrings, cfg, path"]),
        (None, {"data.path": "no-such.txt"}, ["config.data.path", "no-such.txt", "no such file"]),
        (None, {"data.too_long": "wrap"}, ["config.data.too_long", "cut, split, drop"]),
    ],
)
def test_bad_text(refused, text_options, tmp_path, content, changes, words):
    options = text_options | changes
    if content is not None:
        path = tmp_path / words[0].partition(":")[0]
        path = path if path.suffix else tmp_path / "lines.txt"
        path.write_bytes(content)
        options["data.path"] = path
    arguments = [f"--config.{name}={value}" for name, value in options.items()]
    config = f"--config={ROOT / 'configs' / 'text.py'}:smoke"
    refused(words, "train", config, f"--workdir={tmp_path / 'run'}", *arguments)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize("variant", ["default", "smoke", "cfg", "image_coco", "large"])
def test_text_variants_are_whole(variant):
    config = runpy.run_path(str(ROOT / "configs" / "text.py"))["get_config"](variant)
    phases = schedule.parse(config.phases)
    assert [phase.name for phase in phases] == list(config.phases.order)
    assert not any(phase.discriminator and phase.discriminator.mismatch for phase in phases)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_large_buffers_stay_in_the_process():
    """Pages are asked of the system once, and not at every allocation."""
    code = """
import resource, sys
import numpy as np
from seqgan_jax.programs import start
if sys.argv[1] == "keep":
    start.keep_memory()
for _ in range(10):
    np.zeros(2**23) + 1.0
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    np.full(2**23, 1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
    faults = {
        how: int(subprocess.run([sys.executable, "-c", code, how], check=True, capture_output=True,
                                text=True).stdout)
        for how in ("keep", "default")
    }  # fmt: skip
    assert faults["keep"] < 0.1 * faults["default"]


# Translation: sources that are texts


@pytest.fixture(scope="module")
def translation_run(tmp_path_factory):
    """A run that has learned nothing, with one checkpoint."""
    config = runpy.run_path(str(ROOT / "configs" / "translation.py"))["get_config"]("smoke")
    config.codec.update(max_length=5, max_source_length=20)
    workdir = tmp_path_factory.mktemp("translation")
    with Progress(quiet=True) as progress:
        run = Run(workdir, config, progress)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(run.loop.initial_state(), phase="adversarial", ended=True, score=None)
        checkpoints.close()
    return workdir


def test_texts_are_translated(call, translation_run, tmp_path):
    run = f"--workdir={translation_run}"
    texts = ["four", "seventy-one", "9:15:00 at night"]
    (tmp_path / "in.txt").write_text("\n".join(texts[1:]))
    arguments = [run, f"--text={texts[0]}", f"--input={tmp_path / 'in.txt'}", "--beam_size=2"]
    status, found, errors = call("generate", *arguments, "--format=json")
    assert (status, errors) == (0, [])
    rows = json.loads(found)
    assert [row["source"] for row in rows] == texts
    for row in rows:
        best, second = row["translations"]
        assert best["log_prob"] >= second["log_prob"]
        assert best["translation"] != second["translation"]
        assert 0 < best["score"] < 1
    output = tmp_path / "out.txt"
    status, found, _ = call("generate", *arguments, "--format=lines", f"--output={output}")
    assert (status, found) == (0, "")
    assert output.read_text() == "".join(f"{r['translations'][0]['translation']}\n" for r in rows)


def test_requests_come_in_parts():
    batch = {"source": {"a": np.arange(7)}, "source_mask": None, "weight": np.ones(7, np.float32)}
    found = list(parts(batch, 3))
    assert [part["source"]["a"].tolist() for part in found] == [[0, 1, 2], [3, 4, 5], [6, 6, 6]]
    assert [part["weight"].tolist() for part in found] == [[1, 1, 1], [1, 1, 1], [1, 0, 0]]
    (whole,) = parts(batch, 9)
    assert whole["source"]["a"].tolist() == list(range(7))


def test_bad_texts_to_translate(refused, translation_run, scenes_run, tmp_path):
    run = f"--workdir={translation_run}"
    (tmp_path / "in.txt").write_bytes(b"four\nf\xfcnf\n")
    for words, *arguments in (
        (["--text", "none given", "--input"],),
        (["--text", "20 at most"], "--text=" + "seven " * 20),
        (["--text", "is empty"], "--text= "),
        (["in.txt: line 2", "UTF-8"], f"--input={tmp_path / 'in.txt'}"),
        (["no-such.txt", "can't be read"], "--input=no-such.txt"),
        (["--image", "model of translation"], "--image=a.png"),
    ):
        refused(words, "generate", run, *arguments)
    refused(["--text", "model of captions"], "generate", f"--workdir={scenes_run}", "--text=a")


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("data.target_language", "xx", ["config.data.target_language", "'xx'", "de, en"]),
        ("data.path", "missing", ["missing", "no such folder", "missing.en"]),
        ("codec.max_length", 1, ["config.codec.max_length: 1"]),
        ("encoder.kind", "features", ["config.encoder.kind", "bilstm or transformer"]),
    ],
)
def test_bad_translation_settings(refused, tmp_path, option, value, words):
    arguments = [f"--config={ROOT / 'configs' / 'translation.py'}:smoke", f"--workdir={tmp_path}"]
    refused(words, "train", *arguments, f"--config.{option}={value}")
    assert not (tmp_path / "config.json").exists()


def test_files_of_different_lengths(refused, tmp_path):
    (tmp_path / "train.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "train.de").write_text("eins\nzwei\n")
    arguments = [f"--config={ROOT / 'configs' / 'translation.py'}:smoke", f"--workdir={tmp_path}/r"]
    words = ["train.en has 3 lines", "train.de has 2"]
    refused(words, "train", *arguments, f"--config.data.path={tmp_path}")


def test_unreadable_compiled_program_is_replaced(tmp_path, monkeypatch):
    """JAX itself would leave a cut-off entry where it is, to fail at every start."""
    monkeypatch.setenv("SEQGAN_JAX_CACHE", str(tmp_path))
    monkeypatch.setattr("warnings.showwarning", warnings.showwarning)
    names = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: getattr(jax.config, name) for name in names}

    def compile_again():
        compilation_cache.reset_cache()
        return jax.jit(lambda x: x * 1.5)(np.ones(2, np.float32)).tolist()

    try:
        start.compilation_cache()
        compile_again()
        (entry,) = (tmp_path / "compiled").glob("*lambda*-cache")
        whole = entry.read_bytes()
        entry.write_bytes(whole[: len(whole) // 2])
        assert compile_again() == [1.5, 1.5]
        # Whole again; a program compiled twice differs by a few bytes.
        rebuilt = entry.read_bytes()
        assert len(rebuilt) == pytest.approx(len(whole), rel=0.1)
        # And sound: read at the next start, not replaced.
        assert compile_again() == [1.5, 1.5]
        assert entry.read_bytes() == rebuilt
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


# Speech

SPEECH = f"--config={ROOT / 'configs' / 'speech.py'}:smoke"


@pytest.fixture(scope="module")
def speech_run(tmp_path_factory):
    """A run on spoken digits that has learned nothing, with one checkpoint."""
    config = runpy.run_path(str(ROOT / "configs" / "speech.py"))["get_config"]("smoke")
    config.data.update(train_size=12, validation_size=2, test_size=2)
    config.codec.update(size=8, max_length=6)
    workdir = tmp_path_factory.mktemp("speech")
    with Progress(quiet=True) as progress:
        run = Run(workdir, config, progress)
        checkpoints = Checkpoints(workdir)
        checkpoints.save(run.loop.initial_state(), phase="adversarial", ended=True, score=None)
        checkpoints.close()
    return workdir


def test_a_phrase_becomes_a_sound_file(call, speech_run, tmp_path):
    run, out = f"--workdir={speech_run}", tmp_path / "out.wav"
    status, text, errors = call("generate", run, "--text=seven two", f"--output={out}")
    assert (status, errors) == (0, [])
    name, spoken, written = text.splitlines()[-3:]
    assert name == "seven two"
    assert "s of speech" in spoken
    assert written == f"written: {out}"
    with wave.open(str(out)) as file:
        assert file.getframerate() == 16_000
        # Codes of 64 ms, six at most.
        assert file.getnframes() % 1024 == 0
        assert file.getnframes() <= 6 * 1024
    arguments = ["--text=seven", "--text=two", f"--output={out}", "--speaker=f2", "--format=json"]
    status, text, _ = call("generate", run, *arguments)
    rows = json.loads(text)
    assert [row["text"] for row in rows] == ["seven", "two"]
    for number, row in enumerate(rows, start=1):
        with wave.open(str(tmp_path / f"out-{number}.wav")) as file:
            (recording,) = row["recordings"]
            assert file.getnframes() == 1024 * len(recording["codes"])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--text=eighty!"], ["--text=eighty!", "never seen", "'!'"]),
        ([f"--text={'seven ' * 9}"], ["--text=seven", "24 at most", "split the phrase"]),
        (["--text=two", "--speaker=m9"], ["--speaker=m9", "m3, f2"]),
        (["--text="], ["--text", "is empty"]),
        ([], ["--text", "none given"]),
        (["--image=a.png"], ["--image", "of no use to a model of speech"]),
        (["--text=two", "--prefix=one"], ["--prefix=one", "of no use"]),
        (["--text=two", "--output=no/out.wav"], ["no/out.wav", "can't be written"]),
        (["--text=two", "--output=out.mp3"], ["--output=out.mp3", ".wav", ".txt", "choose"]),
    ],
)
def test_bad_requests_for_speech(refused, speech_run, arguments, words):
    refused(words, "generate", f"--workdir={speech_run}", *arguments)


def test_speech_without_its_packages(refused, monkeypatch, tmp_path):
    espeak.cache_clear()
    monkeypatch.setitem(sys.modules, "espeakng_loader", None)
    words = ["eSpeak NG", "is not installed; run pip install 'seqgan_jax[speech]'"]
    refused(words, "train", SPEECH, f"--workdir={tmp_path / 'run'}")
    assert not (tmp_path / "run" / "config.json").exists()
