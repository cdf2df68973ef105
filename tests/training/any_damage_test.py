"""Whatever happens to a file that this project wrote, no other value comes of it.

A damaged file is told by name, or what is read is what was written.
"""

import shutil

import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.data.pretraining import token_corpus, token_files
from nemojax.data.text import tokenizer as tokenizers
from nemojax.errors import UserError
from nemojax.interop import loading, model_folder
from nemojax.io import quarantine
from nemojax.io.journal import Journal, JournalRow
from nemojax.io.parts import Parts
from nemojax.io.workdir import Workdir
from nemojax.parallel.fingerprint import parameters_sha256
from nemojax.training import checkpoints, metrics
from tests.data.pretraining.token_corpus_test import TEXTS, write_text
from tests.interop.tiny import NEMOTRON, random_params
from tests.training import reference_test

FAST, ALL = 12, 60  # damages of each kind
ROWS = [JournalRow("s/1", {"text": f"row {n}"}, model="m") for n in range(9)]


def tokenizer():
    return tokenizers.train(
        [t for pair in TEXTS.values() for t in pair] * 20, vocab_size=420
    )


def write_model(folder):
    text = "the teacher teaches three texts, ==, 1 + 1 = 2\n"
    own = tokenizers.train([text] * 20, vocab_size=40, byte_fallback=False)
    own.save(folder.parent / "own.model")
    files = {"tokenizer.model": folder.parent / "own.model"}
    model_folder.save(folder, NEMOTRON, random_params(NEMOTRON), files=files)


def read_model(folder):
    found = loading.load(folder)
    return parameters_sha256(found.params), found.config, found.tokenizer.fingerprint


def state(step):
    rng = np.random.default_rng(step)
    return {"w": jnp.asarray(rng.normal(size=(40, 9)), jnp.float32)}


def write_checkpoints(folder):
    run = checkpoints.Checkpoints(folder)
    for step in (3, 6):
        run.save(step, state(step))
    run.close()


def read_checkpoints(folder):
    """The parameters of the newest step: a run that falls back tells of it."""
    run = checkpoints.Checkpoints(folder)
    try:
        found = run.restore(state(0))
    finally:
        run.close()
    return None if found is None else parameters_sha256(found)


def write_tokens(folder):
    data = write_text(folder.parent / "data", documents=4)
    token_corpus.tokenize(token_corpus.jobs(data, folder), tokenizer(), folder)


def read_tokens(folder):
    corpus = token_corpus.TokenCorpus(folder)
    ids = [file.read(k) for file in corpus.files for k in range(len(file.tokens))]
    totals = corpus.totals(token_files.TRAINING)
    size = corpus.bytes_per_token("code", token_files.TRAINING)
    return np.concatenate(ids).tobytes(), totals, corpus.fingerprint, size


def read_reference(folder):
    """The values, of which damaged ones were computed again."""
    return reference_test.filled(folder).values.tobytes()


def write_journal(folder):
    folder.mkdir()
    read_journal(folder)


def read_journal(folder):
    """All rows, of which those that are not there were made again."""
    with Journal(folder / "rows.jsonl") as journal:
        journal.append(row for row in ROWS if row.id not in journal)
        return sorted(row.id for row in journal)


def write_records(folder):
    """A run's folder with a stage, its metrics, and parts."""
    folder.mkdir()
    run = Workdir(folder, {"seed": 1, "rates": [0.1]})
    run.stage("one", lambda directory: {"loss": 1.5})
    run.close()
    log = metrics.MetricsLog(folder / "metrics.jsonl")
    for step in range(1, 5):
        log.write({"step": step, "loss": 1 / step})
    log.close()
    (folder / "parts").mkdir()
    bad = quarantine.Quarantine()
    bad.add(quarantine.BadRow("a.jsonl", 3, "text", "tie"))
    for part in range(2):
        Parts(folder / "parts").write([{"row": part}], bad, {"n": part})


def read_records(folder):
    run = Workdir(folder, {"seed": 1, "rates": [0.1]})
    try:
        result = run.stage("one", lambda directory: {"loss": 1.5}).result
    finally:
        run.close()
    metrics.MetricsLog(folder / "metrics.jsonl", start_step=4).close()
    rows = metrics.read_metrics(folder / "metrics.jsonl")
    parts = Parts(folder / "parts")
    for part in range(len(parts.facts), 2):  # those that are not whole are made again
        parts.write([{"row": part}], quarantine.Quarantine(), {"n": part})
    texts = [
        path.read_bytes() for path in sorted(parts.directory.glob("part-?????.j*l"))
    ]
    return result, rows, texts


KINDS = {
    "model": (write_model, read_model),
    "checkpoints": (write_checkpoints, read_checkpoints),
    "tokens": (write_tokens, read_tokens),
    "reference": (lambda folder: reference_test.filled(folder), read_reference),
    "journal": (write_journal, read_journal),
    "records": (write_records, read_records),
}


@pytest.fixture(scope="module", params=KINDS)
def written(request, tmp_path_factory):
    """A folder, what is read of it, and how."""
    write, read = KINDS[request.param]
    folder = tmp_path_factory.mktemp(request.param) / "whole"
    write(folder)
    copy = folder.with_name("copy")
    shutil.copytree(folder, copy)
    return folder, read(copy), read


def damage(folder, rng):
    """Flips a bit, cuts, deletes or zeroes a file, or swaps two; returns them."""
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.stat().st_size)
    path, other = (files[k] for k in rng.permutation(len(files))[[0, -1]])
    content = bytearray(path.read_bytes())
    at = rng.integers(len(content))
    match rng.integers(5):
        case 0:
            content[at] ^= 1 << rng.integers(8)
        case 1:
            del content[at:]
        case 2:
            path.unlink()
            return [path]
        case 3:
            size = min(len(content) - at, 1 + rng.integers(100))
            content[at : at + size] = bytes(size)
        case _:
            content = bytearray(other.read_bytes())
            other.write_bytes(path.read_bytes())
    path.write_bytes(content)
    return [path, other]


@pytest.mark.parametrize(
    "seed",
    [
        pytest.param(n, marks=[pytest.mark.slow] if n >= FAST else [])
        for n in range(ALL)
    ],
)
def test_damage_is_told_by_name_or_changes_nothing(written, tmp_path, capsys, seed):
    whole, expected, read = written
    folder = tmp_path / "copy"
    shutil.copytree(whole, folder)
    damaged = damage(folder, np.random.default_rng(seed))
    capsys.readouterr()
    try:
        found = read(folder)
    except UserError as error:
        told = str(error)
        assert "\n" not in told and len(told) < 1000
    except OSError as error:  # commands name its file
        told = str(error.filename)
    else:
        if found == expected:
            return
        told = capsys.readouterr().err
    # A step without its checksums is named as a whole.
    names = [p.name.split(".")[0] for p in damaged]
    steps = [str(p.parent) for p in damaged if p.name.startswith("manifest.")]
    assert any(name in told for name in names + steps), told
