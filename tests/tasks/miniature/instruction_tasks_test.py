"""Instruction tasks and their grades."""

import random

import pytest

from nemojax.tasks.miniature import instruction_tasks

Demand = instruction_tasks.Demand
TASK = instruction_tasks.InstructionTask(
    "Name",
    "animals",
    2,
    "French",
    (
        Demand("upper", "Use upper case."),
        Demand("end", "End with {word}.", "done"),
        Demand("semicolons", "Separate with semicolons."),
        Demand("brackets", "Wrap all in brackets."),
        Demand("start", "Start with {word}.", "sure"),
    ),
)


def test_prompt_and_key_read_as_intended():
    assert TASK.prompt == (
        "Name 2 animals in French. Use upper case. End with done. "
        "Separate with semicolons. Wrap all in brackets. Start with sure."
    )
    assert (
        TASK.key == "instruction:animals:2:French:brackets,end,semicolons,start,upper"
    )


@pytest.mark.parametrize(
    "response, failed",
    [
        ("[ SURE CHIEN; CHAT DONE ]", set()),
        ("[ sure chien; chat done ]", {"upper"}),
        ("SURE CHIEN; CHAT DONE", {"brackets"}),
        ("[ SURE CHIEN, CHAT DONE ]", {"semicolons"}),
        ("[ SURE CHIEN; CHAT ]", {"end"}),
        ("[ CHIEN; CHAT DONE ]", {"start"}),
        ("[ SURE CHIEN; CHAT; OURS DONE ]", {"count"}),
        ("[ SURE CHIEN; CHIEN DONE ]", {"count"}),
        ("[ SURE DOG; CAT DONE ]", {"content"}),
        ("chien, chat", {"upper", "brackets", "semicolons", "start", "end"}),
        (
            "Of course! [ SURE CHIEN; CHAT DONE ]",
            {"upper", "brackets", "start", "content"},
        ),
    ],
)
def test_each_unmet_constraint_is_told_apart(response, failed):
    grade = TASK.grade(response)
    assert {name for name, met in grade.checks.items() if not met} == failed
    assert grade.score == pytest.approx(1 - len(failed) / 7)
    assert grade.correct == (not failed)


def test_words_not_asked_for_are_wrong_content():
    task = instruction_tasks.InstructionTask("List", "tools", 1, "Spanish", ())
    assert task.grade("sierra").correct
    assert not task.grade("sure sierra").correct


def test_tasks_carry_several_constraints():
    rng = random.Random(0)
    drawn = [instruction_tasks.sample(rng, "train") for _ in range(2000)]
    counts = [len(task.demands) for task in drawn]
    assert 1.7 < sum(counts) / len(counts) < 2.4
    assert {0, 1, 2, 3, 4} <= set(counts)
    assert all(task.demands or task.language != "English" for task in drawn)


def test_a_single_word_is_never_asked_to_be_separated():
    rng = random.Random(1)
    for _ in range(1000):
        task = instruction_tasks.sample(rng, "train")
        assert task.count > 1 or "semicolons" not in task.constraints
