"""No test tuple is in anything that is ever trained on.

Tuples are read back out of the finished texts by the parsers below, which share no
code with the generators: only the keys' spelling and the split are the package's.
"""

import random
import re

import pytest

from nemojax.tasks.miniature import (
    closed_book,
    code_tasks,
    fact_tasks,
    instruction_tasks,
    math_tasks,
    split,
    tasks,
    teachers,
    text,
    world,
)

_OPERATORS = {
    "buys": "+", "finds": "+", "gets": "+", "plus": "+", "mas": "+",
    "loses": "-", "gives": "-", "uses": "-", "minus": "-",
    "becomes": "*", "makes": "*", "times": "*",
}  # fmt: skip
_CATEGORY = {
    word: category
    for category, by_language in world.WORDS.items()
    for words in by_language.values()
    for word in words
}
_LIST = re.compile(
    r"(?:(?:Here are )?\w+ \w+: |\w+ in (?P<language>\w+): )?(?P<bracket>\[ )?"
    r"(?P<items>\w+(?:[,;] \w+)*)(?: \]$|\.|$)"
)
_KS = range(2, 6)  # the numbers in code
_QUESTIONS = {
    "food": r"people in (\w+) eat\?",
    "color": r"flag of (\w+)\?",
    "animal": r"lives in (\w+)\?",
}
_CONSTRAINT_WORDINGS = {
    "upper": ("upper case", "capital letters"),
    "brackets": ("brackets",),
    "end": ("End with", "last word"),
    "start": ("Start with", "first word"),
    "semicolons": ("semicolons",),
}


def _story_key(document):
    start = re.match(r"(?:Q: )?\w+ has (\d+) \w+\.", document)
    told = re.findall(
        r"\b(buys|finds|gets|loses|gives away|uses|becomes|makes it) (\d+)\b", document
    )
    if not start or not told:
        return None
    operations = [(_OPERATORS[verb.split()[0]], int(k)) for verb, k in told]
    return math_tasks.make_key(int(start[1]), operations)


def _sum_key(document):
    digits = re.fullmatch(r"(\d+)([-+*])(\d+)=\d+\.", document)
    if digits:
        return math_tasks.make_key(int(digits[1]), [(digits[2], int(digits[3]))])
    words = re.fullmatch(r"(\w+) (plus|minus|times|mas) (\w+) \w+ \w+\.", document)
    if not words:
        return None
    first, second = (_number(word) for word in (words[1], words[3]))
    return math_tasks.make_key(first, [(_OPERATORS[words[2]], second)])


def _number(word):
    if word.isdigit():
        return int(word)
    return next(ws.index(word) for ws in world.NUMBER_WORDS.values() if word in ws)


def _program_key(document):
    lines = document.split("\n ")
    if "def f(x):" not in lines[0]:
        return None
    operations = [_named(code_tasks.OPERATIONS, line) for line in lines[1:-1]]
    return code_tasks.make_key(operations, _named(code_tasks.REDUCERS, lines[-1]))


def _named(table, line):
    """Returns the one entry of the table that writes this line with some number."""
    sources = [(n, source.format(k=k)) for n, (_, source) in table.items() for k in _KS]
    names = {name for name, source in sources if source == line}
    assert len(names) == 1, line
    return names.pop()


def _request_key(document):
    asked = re.match(r"(?:Q: )?(?:Name|List) (\d) (\w+?)(?: in (\w+))?\.", document)
    if not asked:
        return None
    prompt = document.split("\nA:")[0]
    constraints = [
        name
        for name, wordings in _CONSTRAINT_WORDINGS.items()
        if any(wording in prompt for wording in wordings)
    ]
    language = asked[3] or "English"
    return instruction_tasks.make_key(asked[2], int(asked[1]), language, constraints)


def _list_key(document):
    listed = _LIST.match(document)
    if not listed:
        return None
    items = re.split("[,;] ", listed["items"].lower())
    if not all(item in _CATEGORY for item in items):
        return None
    constraints = ["semicolons"] if ";" in listed["items"] else []
    constraints += ["brackets"] if listed["bracket"] else []
    constraints += ["upper"] if listed["items"].isupper() else []
    language = listed["language"] or "English"
    return instruction_tasks.make_key(
        _CATEGORY[items[0]], len(items), language, constraints
    )


def _question_key(document):
    for attribute, wording in _QUESTIONS.items():
        asked = re.search(wording, document)
        if asked:
            return fact_tasks.make_key(asked[1], attribute)
    return None


_PARSERS = {
    "story": _story_key,
    "sum": _sum_key,
    "program": _program_key,
    "request": _request_key,
    "list": _list_key,
    "question": _question_key,
}


def _keys(texts):
    """Returns kind -> the keys read out of the texts."""
    found = {kind: set() for kind in _PARSERS}
    for document in texts:
        for kind, parse in _PARSERS.items():
            key = parse(document)
            if key:
                found[kind].add(key)
    return found


def _documents():
    rng = random.Random(21)
    documents = text.sample_documents(rng, 30_000, 1)
    documents += text.sample_documents(rng, 30_000, 2)
    return documents + closed_book.replay_documents(rng, 3000)


def _prompts():
    rng = random.Random(22)
    weights = dict.fromkeys(tasks.FAMILIES, 1.0)
    prompts = [t.prompt for t in tasks.sample_tasks(rng, "train", 12_000, weights)]
    rows = closed_book.grounded_fact_rows(rng, 2000)
    return (
        prompts
        + [row.prompt for row in rows]
        + [f"{row.document} {row.prompt}" for row in rows]
    )


@pytest.fixture(scope="module")
def corpora():
    return {"documents": _documents(), "prompts": _prompts()}


@pytest.fixture(scope="module")
def held_out_tasks():
    rng = random.Random(23)
    weights = dict.fromkeys(tasks.FAMILIES, 1.0)
    return tasks.sample_tasks(rng, "test", 8000, weights)


def test_parsers_read_the_keys_of_test_tasks(held_out_tasks):
    # Without this the other tests could pass by reading nothing.
    parsers = {
        "math": _story_key,
        "code": _program_key,
        "instruction": _request_key,
        "facts": _question_key,
    }
    for task in held_out_tasks:
        row = f"{task.prompt}\n{task.gold(random.Random(0))}"
        document = f"{task.completion_prompt} {task.gold(random.Random(0))}"
        if task.family == "code":
            row = document = f"# {task.description}\n{task.gold(random.Random(0))}"
        for seen in (row, document):
            assert parsers[task.family](seen) == task.key


def test_no_test_tuple_is_in_any_training_text(corpora, held_out_tasks):
    held_out = {task.key for task in held_out_tasks}
    for texts in corpora.values():
        for kind, keys in _keys(texts).items():
            leaked = {key for key in keys if split.is_test(key)} | keys & held_out
            assert not leaked, kind


def test_the_texts_hold_many_tuples_of_every_kind(corpora):
    found = _keys(corpora["documents"])
    least = {
        "story": 3000, "sum": 200, "program": 1000,
        "request": 500, "list": 60, "question": 80,
    }  # fmt: skip
    for kind, keys in found.items():
        assert len(keys) > least[kind], kind


def test_no_test_prompt_is_a_line_of_any_training_text(corpora, held_out_tasks):
    # A held-out request may begin a longer one, so that whole lines are compared.
    lines = set(corpora["prompts"])
    for document in corpora["documents"]:
        lines.update(
            re.sub("(Q:|#) ", "", line, count=1) for line in document.split("\n")
        )
    for task in held_out_tasks:
        assert task.prompt not in lines
        assert task.prompt.removeprefix("Write f. ") not in lines


def test_teachers_never_put_a_held_out_question_into_their_answers():
    rng = random.Random(25)
    drawn = tasks.sample_tasks(rng, "train", 3000)
    for task in drawn:
        for errors in ("random", "systematic", "mixed"):
            answer = teachers.ScriptedTeacher(errors).answer(task, rng)
            assert "?" not in answer and _request_key(answer) is None
        assert "?" not in teachers.weak_answer(task, rng)
