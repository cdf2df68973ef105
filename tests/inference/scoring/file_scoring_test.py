"""Every row of the files is scored once, as if alone, or named; resumed at any part."""

import dataclasses
import json
import math
import pathlib
import shutil
import weakref

import jax
import numpy as np
import pytest

from nemojax.data.records import ATTRIBUTES, Conversation
from nemojax.inference.scoring import file_scoring
from nemojax.inference.scoring.file_scoring import InputFiles
from nemojax.inference.scoring.scorer import Scorer, ScorerConfig
from nemojax.interop import loading
from nemojax.io.files import DataError
from nemojax.io.workdir import WorkdirError
from nemojax.models import forward
from tests.inference.scoring.scored import (
    contents,
    conversations,
    read_parts,
    reward_model,
    write_rows,
)

pytestmark = pytest.mark.usefixtures("quick_compile")

MAX_LENGTH = 64
PAIR = {"prompt": "red twice", "chosen": "red red", "rejected": "blue"}


@pytest.fixture(scope="module")
def model():
    """A reward model as it is after loading."""
    return reward_model()


@pytest.fixture(scope="module")
def make_scorer(model):
    def make(kind="auto", rows=7, **changes):
        changed = dataclasses.replace(model, **changes)
        return Scorer(changed, ScorerConfig(kind, MAX_LENGTH, rows), batch_tokens=256)

    return make


@pytest.fixture(scope="module")
def single(model, make_scorer):
    """(kind, prompt, response) -> its scores, from a forward pass of one row."""
    rewards, log_probs = (
        jax.jit(lambda tokens, f=f: f(model.config, model.params, tokens))
        for f in (forward.rewards, forward.token_log_probs)
    )

    def of(kind, prompt, response):
        tokens, mask = make_scorer(kind).encode(Conversation.of(prompt, response))
        row = np.zeros((1, MAX_LENGTH), np.int32)
        row[0, : len(tokens)] = tokens
        if kind == "rewards":
            return np.asarray(rewards(row))[0, len(tokens) - 1]
        return np.asarray(log_probs(row))[0, : len(tokens)][mask].sum()

    return of


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """Three files: conversations, pairs, labelled rows; a bad row in each."""
    folder = tmp_path_factory.mktemp("mixed")
    rows = conversations(20)
    long = {"prompt": "red " * 90, "response": "tin"}
    wrong = {"prompt": "red", "response": ""}
    write_rows(folder / "a.jsonl", [*rows[:5], "{broken", "", *rows[5:], long])
    write_rows(folder / "b.jsonl", [PAIR, PAIR | {"rejected": "tin " * 90}, PAIR])
    labels = dict.fromkeys(ATTRIBUTES, 1)
    write_rows(folder / "c.jsonl", [row | labels for row in (*rows[:4], wrong)])
    return folder


def run(scorer, paths, out, max_bad=1.0):
    return file_scoring.run(scorer, InputFiles.find([str(paths)]), out, max_bad)


def values(score):
    return list(score["rewards"].values()) if "rewards" in score else score["log_prob"]


@pytest.mark.parametrize("kind", ["rewards", "log_probs"])
def test_scores_are_those_of_single_rows_and_no_row_is_lost(
    kind, make_scorer, single, mixed, tmp_path
):
    result = run(make_scorer(kind), mixed, tmp_path / "out")
    scored = read_parts(tmp_path / "out")
    rejects = read_parts(tmp_path / "out", ".rejects.jsonl")
    places = [(row["file"], row["row"]) for row in scored]
    assert places == sorted(places)
    for row in scored:
        lines = pathlib.Path(row["file"]).read_text().split("\n")
        source = json.loads(lines[row["row"] - 1])
        for side in ("chosen", "rejected") if "chosen" in source else ("response",):
            found = row.get(side, row)
            expected = single(kind, source["prompt"], source[side])
            np.testing.assert_allclose(values(found), expected, rtol=1e-4, atol=1e-4)
    named = [
        (row["file"][-7:], row["row"], row["field"], row["reason"]) for row in rejects
    ]
    assert named == [
        ("a.jsonl", 6, "", "not JSON"),
        ("a.jsonl", 23, "", "longer than 64 tokens"),
        ("b.jsonl", 2, "rejected", "longer than 64 tokens"),
        ("c.jsonl", 5, "response", "empty response"),
    ]
    assert (result["rows"], result["scored"]) == (30, 26)
    assert len(scored) == 26 and sum(result["rejected"].values()) == 4


def test_the_summary_is_that_of_the_rows(make_scorer, mixed, tmp_path):
    result = run(make_scorer("rewards", rows=4), mixed, tmp_path)
    for name in ATTRIBUTES:
        rows = read_parts(tmp_path)
        alone = [row["rewards"][name] for row in rows if "rewards" in row]
        chosen = [row["chosen"]["rewards"][name] for row in rows if "chosen" in row]
        for key, expected in ((name, alone), (f"chosen {name}", chosen)):
            found = result["values"][key]
            assert found["n"] == len(expected)
            assert found["mean"] == pytest.approx(np.mean(expected), abs=1e-5)
            assert found["std"] == pytest.approx(np.std(expected), abs=1e-4)
    stored = json.loads((tmp_path / "summary.json").read_text())
    assert stored.items() <= result.items()


@pytest.mark.parametrize("rows", [1, 7, 100])
def test_a_run_goes_on_after_any_part(rows, make_scorer, mixed, tmp_path):
    """As after a kill: later parts gone, one of them half written."""
    scorer = make_scorer("log_probs", rows)
    run(scorer, mixed, tmp_path / "whole")
    whole = contents(tmp_path / "whole")
    parts = sorted(name for name in whole if name[-6:] == ".jsonl" and len(name) == 16)
    assert len(parts) == math.ceil(30 / rows)
    for kept in range(len(parts))[:: max(1, len(parts) // 4)]:
        folder = tmp_path / f"kept {kept}"
        shutil.copytree(tmp_path / "whole", folder)
        (folder / "summary.json").unlink()
        for name in [name for name in whole if name[:10] >= f"part-{kept:05}"]:
            (folder / name).unlink(missing_ok=True)
        (folder / f"part-{kept:05}.rejects.jsonl").write_text("{}\n")
        (folder / f"part-{kept:05}.jsonl.partial").write_text('{"cut')
        times = {path: path.stat().st_mtime_ns for path in folder.glob("part-*.jsonl")}
        run(scorer, mixed, folder)
        assert contents(folder) == whole
        for number in range(kept):
            path = folder / f"part-{number:05}.jsonl"
            assert path.stat().st_mtime_ns == times[path]


def test_a_finished_run_computes_nothing(make_scorer, mixed, tmp_path, monkeypatch):
    first = run(make_scorer(), mixed, tmp_path)
    monkeypatch.setattr(Scorer, "begin", None)
    again = run(make_scorer(), mixed, tmp_path)
    assert again["values"] == first["values"] and again["rows_per_second"] == 0


def test_few_parts_are_in_memory_however_many_there_are(
    make_scorer, tmp_path, monkeypatch
):
    """The one computed, the one read, and the one whose facts are told."""
    made = []

    class Seen(file_scoring.InputPart):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    most = []
    monkeypatch.setattr(file_scoring, "InputPart", Seen)
    data = InputFiles.find(
        [str(write_rows(tmp_path / "rows.jsonl", conversations(40)))]
    )

    def look(totals, seconds):
        most.append(sum(ref() is not None for ref in made))

    file_scoring.run(make_scorer(rows=2), data, tmp_path / "out", 0.0, look)
    assert len(made) > 20 and len(most) == 21 and max(most) <= 3


def test_an_empty_file_at_the_end_of_a_part_is_named_once(make_scorer, tmp_path):
    folder = tmp_path / "data"
    write_rows(folder / "a.jsonl", conversations(1))
    write_rows(folder / "b.jsonl", [])
    write_rows(folder / "c.jsonl", conversations(1))
    result = run(make_scorer(rows=2), folder, tmp_path / "out")
    assert result["rejected"] == {"empty file": 1} and result["scored"] == 2


def test_a_score_that_is_not_finite_is_not_written(make_scorer, model, tmp_path):
    table = np.array(model.params["embedding"]["table"])
    rows = [*conversations(6), {"prompt": "gold", "response": "gold"}]
    letter = model.tokenizer.encode_inside("gold")[-1]
    table[letter] = np.nan
    broken = model.params | {"embedding": {"table": table}}
    path = write_rows(tmp_path / "rows.jsonl", rows)
    result = run(make_scorer("rewards", params=broken), path, tmp_path / "out")
    rejects = read_parts(tmp_path / "out", ".rejects.jsonl")
    assert result["rejected"] == {"score not finite": len(rejects)}
    assert 7 in [row["row"] for row in rejects]
    assert len(rejects) + len(read_parts(tmp_path / "out")) == 7


def test_too_many_bad_rows_stop_it_as_soon_as_that_is_certain(make_scorer, tmp_path):
    """What is done stays, and a larger share goes on with it."""
    rows = ["{broken"] * 3 + conversations(17)
    path = write_rows(tmp_path / "rows.jsonl", rows)
    scorer, out = make_scorer(rows=5), tmp_path / "out"
    for _ in range(2):
        message = r"3 of 20 rows .* 10.0%: not JSON \(3\); the first is .*, row 1: not"
        with pytest.raises(DataError, match=message):
            run(scorer, path, out, max_bad=0.1)
        assert len(list(out.glob("part-*.rejects.jsonl"))) == 1
    assert run(scorer, path, out, max_bad=0.15)["scored"] == 17


def test_roles_and_labels_that_do_not_go_are_named(make_scorer, tmp_path):
    """By the reader of the format, or by the scorer."""
    turns = [{"from": "User", "value": "red"}, {"from": "Assistant", "value": "tin"}]
    labelled = [turns[0], turns[1] | {"label": "quality:4"}]
    rows = [
        {"mask": "User", "type": "VALUE_TO_TEXT", "conversations": found}
        for found in (turns, turns[::-1], labelled)
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    named = []
    for kind in ("log_probs", "rewards"):
        run(make_scorer(kind), path, tmp_path / kind)
        rejects = read_parts(tmp_path / kind, ".rejects.jsonl")
        named.append([(row["row"], row["reason"]) for row in rejects])
    order = (2, "roles out of order")
    assert named == [[order, (3, "log-prob of a response to a label")], [order]]


def test_a_file_that_changes_meanwhile_is_noticed(make_scorer, tmp_path):
    path = write_rows(tmp_path / "rows.jsonl", conversations(3))
    data = InputFiles.find([str(path)])
    write_rows(path, conversations(4))
    with pytest.raises(DataError, match="4 rows were read where 3 had been counted"):
        file_scoring.run(make_scorer(), data, tmp_path / "out", 0.0)


def test_another_configuration_is_refused(make_scorer, mixed, tmp_path):
    out = tmp_path / "out"
    run(make_scorer(), mixed, out)
    other = tmp_path / "other"
    shutil.copytree(mixed, other)
    before = contents(out)
    with pytest.raises(WorkdirError, match=r"kind: 'rewards' -> 'log_probs'"):
        run(make_scorer("log_probs"), mixed, out)
    with pytest.raises(WorkdirError, match=r"part_rows: 7 -> 8.*another --out"):
        run(make_scorer(rows=8), mixed, out)
    with pytest.raises(WorkdirError, match=r"file 0.*mixed.* -> .*other"):
        run(make_scorer(), other, out)
    model = make_scorer().model
    params = model.params | {
        "final_norm": jax.tree.map(lambda x: x + 1, model.params["final_norm"])
    }
    with pytest.raises(WorkdirError, match="parameters_sha256"):
        run(make_scorer(params=params), mixed, out)
    assert contents(out) == before


def test_what_a_model_cannot_do_is_said_at_once(make_scorer, model):
    plain = {k: v for k, v in model.params.items() if k != "reward_head"}
    assert make_scorer(params=plain).settings.kind == "log_probs"
    assert make_scorer().settings.kind == "rewards"
    with pytest.raises(DataError, match="toy has no reward head: use --kind=log_probs"):
        make_scorer("rewards", params=plain)
    with pytest.raises(DataError, match="toy has no chat template: name one"):
        make_scorer(template=None)
    with pytest.raises(DataError, match="does not fit its tokenizer"):
        make_scorer(template=loading.TEMPLATES["llama3"])


def test_files_are_looked_at_before_the_work_begins(tmp_path):
    write_rows(tmp_path / "a.jsonl", conversations(3))
    assert InputFiles.find([str(tmp_path)]).total == 3
    write_rows(tmp_path / "b.jsonl", [{"colour": "red"}])
    with pytest.raises(DataError, match=r"b.jsonl: unknown format"):
        InputFiles.find([str(tmp_path)])
