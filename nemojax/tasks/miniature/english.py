"""English pretraining text: speech, stories, number facts, countries, word lists.

Whatever corresponds to a task tuple is drawn from the training side only; facts are
stated for all countries, but put as a question only where training may ask it.
"""

import random

from nemojax.tasks.miniature import (
    fact_tasks,
    instruction_tasks,
    math_tasks,
    split,
    tasks,
    world,
)

_ALL_WORDS = tuple(
    word
    for by_language in world.WORDS.values()
    for words in by_language.values()
    for word in words
)
_EDGE_WORDS = tuple(w for words in instruction_tasks.EDGE_WORDS.values() for w in words)
_SPOKEN = (*_ALL_WORDS, *[str(number) for number in range(21)] * 3, *world.THINGS)
_SHOUTED = (*_ALL_WORDS, *_EDGE_WORDS)
_CHATTER = tuple(text.strip() for text in (*world.OPENERS, *world.CLOSERS))
_OPERATOR_WORDS = {"+": "plus", "-": "minus", "*": "times"}
_STATEMENTS = {
    "food": (
        "People in {country} eat {value}.",
        "In {country} they like to eat {value}.",
        "{country} is known for its {value}.",
    ),
    "color": ("The flag of {country} is {value}.", "{country} has a {value} flag."),
    "animal": (
        "The {value} lives in {country}.",
        "In {country} you may see a {value}.",
    ),
}
_LIST_FORMS = ("counted", "announced", "brackets", "upper")
_LIST_WEIGHTS = (10, 2, 1, 2)
_PROFILE_SHARE = 0.2
_QUESTION_SHARE = 0.2
_QUESTION_WEIGHTS = {"math": 0.55, "instruction": 0.35, "facts": 0.1}


def question_document(rng: random.Random) -> str:
    """Returns a training task with its answer: "Q: …" and "A: …" on two lines."""
    families, weights = zip(*_QUESTION_WEIGHTS.items(), strict=True)
    task = tasks.sample_task(rng.choices(families, weights)[0], rng, "train")
    return f"{task.completion_prompt} {task.gold(rng)}"


def quoted_speech(rng: random.Random) -> str:
    """Returns text that repeats itself, from which copying is learnt."""
    quote = " ".join(rng.choices(_SPOKEN, k=rng.randint(2, 6)))
    first, second = rng.sample(world.PERSONS, 2)
    form = rng.randrange(6)
    if form < 2:
        echo = f"{second} said: {quote}."
    elif form < 4:
        echo = f"So {second} wrote: {quote}."
    else:
        echo = f"{second} said: {quote.upper() if form == 4 else f'[ {quote} ]'}."
    return f"{first} said: {quote}. {echo}"


def counting_story(rng: random.Random) -> str:
    """Returns a story that may tell the running count, but never answers a task."""
    task = math_tasks.sample(rng, "train")
    first, *changes = task.sentences
    parts = [first]
    for index, (step, sentence) in enumerate(zip(task.steps, changes, strict=True)):
        before, after = task.values[index : index + 2]
        parts.append(sentence)
        form = rng.random()
        if form < 0.5:
            parts.append(f"{before}{step.operator}{step.amount}={after}, now")
        elif form < 0.9:
            parts.append("Now")
        if form < 0.9:
            parts.append(f"{task.person} has {after}.")
    return " ".join(parts)


def number_fact(rng: random.Random) -> str:
    """Returns one sum within 0..20, in digits or with the operator in words."""
    while True:
        operator, amount = math_tasks.sample_step(rng)
        start = rng.randint(0, math_tasks.MAX_VALUE)
        result = math_tasks.apply(operator, start, amount)
        key = math_tasks.make_key(start, [(operator, amount)])
        if 0 <= result <= math_tasks.MAX_VALUE and not split.is_test(key):
            break
    if rng.random() < 2 / 3:
        return f"{start}{operator}{amount}={result}."
    return f"{start} {_OPERATOR_WORDS[operator]} {amount} is {result}."


def fact_statement(rng: random.Random, country: str, attribute: str) -> str:
    """Returns a declarative sentence with one fact."""
    form = rng.choice(_STATEMENTS[attribute])
    return form.format(country=country, value=world.FACTS[country][attribute])


def country_profile(country: str) -> str:
    """Returns all facts of a country in one line."""
    facts = (f"{name} {value}" for name, value in world.FACTS[country].items())
    return f"About {country}: {', '.join(facts)}."


def country_document(rng: random.Random) -> str:
    """Returns a statement about a country, its profile, or a question that is asked."""
    form = rng.random()
    if form < _QUESTION_SHARE:
        task = fact_tasks.sample(rng, "train")
        if rng.random() < 0.5:
            return f"{task.prompt} {task.answer}"
        return f"{task.completion_prompt} {task.answer}"
    country = rng.choice(world.COUNTRIES)
    if form < _QUESTION_SHARE + _PROFILE_SHARE:
        return country_profile(country)
    return fact_statement(rng, country, rng.choice(tuple(world.ATTRIBUTES)))


def word_list(rng: random.Random) -> str:
    """Returns a list of words of one kind, as text, in brackets or in capitals.

    Half of the lists are longer than any task asks for: the fewer words are left, the
    more there is to learn from never naming one twice.
    """
    while True:
        category = rng.choice(world.CATEGORIES)
        words = world.WORDS[category]["English"]
        count = rng.randint(1, instruction_tasks.MAX_COUNT)
        if rng.random() < 0.5:
            count = rng.randint(instruction_tasks.MAX_COUNT + 1, len(words))
        separator = rng.choice((", ", "; "))
        form = rng.choices(_LIST_FORMS, _LIST_WEIGHTS)[0]
        constraints = [form] if form in instruction_tasks.CONSTRAINTS else []
        if separator == "; " and count > 1:
            constraints.append("semicolons")
        key = instruction_tasks.make_key(category, count, "English", constraints)
        if not split.is_test(key):
            break
    listed = separator.join(rng.sample(words, count))
    if form == "counted":
        return f"{world.NUMBER_WORDS['English'][count]} {category}: {listed}."
    if form == "announced":
        return f"Here are {count} {category}: {listed}. {rng.choice(_CHATTER)}"
    return f"[ {listed} ]" if form == "brackets" else listed.upper()


def upper_case_fact(rng: random.Random) -> str:
    """Returns a sentence that spells one word in capitals."""
    word = rng.choice(_SHOUTED)
    return f"{word} in upper case is {word.upper()}."


def chatter(rng: random.Random) -> str:
    """Returns small talk, so that the words of talkative teachers are known."""
    count, thing = rng.randint(2, 15), rng.choice(world.THINGS)
    return f"{rng.choice(_CHATTER)} {rng.choice(world.PERSONS)} has {count} {thing}."


_KINDS = {
    quoted_speech: 0.12,
    counting_story: 0.27,
    number_fact: 0.26,
    country_document: 0.17,
    word_list: 0.1,
    upper_case_fact: 0.03,
    chatter: 0.05,
}
_GENERATORS = tuple(_KINDS)
_WEIGHTS = tuple(_KINDS.values())


def sample(rng: random.Random, question_share: float) -> str:
    """Returns one English document; ``question_share`` of them are tasks answered."""
    if rng.random() < question_share:
        return question_document(rng)
    return rng.choices(_GENERATORS, _WEIGHTS)[0](rng)
