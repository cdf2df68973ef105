"""Stages that several processes do together end with what one process ends with."""

import pathlib
import random
import signal
import socket
import time

import pytest

from tests.recipe.align import program, toy

COMMON = (
    "--batch=6", "--epochs=2", f"--length={toy.LENGTH}",
    "--learning_rate.peak=3e-3", "--checkpoint_every=3", "--seed=3",
    "--held_out_share=0.2", "--parallel.data=2", "--json=-",
)  # fmt: skip
SCRIPTS = {
    "dpo": (toy.pairs, ("--preference.beta=0.5",)),
    "rpo": (toy.pairs, ("--preference.beta=0.5", "--iterations=2")),
    "sft": (toy.demonstrations, ("--parallel.zero=1",)),
    "train_reward": (toy.labels, ("--validate_every=4",)),
    "dpo in step": (toy.pairs, ("--preference.beta=0.5", "--reference=in_step")),
    "dpo with adapters": (toy.pairs, ("--preference.beta=0.5", "--lora.rank=4")),
}


def start(name, folder, workdir, data, devices, *cluster):
    return program.start(
        name.split()[0], f"--model={folder}", f"--data={data}", f"--workdir={workdir}",
        *COMMON, *SCRIPTS[name][1], *cluster, devices=devices,
    )  # fmt: skip


def alone(*arguments):
    return start(*arguments, 2)


def rendezvous():
    """(number of a process) -> the flags with which one of two joins."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"--coordinator_address=127.0.0.1:{port}", "--num_processes=2"
    return lambda number: (*address, f"--process_id={number}")


def together(*arguments):
    """Two processes of one device each."""
    cluster = rendezvous()
    return [start(*arguments, 1, *cluster(number)) for number in range(2)]


def measured(found):
    """On held-out examples."""
    return [
        {key: value for key, value in row.items() if key.startswith("validation_")}
        for stage in found["stages"].values()
        for row in stage["validation"]
    ]


@pytest.mark.parametrize(
    "name",
    ["dpo", *(pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS if n != "dpo")],
)
def test_two_processes_train_what_one_trains(folder, tmp_path, name):
    data = toy.write(tmp_path / "rows.jsonl", SCRIPTS[name][0](60))
    first, second = together(name, folder, tmp_path / "two", data)
    found = program.result(first)
    assert "{" not in program.ended(second)[0]  # the first one tells
    expected = program.result(alone(name, folder, tmp_path / "one", data))
    assert found["final"] == expected["final"]
    assert found["counts"] == expected["counts"]
    assert measured(found) == measured(expected)
    assert (pathlib.Path(found["model"]) / "tokenizer.model").exists()


def test_what_the_first_process_cannot_do_ends_all(folder, tmp_path):
    data = toy.write(tmp_path / "rows.jsonl", toy.pairs(20))
    other = tmp_path / "other"
    other.mkdir()
    (other / "letter.txt").write_text("mine")
    for process in together("rpo", folder, other, data):
        _, err = program.ended(process, 2)
        assert "is not empty and holds no run" in err.splitlines()[-1]


def test_hosts_that_read_other_rows_are_told_apart(folder, tmp_path):
    rows = toy.pairs(20)
    data = [toy.write(tmp_path / f"{n}.jsonl", rows[n:]) for n in range(2)]
    cluster = rendezvous()
    pair = [
        start("dpo", folder, tmp_path / "run", data[n], 1, *cluster(n))
        for n in range(2)
    ]
    for process in pair:
        _, err = program.ended(process, 2)
        assert "1 of 2 processes read other examples" in err.splitlines()[-1]


@pytest.mark.slow
def test_two_that_were_killed_go_on_as_one(folder, tmp_path):
    data = toy.write(tmp_path / "rows.jsonl", SCRIPTS["rpo"][0](60))
    workdir, rng = tmp_path / "killed", random.Random(0)
    for wanted in (2, 9):  # rows of metrics, in either iteration
        pair = together("rpo", folder, workdir, data)
        while program.steps(workdir) < wanted:
            assert pair[0].poll() is None, pair[0].communicate()
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 0.1))
        for process in pair:
            process.kill()
            process.communicate()
            assert process.returncode == -signal.SIGKILL
    found = program.result(alone("rpo", folder, workdir, data))
    expected = program.result(alone("rpo", folder, tmp_path / "one", data))
    assert found["final"] == expected["final"]
