"""Held-out tasks: the responses of a policy, and the verdicts of the verifiers."""

from collections.abc import Mapping, Sequence
from typing import Any

from nemojax.recipe.miniature.policy import Policy
from nemojax.reporting import statistics
from nemojax.tasks.miniature.grading import Task

ANSWERS = "answers.json"  # of a stage


def answers(policy: Policy, tasks: Sequence[Task]) -> list[str]:
    """Generates greedy answers in the chat format."""
    return policy.answers([task.prompt for task in tasks])


def completions(policy: Policy, tasks: Sequence[Task]) -> list[str]:
    """Generates greedy answers in the format that a base model continues."""
    tokenizer = policy.model.tokenizer
    prompts = [tokenizer.encode(task.completion_prompt) for task in tasks]
    outputs = policy.complete(prompts, stop_id=tokenizer.eos_id)
    # Decoded with the prompt: alone, a continuation would lose its leading space.
    return [
        task.parse_completion(
            tokenizer.decode([*prompt, *tokens]).removeprefix(task.completion_prompt)
        )
        for task, prompt, tokens in zip(tasks, prompts, outputs, strict=True)
    ]


def grade(tasks: Sequence[Task], texts: Sequence[str]) -> dict[str, Any]:
    """Returns the verdicts of the tasks' own verifiers, as JSON.

    Returns:
      `correct`: 0 or 1 a task; `score`: share of the checks met a task; `texts`.
    """
    grades = [task.grade(text) for task, text in zip(tasks, texts, strict=True)]
    return {
        "correct": [int(g.correct) for g in grades],
        "score": [round(g.score, 4) for g in grades],
        "texts": list(texts),
    }


def family_metrics(
    tasks: Sequence[Task], graded: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Measures accuracy by family with 95 % intervals, and of single instructions."""
    metrics = {}
    for family in dict.fromkeys(task.family for task in tasks):
        outcomes = of_family(tasks, graded["correct"], family)
        metrics[family] = statistics.share(outcomes).to_json()
    scores = of_family(tasks, graded["score"], "instruction")
    if scores:
        metrics["instruction_checks"] = statistics.mean(scores).to_json()
    return metrics


def of_family(tasks: Sequence[Task], values: Sequence[Any], family: str) -> list[Any]:
    """Returns the values of one family's tasks."""
    return [
        value
        for task, value in zip(tasks, values, strict=True)
        if task.family == family
    ]
