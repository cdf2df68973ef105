"""The scripts as users meet them: what they say, and what they leave."""

import json
import subprocess
import sys

import pytest

from tests.recipe.align import program, toy


def script(name, *arguments, status=0):
    """stdout and stderr of a script."""
    return program.ended(program.start(name, *arguments), status)


def common(folder, data, workdir, *more):
    return (
        f"--model={folder}", f"--data={data}", f"--workdir={workdir}", "--batch=8",
        f"--length={toy.LENGTH}", "--learning_rate.peak=1e-3", *more,
    )  # fmt: skip


def test_rpo_takes_scored_pairs_and_iterates(folder, tmp_path):
    """From pairs without rewards to two models, by the commands of the docs."""
    bare = [
        {name: row[name] for name in ("prompt", "chosen", "rejected")}
        for row in toy.pairs(40)
    ]
    data = toy.write(tmp_path / "pairs.jsonl", [*bare, bare[0] | {"chosen": ""}])
    _, err = script("rpo", *common(folder, data, tmp_path / "rpo"), status=2)
    assert "pairs.jsonl, row 1: no rewards, which RPO needs" in err
    assert "--default_chosen_reward=1" in err and "Traceback" not in err
    judge = tmp_path / "judge"
    script("train_reward", *common(folder, data, judge), "--objective=bradley_terry")
    scores = tmp_path / "scores"
    script(
        "score", f"--model={judge}/reward/model", f"--data={data}", f"--out={scores}"
    )
    arguments = common(folder, data, tmp_path / "rpo2", f"--rewards={scores}")
    out, err = script("rpo", *arguments, "--iterations=2", "--json=-")
    result = json.loads(out)
    assert list(result["stages"]) == ["rpo_1", "rpo_2"]
    for stage in result["stages"].values():
        first = stage["first_step"]
        assert first["log_ratio_gap"] == 0.0 and first["target_reward_gap"] != 0.0
        assert stage["final"]["step"] == 5
    ends = {one["final"]["parameters_sha256"] for one in result["stages"].values()}
    assert len(ends) == 2 and result["attention"] == "blocks"
    assert result["counts"] == {"rows": 41, "examples": 40, "empty response": 1}
    assert "pairs.jsonl: prompt_chosen_rejected" in err
    last = err.strip().splitlines()[-1]
    assert last.startswith("40 examples of 41 rows") and last.endswith("rpo_2/model")
    for name in ("model", "curve.png", "metrics.jsonl", "goodput.jsonl"):
        assert (tmp_path / "rpo2" / "rpo_2" / name).exists()
    rejected = json.loads((tmp_path / "rpo2" / "rejects.jsonl").read_text())
    assert rejected["row"] == 41 and rejected["reason"] == "empty response"
    # The same command again has nothing to do, and says the same.
    again, _ = script("rpo", *arguments, "--iterations=2", "--json=-")
    assert json.loads(again) == result


def test_a_loss_by_its_name_has_its_published_coefficients(folder, tmp_path):
    data = toy.write(tmp_path / "pairs.jsonl", toy.pairs(16))
    arguments = common(folder, data, tmp_path / "orpo", "--preference.loss=orpo")
    out, _ = script("dpo", *arguments, "--preference.beta=0.2", "--json=-")
    (stage,) = json.loads(out)["stages"].values()
    first = stage["first_step"]
    # The odds ratio with the given weight, and the mean likelihood with ORPO's own, 1.
    assert first["loss"] == pytest.approx(
        first["preference_loss"] + first["sft_loss"], rel=1e-5
    )
    chosen = 0.2 * -first["sft_loss"]
    assert first["implicit_reward_chosen"] == pytest.approx(chosen, rel=1e-5)
    assert not (tmp_path / "orpo" / "dpo" / "reference").exists()


def test_what_cannot_be_done_ends_with_one_line(folder, tmp_path):
    data = toy.write(tmp_path / "rows.jsonl", toy.demonstrations(20))
    for arguments, message in (
        (("dpo", f"--model={folder}"), "name the data: --data="),
        (
            ("dpo", *common(folder, data, tmp_path / "a"), "--preference.loss=simp"),
            "loss 'simp' is none of dpo, ipo, rpo, simpo, orpo",
        ),
        (
            ("dpo", *common(folder, data, tmp_path / "a")),
            "rows.jsonl, row 1: holds conversations, this stage takes preference pairs",
        ),
        (
            ("sft", *common(folder, tmp_path / "none.jsonl", tmp_path / "a")),
            "none.jsonl: no such file",
        ),
        (
            ("sft", *common(folder, data, tmp_path / "a"), "--parallel.tensor=99"),
            "99",
        ),
    ):
        _, err = script(*arguments, status=2)
        assert message in err and "Traceback" not in err, err
    assert not (tmp_path / "a").exists()


def test_importing_does_not_start_jax():
    """The number of devices of a CPU is set after it."""
    code = (
        "import experiments.rpo\n"
        "from jax._src import xla_bridge\n"
        "assert not xla_bridge.backends_are_initialized()"
    )
    subprocess.run(
        [sys.executable, "-c", code], cwd=program.ROOT, check=True, timeout=120
    )


@pytest.mark.slow
def test_presets_give_what_is_not_said(folder, tmp_path):
    data = toy.write(tmp_path / "rows.jsonl", toy.demonstrations(20))
    script(
        "sft", "--preset=general_sft", f"--model={folder}", f"--data={data}",
        f"--workdir={tmp_path / 'run'}", "--batch=10", "--length=64",
        f"--replay={data}", "--replay_share=0.5",
    )  # fmt: skip
    told = json.loads((tmp_path / "run" / "configuration.json").read_text())["sft"]
    assert (told["epochs"], told["batch"]) == (3, 10)
    assert told["learning_rate"]["peak"] == 2.2e-7
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    assert report["counts"]["replayed"] == 20 and report["final"]["step"] == 12
    # Another configuration is refused.
    _, err = script(
        "sft", f"--model={folder}", f"--data={data}", f"--workdir={tmp_path / 'run'}",
        status=2,
    )  # fmt: skip
    assert "another configuration" in err


@pytest.mark.parametrize(
    "name",
    ["rpo", *(pytest.param(n, marks=pytest.mark.slow) for n in ("sft", "dpo"))],
)
def test_help_says_what_there_is(name):
    out, _ = script(name, "--help", status=0)
    assert f"experiments.{name} --model=" in out
    for flag in ("--data=", "--optimizer.beta1=", "--lora.rank=", "--workdir="):
        assert flag in out
