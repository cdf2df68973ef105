"""The scoring program: what it writes and says, and that kills change nothing."""

import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import time

import jax
import numpy as np
import pytest

from nemojax.data.text import tokenizer as tokenizers
from nemojax.models import forward, presets
from tests.inference.scoring.scored import (
    WORDS,
    contents,
    conversations,
    read_parts,
    write_model,
    write_rows,
)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A folder with a reward model of half a million parameters."""
    texts = [f"User\nAssistant\nSystem\n{word} {word} {word}" for word in WORDS]
    tokenizer = tokenizers.train(texts * 20, vocab_size=60, byte_fallback=False)
    config = presets.miniature(tokenizer.vocab_size)
    init = functools.partial(forward.init, config, num_attributes=5)
    params = jax.jit(init)(jax.random.key(0))
    kernel = np.random.default_rng(0).normal(size=(config.d_model, 5))
    params["reward_head"]["kernel"] = kernel.astype(np.float32)
    folder = tmp_path_factory.mktemp("scored") / "model"
    return write_model(folder, config, params, tokenizer)


def start(model, data, out, *flags):
    """As users start it: two devices, compiled as usual."""
    command = [sys.executable, "-m", "experiments.score", f"--model={model}"]
    environment = {key: os.environ[key] for key in os.environ if key != "XLA_FLAGS"}
    return subprocess.Popen(
        [*command, f"--data={data}", f"--out={out}", "--length=64", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )


def finished(*arguments, status=0):
    """(stdout, stderr) of a run that ends by itself."""
    process = start(*arguments)
    out, err = process.communicate(timeout=1800)
    assert process.returncode == status, err
    return out, err


def kill_after_a_part(arguments, seconds):
    """Kills a run that long after it has made a part; returns the parts there."""
    folder = arguments[2]

    def count():
        return len(list(folder.glob("part-?????.jsonl")))

    before, process = count(), start(*arguments)
    while count() == before:
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(seconds)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL, "the run is too short"
    assert not (folder / "summary.json").exists()
    return count()


def test_a_killed_run_goes_on_and_says_what_it_made(model, tmp_path):
    rows = [*conversations(1200), "{broken"]
    data = write_rows(tmp_path / "rows.jsonl", rows)
    arguments = model, data, tmp_path / "out", "--part_rows=50", "--json=-"
    kept = kill_after_a_part(arguments, 0.0)
    out, err = finished(*arguments)
    result = json.loads(out)
    assert (result["rows"], result["scored"], result["parts"]) == (1201, 1200, 25)
    assert kept < 25 and result["rejected"] == {"not JSON": 1}
    assert [row["row"] for row in read_parts(tmp_path / "out")] == list(range(1, 1201))
    last = err.strip().splitlines()[-1]
    assert last == f"25 files part-*.jsonl: {tmp_path / 'out'}"
    for text in ("helpfulness", "rows/s", "1 rejected", "rejected: not JSON: 1"):
        assert text in err
    assert "score (rows)" in err and " left" in err


def test_what_cannot_be_done_ends_with_one_line(model, tmp_path):
    data = write_rows(tmp_path / "rows.jsonl", conversations(3))
    _, err = finished(model, tmp_path / "absent.jsonl", tmp_path / "out", status=2)
    assert "absent.jsonl: no such file" in err and "Traceback" not in err
    _, err = finished(tmp_path, data, tmp_path / "out", status=2)
    assert "no model: neither" in err and "Traceback" not in err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_hundred_thousand_rows_killed_again_and_again(model, tmp_path):
    count = 100_000
    rows = conversations(count, most=8)
    for number in range(0, count, 1000):
        rows[number] = {"prompt": "red", "response": ""}
    halves = [rows[: count // 2], rows[count // 2 :]]
    for name, half in zip("ab", halves, strict=True):
        write_rows(tmp_path / "data" / f"{name}.jsonl", half)
    arguments = model, tmp_path / "data", tmp_path / "killed", "--part_rows=4096"
    rng = random.Random(0)
    parts = [kill_after_a_part(arguments, rng.uniform(0, 1)) for _ in range(4)]
    assert parts == sorted(set(parts))
    finished(*arguments)
    out, _ = finished(*arguments[:2], tmp_path / "whole", *arguments[3:])
    print(re.search(r"[\d,]+ rows/s, [\d,]+ tokens/s", out)[0])
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    found = [
        (row["file"][-7:], row["row"])
        for suffix in (".jsonl", ".rejects.jsonl")
        for row in read_parts(tmp_path / "killed", suffix)
    ]
    assert sorted(found) == [
        (f"{name}.jsonl", row) for name in "ab" for row in range(1, count // 2 + 1)
    ]
