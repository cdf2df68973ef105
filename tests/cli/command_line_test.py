"""The command lines of all scripts: help, typos, wrong values, missing flags."""

import re

import pytest

from nemojax.cli import command_line
from nemojax.errors import UserError
from tests import scripts

# lm_eval has the command line of the harness.
SCRIPTS = sorted(
    {path.stem for path in (scripts.ROOT / "experiments").glob("*.py")}
    - {"__init__", "lm_eval"}
)
TRAINING = ("sft", "train_reward", "dpo", "rpo", "pretrain")
ASKING = ("sample", "serve", "score", "quantize")
LONGEST = 110  # lines: two screens


def parse(*arguments: str) -> list[str]:
    return command_line.parse(["script", *arguments], "")


def refusal(*arguments: str) -> str:
    with pytest.raises(UserError) as error:
        parse(*arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("name", SCRIPTS)
def test_help_has_a_word_for_every_flag_and_fits_two_screens(name, script, capsys):
    doc = script(name)
    with pytest.raises(SystemExit) as end:
        command_line.parse([name, "--help"], doc)
    assert end.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(doc.strip())
    assert len(text.splitlines()) <= LONGEST
    assert max(map(len, text.splitlines())) <= 100
    shown = dict(re.findall(r"^  --([\w.]+)=\S* +(.*)", text, re.MULTILINE))
    assert list(shown) == list(dict.fromkeys(shown))
    assert set(shown) == {flag.name for flag in command_line.own_flags()}
    assert "json" in shown
    assert [name for name, word in shown.items() if len(word) < 4] == []
    assert "no help available" not in text


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_flag_has_one_name_in_all_scripts(name, script):
    script(name)
    there = {flag.name for flag in command_line.own_flags()}
    old = {"checkpoint", "max_length", "sequence_length", "global_batch", "tensor"}
    assert not there & (old | {"validation_share", "processes", "from", "rows"})
    if name in TRAINING:
        assert there >= {"model", "data", "workdir", "batch", "length", "seed"}
        assert there >= {"parallel.data", "parallel.pipe", "parallel.tensor"}
    if name in ASKING:
        assert there >= {"model", "length", "dtype", "parallel.data", "parallel.tensor"}


@pytest.mark.parametrize(
    ("name", "argument", "meant"),
    [
        ("rpo", "--optimizer.lr=3", "--learning_rate.peak (rate"),
        ("rpo", "--learning_rate=3", "--learning_rate.peak (rate"),
        ("rpo", "--lr=3", "--learning_rate.peak (rate"),
        ("rpo", "--beta=3", "--preference.beta (KL"),
        ("rpo", "--preference.beat=3", "--preference.beta (KL"),
        ("rpo", "--batch_size=3", "--batch (examples of a step"),
        ("rpo", "--num_epochs=3", "--epochs (passes"),
        ("rpo", "--sequence_length=3", "--length (tokens of a row"),
        ("rpo", "--modle=x", "--model (model folder"),
        ("rpo", "--nopakc", "--pack (whether"),
        ("rpo", "--tensor=2", "--parallel.tensor ("),
        ("rpo", "--qqqq=2", "--help lists"),
        ("serve", "--data=2", "--parallel.data (replicas"),
        ("serve", "--rows=2", "--slots (answers"),
        ("serve", "--checkpoint=x", "--model (model folder"),
        ("score", "--max_length=9", "--length (tokens"),
        ("convert", "--to=x", "--out (a model folder"),
        ("convert", "--from=x", "--model (a model folder"),
        ("pretrain", "--schedule.batch=2", "--batch (sequences"),
        ("pretrain", "--schedule.peak_lr=2", "--learning_rate.peak ("),
        ("plan", "--global_batch=2", "--batch (sequences"),
        ("tokenize", "--validation_share=0.1", "--held_out_share (share"),
        ("tokenize", "--processes=2", "--workers (processes"),
    ],
)
def test_a_typo_is_one_line_with_the_flag_that_is_meant(name, argument, meant, script):
    script(name)
    line = refusal(argument)
    assert line.startswith(f"there is no flag {argument.partition('=')[0]}: ")
    assert meant in line


@pytest.mark.parametrize(
    ("name", "argument", "parts"),
    [
        ("sft", "--batch=x", ("--batch=x", "examples of a step")),
        ("sft", "--batch=0", ("--batch=0", "positive", "examples of a step")),
        ("sft", "--pack=maybe", ("--pack=maybe", "examples share rows")),
        ("sft", "--optimizer.beta1=x", ("--optimizer.beta1=x", "mean of gradients")),
        ("sft", "--lora.rank=1.5", ("--lora.rank=1.5", "width of the adapters")),
        ("sft", "--preset=dpo", ("--preset=dpo", "code_sft, general_sft")),
        ("score", "--dtype=int7", ("--dtype=int7", "bfloat16")),
        ("plan", "--model=gpt", ("--model=gpt", "nemotron4_340b")),
        ("sft", "--batch", ("--batch",)),
    ],
)
def test_a_wrong_value_is_one_line_that_says_what_is_right(
    name, argument, parts, script
):
    script(name)
    line = refusal(argument)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("name", "given", "missing"),
    [
        ("sft", (), ("model", "data", "workdir")),
        ("dpo", ("--model=x",), ("data", "workdir")),
        ("score", ("--model=x", "--data=y"), ("out",)),
        ("quantize", (), ("model", "data")),
        ("sample", (), ("model",)),
        ("serve", (), ("model",)),
        ("recipe", (), ("data",)),
        ("train_tokenizer", (), ("data",)),
        ("tokenize", ("--data=x",), ("tokenizer", "out")),
        ("convert_data", (), ("data", "to", "out")),
        ("convert_data", ("--data=", "--to=trl", "--out="), ("data", "out")),
    ],
)
def test_all_missing_flags_are_named_with_how_to_give_them(
    name, given, missing, script
):
    script(name)
    line = refusal(*given)
    assert re.findall(r"name the (\w+): --(\w+)=\.\.\. \(.+?\)", line) == [
        (flag, flag) for flag in missing
    ]


def test_arguments_that_are_no_flags_are_refused(script):
    script("sample")
    assert "unexpected argument 'hello'" in refusal("--model=x", "hello")


@pytest.mark.parametrize("names", [("data",), ("data", "workdir")])
def test_flags_can_be_needed_for_some_jobs_only(names, script):
    script("pretrain")
    assert parse("--dry_run") == ["script"]
    with pytest.raises(UserError, match="name the data: --data="):
        command_line.require(*names)
