"""Pretraining text: 70 % English, 15 % Spanish and French, 15 % code, two phases."""

import random

from nemojax.tasks.miniature import (
    code_tasks,
    english,
    instruction_tasks,
    math_tasks,
    split,
    world,
)

CLASS_WEIGHTS = {"english": 0.70, "multilingual": 0.15, "code": 0.15}
# Phase -> the share of English documents that are questions with their answers; the
# second is the report's continued training on QA-style text (section 2.4).
QUESTION_SHARE = {1: 0.0, 2: 0.5}
_FOREIGN = world.LANGUAGES[1:]
_PLUS_WORDS = {"Spanish": ("mas", "son"), "French": ("plus", "font")}
_FLAG_FORMS = {
    "Spanish": "La bandera de {} es {}.",
    "French": "Le drapeau de {} est {}.",
}


def _foreign_list(rng: random.Random, language: str) -> str:
    while True:
        category = rng.choice(world.CATEGORIES)
        count = rng.randint(2, len(world.WORDS[category][language]))
        if not split.is_test(instruction_tasks.make_key(category, count, language, ())):
            break
    words = rng.sample(world.WORDS[category][language], count)
    return f"{category} in {language}: {', '.join(words)}."


def _foreign_sum(rng: random.Random, language: str) -> str:
    numbers = world.NUMBER_WORDS[language]
    while True:
        first = rng.randint(0, 10)
        second = rng.randint(0, 12 - first)
        if not split.is_test(math_tasks.make_key(first, [("+", second)])):
            break
    plus, makes = _PLUS_WORDS[language]
    total = numbers[first + second]
    return f"{numbers[first]} {plus} {numbers[second]} {makes} {total}."


def _multilingual(rng: random.Random) -> str:
    language = rng.choice(_FOREIGN)
    form = rng.random()
    if form < 0.35:
        category, place = rng.choice(world.CATEGORIES), rng.randrange(8)
        words = world.WORDS[category]
        return f"{words['English'][place]} in {language} is {words[language][place]}."
    if form < 0.6:
        return _foreign_list(rng, language)
    if form < 0.8:
        return _foreign_sum(rng, language)
    country = rng.choice(world.COUNTRIES)
    colors = world.WORDS["colors"]
    place = colors["English"].index(world.FACTS[country]["color"])
    return _FLAG_FORMS[language].format(country, colors[language][place])


def _code(rng: random.Random) -> str:
    form = rng.random()
    if form < 0.45:
        task = code_tasks.sample(rng, "train")
        return f"# {task.description}\n{task.gold(rng)}"
    if form < 0.8:
        operation = code_tasks.sample_operation(rng)
        return f"# {code_tasks.describe(operation)}\n{code_tasks.statement(operation)}"
    description, source = rng.choice(tuple(code_tasks.REDUCERS.values()))
    return f"# {description}\n{source}"


def sample_labelled_documents(
    rng: random.Random, n: int, phase: int
) -> list[tuple[str, str]]:
    """Returns ``n`` pairs (class, document); the classes are ``CLASS_WEIGHTS``'.

    Raises:
      ValueError: if ``phase`` is not 1 or 2.
    """
    if phase not in QUESTION_SHARE:
        raise ValueError(f"phase must be 1 or 2, got {phase!r}")
    question_share = QUESTION_SHARE[phase]
    documents = []
    for name in rng.choices(list(CLASS_WEIGHTS), list(CLASS_WEIGHTS.values()), k=n):
        if name == "english":
            documents.append((name, english.sample(rng, question_share)))
        elif name == "multilingual":
            documents.append((name, _multilingual(rng)))
        else:
            documents.append((name, _code(rng)))
    return documents


def sample_documents(rng: random.Random, n: int, phase: int) -> list[str]:
    """Returns ``n`` pretraining documents of ``phase`` 1 or 2.

    Raises:
      ValueError: if ``phase`` is another number.
    """
    return [text for _, text in sample_labelled_documents(rng, n, phase)]
