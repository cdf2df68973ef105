"""The program that converts data files: what it writes, says, and refuses."""

import json
import subprocess
import sys

import pytest

PAIR = {"prompt": "q", "chosen": "good", "rejected": "bad"}


def write(path, *rows):
    lines = (row if isinstance(row, str) else json.dumps(row) for row in rows)
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def program(data, to, out, *flags):
    """Exit status, stdout and stderr of a run."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "experiments.convert_data"),
            *(f"--data={data}", f"--to={to}", f"--out={out}", *flags),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    return done.returncode, done.stdout, done.stderr


def test_it_says_what_was_found_and_written(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    pairs = write(folder / "a.jsonl", *[PAIR] * 40, PAIR | {"chosen": ""})
    table = folder / "b.csv"
    table.write_text("prompt,response_1,response_2,preference_strength\nq,a,b,0\n")
    out = tmp_path / "out.jsonl"
    status, text, _ = program(folder, "nemo_aligner", out)
    assert status == 0
    assert text.splitlines() == [
        f"{pairs}: prompt_chosen_rejected",
        f"{table}: helpsteer_preference",
        "rejected: empty response: 1",
        "rejected: tie: 1",
        f"rejected rows: {tmp_path / 'out.rejects.jsonl'}",
        f"40 of 42 rows written as nemo_aligner: {out}",
    ]
    assert len(out.read_text().splitlines()) == 40


def test_the_result_is_also_there_for_programs(tmp_path):
    path, out = write(tmp_path / "in.jsonl", PAIR), tmp_path / "out.jsonl"
    status, text, err = program(path, "messages", out, "--json=-")
    assert status == 0
    assert json.loads(text) == {
        "to": "messages",
        "out": str(out),
        "formats": {str(path): "prompt_chosen_rejected"},
        "rows": 1,
        "written": 1,
        "reasons": {},
        "rejects": None,
    }
    assert err.splitlines()[-1] == f"1 of 1 rows written as messages: {out}"


@pytest.mark.parametrize(
    ("flag", "problem"),
    [
        ("--out=", "name the out"),
        ("--data=", "name the data"),
        ("--data=absent.jsonl", "absent.jsonl: no such file"),
        ("--to=helpsteer", "holds preference pairs"),
        ("--out=rows.txt", "rows are written as .jsonl"),
    ],
)
def test_what_cannot_be_done_ends_with_one_line(tmp_path, flag, problem):
    path, out = write(tmp_path / "in.jsonl", PAIR), tmp_path / "out.jsonl"
    status, text, err = program(path, "trl", out, flag)
    assert (status, text) == (2, "")
    assert problem in err
    assert err.count("\n") == 1
    assert list(tmp_path.iterdir()) == [path]


def test_too_many_bad_rows_are_an_error_until_they_are_allowed(tmp_path):
    path, out = write(tmp_path / "in.jsonl", PAIR, "broken"), tmp_path / "out.jsonl"
    status, _, err = program(path, "trl", out)
    assert (status, out.exists()) == (2, False)
    assert "1 of 2 rows are malformed" in err and "out.rejects.jsonl" in err
    status, _, _ = program(path, "trl", out, "--max_bad_fraction=0.5")
    assert (status, out.exists()) == (0, True)


def test_labels_go_only_with_the_flag(tmp_path):
    row = {"prompt": "q", "response": "a", "verbosity": 1}
    path, out = write(tmp_path / "in.jsonl", row), tmp_path / "out.jsonl"
    status, _, err = program(path, "messages", out)
    assert status == 2 and "--drop_labels" in err
    assert program(path, "messages", out, "--drop_labels")[0] == 0
