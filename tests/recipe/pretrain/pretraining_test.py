"""Pretraining as users run it: stopped, resumed elsewhere, on other or broken data."""

import dataclasses
import json
import os
import signal
import socket
import subprocess
import sys
import time

import chex
import numpy as np
import pytest

from nemojax.data.pretraining import blends, token_corpus
from nemojax.data.pretraining.blends import ClassBlend
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.data.text import tokenizer
from nemojax.interop import model_folder
from nemojax.io.quarantine import DataError
from nemojax.io.workdir import WorkdirError
from nemojax.models.config import ModelConfig
from nemojax.parallel import layout
from nemojax.parallel.layout import LayoutSpec
from nemojax.recipe.pretrain import pretraining, report
from nemojax.recipe.pretrain import run as running
from nemojax.training import metrics, schedule
from nemojax.training.learning_rate import LearningRate
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.schedule import Schedule
from nemojax.training.stage import Options
from nemojax.training.stopping import Stopped
from tests.data.pretraining.token_corpus_test import TEXTS, write_text

pytestmark = pytest.mark.usefixtures("quick_compile")

# All rows at once, nothing computed again: quick for a small model.
WHOLE = LayoutSpec(**layout.WHOLE)
EVEN = {name: ClassBlend(1.0) for name in TEXTS}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """A folder of tokenized text."""
    folder = tmp_path_factory.mktemp("text")
    texts = [text for pair in TEXTS.values() for text in pair] * 20
    model = tokenizer.train(texts, vocab_size=420)
    jobs = token_corpus.jobs(write_text(folder / "data"), folder / "tokens", 0.25)
    token_corpus.tokenize(jobs, model, folder / "tokens")
    return folder / "tokens"


def settings(**changes):
    config = ModelConfig(
        vocab_size=420,
        num_layers=2,
        d_model=16,
        num_heads=2,
        num_kv_heads=2,
        head_dim=8,
        d_ff=32,
        compute_dtype="float32",
    )
    ramped = Schedule(72, 8, LearningRate(1e-2, warmup=8), 4, 4, ramp_samples=24)
    values = {"length": 16, "validate_every": 4, "validation_rows": 8} | changes
    return pretraining.PretrainSettings(config, ramped, OptimizerConfig(), **values)


def run(
    tokens, workdir, spec=WHOLE, wanted=None, blend=EVEN, start=None,
    allow_data_change=False, **options,
):  # fmt: skip
    options = {"checkpoint_every": 5} | options
    result = running.run(
        wanted or settings(),
        TokenCorpus(tokens),
        [blend],
        workdir,
        Options(spec, **options),
        start=start,
        allow_data_change=allow_data_change,
    )
    assert result is not None
    return result[0]


def rows(workdir):
    return metrics.read_metrics(workdir / "metrics.jsonl")


@pytest.fixture(scope="module")
def whole(tokens, tmp_path_factory):
    """The work folder of a run that nothing stopped."""
    path = tmp_path_factory.mktemp("whole") / "run"
    run(tokens, path)
    return path


@pytest.fixture
def stop_at(monkeypatch):
    """Lets SIGTERM come while the batch of a step is made; lists what was asked for."""
    read = pretraining.Batches.__getitem__
    wanted, asked = set(), []

    def __getitem__(self, k):
        asked.append(k)
        if k in wanted:
            wanted.discard(k)
            os.kill(os.getpid(), signal.SIGTERM)
        return read(self, k)

    monkeypatch.setattr(pretraining.Batches, "__getitem__", __getitem__)
    return wanted.add, asked


def test_a_run_leaves_its_metrics_report_picture_and_model(whole):
    report = json.loads((whole / "report.json").read_text())
    last = rows(whole)[-1]
    # Six steps of four samples, six of eight.
    assert [row["samples"] for row in rows(whole)] == [
        *range(4, 25, 4),
        *range(32, 73, 8),
    ]
    assert report["samples"] == 72 and report["final"]["tokens"] == 72 * 16
    assert report["mix"]["english"]["share"] == pytest.approx(1 / 3, abs=0.02)
    measured = [row["step"] for row in rows(whole) if "bits_per_byte_code" in row]
    assert measured == [4, 8, 12]
    assert last["bits_per_byte_english"] < rows(whole)[3]["bits_per_byte_english"]
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")
    assert (whole / "model" / "tokenizer.model").exists()
    assert sum(report["goodput"].values()) > 0
    assert report["attention"] == "blocks"


def test_on_other_meshes_a_stopped_run_takes_the_same_samples(
    tokens, whole, tmp_path, stop_at
):
    """One device in passes, then data=2, then tensor=2: each step once, same losses.

    The batch grows in the first part, so that each mesh compiles one step."""
    stop, asked = stop_at
    folder = tmp_path / "run"
    wanted = settings(validate_every=0)
    done = 0
    for last, spec in ((7, LayoutSpec()), (9, LayoutSpec(data=2, rows=2))):
        stop(last)
        asked.clear()
        with pytest.raises(Stopped):
            run(tokens, folder, spec, wanted)
        assert asked[0] == done
        done = int(rows(folder)[-1]["step"])
    asked.clear()
    run(tokens, folder, dataclasses.replace(WHOLE, tensor=2), wanted)
    assert asked[0] == done
    assert [row["step"] for row in rows(folder)] == list(range(1, 13))
    for name in ("loss", "grad_norm"):
        ours, expected = ([row[name] for row in rows(path)] for path in (folder, whole))
        np.testing.assert_allclose(ours, expected, rtol=2e-5)


def test_other_data_are_refused_unless_allowed(tokens, whole, tmp_path, stop_at):
    stop, _ = stop_at
    folder = tmp_path / "run"
    stop(2)
    with pytest.raises(Stopped):
        run(tokens, folder)
    other = EVEN | {"code": ClassBlend(2.0)}
    with pytest.raises(WorkdirError, match=r"changed: blend.*--allow_data_change"):
        run(tokens, folder, blend=other)
    with pytest.raises(WorkdirError, match="seed"):
        run(tokens, folder, wanted=settings(seed=1))
    run(tokens, folder, blend=other, allow_data_change=True)


def test_too_much_damage_stops_a_run_and_is_written_down(tokens, tmp_path):
    folder = tmp_path / "tokens"
    for path in sorted(tokens.rglob("*")):
        target = folder / path.relative_to(tokens)
        if path.is_dir():
            target.mkdir(parents=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    corpus = TokenCorpus(folder)
    for file in corpus.files:
        if file.facts["input"] == "english-0.jsonl":
            content = bytearray(file.path.read_bytes())
            for record in range(4):
                content[content.index(file.read(record).tobytes()) + 4] ^= 1
            file.path.write_bytes(content)
    with pytest.raises(DataError, match=r"english-0\.jsonl.*--max_bad_fraction"):
        run(folder, tmp_path / "strict")
    faults = (tmp_path / "strict" / "data_faults.jsonl").read_text()
    assert json.loads(faults.splitlines()[0])["row"] in (1, 2, 3, 4)
    found = run(folder, tmp_path / "lax", wanted=settings(max_bad_fraction=1.0))
    assert 1 <= found["damaged_records"] <= 4 <= found["samples_with_damage"] + 3


def test_the_second_blend_begins_where_the_schedule_says(tokens):
    continued = schedule.get("nemotron4_continued")
    wanted = settings()
    short = dataclasses.replace(continued.of_steps(50), batch=4, samples=200)
    wanted = dataclasses.replace(wanted, schedule=short)
    two = [{"english": ClassBlend(1.0)}, {"code": ClassBlend(1.0)}]
    source = pretraining.open_samples(wanted, TokenCorpus(tokens), two)
    switch = short.at(short.switch_step)[0]
    names = [name for name, _ in source.places(0, 200)]
    assert names == ["english"] * switch + ["code"] * (200 - switch)
    assert switch / 200 == pytest.approx(0.711, abs=0.02)
    assert source.counts(200) == {"english": switch, "code": 200 - switch}
    with pytest.raises(ValueError, match="takes 2 blends, 1 are named"):
        pretraining.open_samples(wanted, TokenCorpus(tokens), two[:1])


def test_the_mix_of_ten_thousand_samples_is_the_one_wanted(tokens):
    wanted = dataclasses.replace(
        settings(),
        schedule=Schedule(10_000, 10, LearningRate(1e-3)),
        max_bad_fraction=1.0,
    )
    source = pretraining.open_samples(wanted, TokenCorpus(tokens), [blends.NEMOTRON])
    mix = report.mix(source, 10_000)
    assert max(abs(one["share"] - one["wanted"]) for one in mix.values()) < 1e-3
    shares = report.classes(mix)
    assert shares == pytest.approx(
        {"english": 0.7, "multilingual": 0.15, "code": 0.15}, abs=1e-3
    )


def _pretrain(tokens, folder, devices, *flags, process=None, port=0):
    """The program, with so many CPU devices; `process` is one of two."""
    cluster = []
    if process is not None:
        cluster = [f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"]
        cluster.append(f"--process_id={process}")
    command = [
        sys.executable, "-m", "experiments.pretrain", "--model=miniature",
        f"--data={tokens}", f"--workdir={folder}", "--steps=60", "--batch=8",
        "--schedule.samples=480", "--length=32", "--checkpoint_every=1000",
        "--max_bad_fraction=0", *flags, *cluster,
    ]  # fmt: skip
    share = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": share, "JAX_PLATFORMS": "cpu"}
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


def _pair(tokens, folder):
    """Two processes of two devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return [
        _pretrain(tokens, folder, 2, "--parallel.data=4", process=n, port=port)
        for n in range(2)
    ]


def _stopped(processes, folder, after):
    """Tells the first process to stop when so many steps are done; all end well."""
    deadline = time.monotonic() + 180
    while True:
        path = folder / "metrics.jsonl"
        if path.exists() and len(path.read_text().splitlines()) >= after:
            break
        for process in processes:
            assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    processes[0].send_signal(signal.SIGTERM)
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors


@pytest.mark.slow
def test_one_process_then_two_then_one_with_tensor_2_is_one_run(tokens, tmp_path):
    whole, folder = tmp_path / "whole", tmp_path / "run"
    process = _pretrain(tokens, whole, 1)
    assert process.wait(timeout=300) == 0
    _stopped([_pretrain(tokens, folder, 1)], folder, 10)
    first = rows(folder)[-1]["step"]
    _stopped(_pair(tokens, folder), folder, first + 10)
    second = rows(folder)[-1]["step"]
    assert first < second < 60
    flags = ("--parallel.data=2", "--parallel.tensor=2")
    process = _pretrain(tokens, folder, 4, *flags)
    _, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    assert [row["step"] for row in rows(folder)] == list(range(1, 61))
    assert [row["samples"] for row in rows(folder)] == list(range(8, 481, 8))
    losses = [[row["loss"] for row in rows(path)] for path in (folder, whole)]
    np.testing.assert_allclose(*losses, rtol=1e-4)


@pytest.mark.slow
def test_two_processes_write_the_model_that_one_writes(tokens, tmp_path):
    for process in _pair(tokens, tmp_path / "two"):
        _, errors = process.communicate(timeout=300)
        assert process.returncode == 0, errors
    assert (tmp_path / "two" / "model" / "tokenizer.model").exists()
    assert _pretrain(tokens, tmp_path / "one", 1).wait(timeout=300) == 0
    (config, params), (other, expected) = (
        model_folder.read(tmp_path / name / "model") for name in ("two", "one")
    )
    assert config == other
    chex.assert_trees_all_close(params, expected, rtol=1e-3, atol=1e-5)
