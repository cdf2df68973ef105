"""Human-like labels of responses, in the manner of HelpSteer2: five attributes, 0-4."""

import random

from nemojax.tasks.miniature import code_tasks, grading, world

MAX_LABEL = 4.0
NUM_ANNOTATORS = 3
# Characters that make a response one point more verbose.
_CHARACTERS_PER_POINT = 30
_CHATTER = tuple(text.strip() for text in (*world.OPENERS, *world.CLOSERS))

Attributes = tuple[float, float, float, float, float]


def _clip(value: float) -> float:
    return min(MAX_LABEL, max(0.0, value))


def _is_off_task(task: grading.Task, response: str) -> bool:
    """Returns whether the response answers another family's task, or loops."""
    words = response.split()
    loops = len(words) > 4 and words[-1] == words[-2]
    is_code = "def f" in response
    is_chain = "####" in response
    other_form = is_code != (task.family == "code")
    return loops or other_form or (is_chain and task.family != "math")


def _complexity(task: grading.Task, response: str) -> float:
    if task.family == "math":
        return 0.5 + 0.8 * response.count("=")
    if task.family == "code":
        return 1.0 + 0.6 * response.count("\n")
    if task.family == "instruction":
        return 1.0 + 0.2 * (task.prompt.count(".") - 1)
    return 0.5


def true_attributes(task: grading.Task, response: str) -> Attributes:
    """Returns what a careful reader would give, each in [0, 4], not rounded.

    Returns:
      (helpfulness, correctness, coherence, complexity, verbosity). The first two
      follow the verifier's graded score, so that they tell degrees apart.
    """
    grade = task.grade(response)
    talks = any(text in response for text in _CHATTER)
    complexity = _clip(_complexity(task, response))
    verbosity = _clip(len(response) / _CHARACTERS_PER_POINT + talks)
    if not grade.correct and _is_off_task(task, response):
        return 0.0, 0.0, 1.0, complexity, verbosity
    correctness = MAX_LABEL * grade.score
    helpfulness = correctness * (1.0 if grade.correct else 0.75) - 0.5 * talks
    coherence = MAX_LABEL - talks
    if task.family == "code" and not code_tasks.is_program(response):
        coherence -= 1.5
    if task.family == "math" and not grade.parsed:
        coherence -= 1.5
    return _clip(helpfulness), correctness, _clip(coherence), complexity, verbosity


def annotate(
    task: grading.Task, response: str, rng: random.Random, noise: float = 0.8
) -> Attributes:
    """Returns the rounded mean of three annotators' labels.

    Args:
      task: the task responded to.
      response: the response.
      rng: the source of the annotators' disagreement.
      noise: standard deviation of one annotator's label before rounding.
    """
    labels = []
    for value in true_attributes(task, response):
        votes = [
            _clip(round(value + rng.gauss(0.0, noise))) for _ in range(NUM_ANNOTATORS)
        ]
        labels.append(float(round(sum(votes) / NUM_ANNOTATORS)))
    helpfulness, correctness, coherence, complexity, verbosity = labels
    return helpfulness, correctness, coherence, complexity, verbosity
