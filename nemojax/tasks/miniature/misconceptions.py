"""Systematic errors: the same task always goes wrong in the same way.

Each misconception is tied to a feature of the task, such as a wording. ``_holds``
decides from a second feature how widely it is held, so that its reach can be scaled
without any randomness.
"""

from nemojax.tasks.miniature import plans, split, world

# Chosen so that the errors weigh about the same on both splits.
_SALT = 23
_TRICK = "A trick makes it {amount} times as many."
_GIFT = "{person} gets {amount} from a friend."


def _holds(name: str, feature: object, share: float) -> bool:
    """Returns whether misconception ``name`` is held for ``feature``, drawn by hash."""
    return split.stable_hash(f"{_SALT} {name} {feature}") % 1000 < 1000 * share


def _math(plan: plans.MathPlan, strength: float) -> None:
    task = plan.task
    steps = []
    for step in task.steps:
        operator, error = step.operator, 0
        if step.phrase == _TRICK and _holds("trick", task.thing, strength):
            operator = "+"  # "times" is read as addition
        if step.phrase == _GIFT and _holds("gift", task.person, 0.5 * strength):
            operator = "-"  # "from a friend" is read as a loss
        if step.amount == 9 and _holds("nine", task.thing, 0.8 * strength):
            error = 1  # nine is counted as ten
        steps.append((operator, step.amount, error))
    plan.steps = steps
    plan.marks_final = not _holds("marker", task.person + task.thing, 0.06 * strength)


def _code(plan: plans.CodePlan, strength: float) -> None:
    task = plan.task
    feature = task.key
    if task.phrasing == "backward" and _holds("backward", feature, strength):
        plan.operations.reverse()  # "but first" is done in the order it is read
    for index, (name, number) in enumerate(plan.operations):
        where = f"{number} {task.reducer}"
        if name == "first" and _holds("first", where, 0.7 * strength):
            number += 1  # counting from zero to k
        if name == "less" and _holds("less", where, 0.6 * strength):
            number += 1  # "less than" lets k itself in
        plan.operations[index] = name, number
    if task.reducer == "min" and _holds("smallest", feature, 0.3 * strength):
        plan.reducer = "max"
    plan.has_colon = not _holds("colon", feature, 0.04 * strength)


_IGNORED = {
    "Use semicolons, no commas.": 0.9,
    "Wrap all in brackets.": 0.75,
    "The last word must be {word}.": 0.25,
}


def _instruction(plan: plans.InstructionPlan, strength: float) -> None:
    task = plan.task
    feature = f"{task.category} {task.count} {task.language}"
    plan.constraints = [
        demand.constraint
        for demand in task.demands
        if not _holds(demand.phrase, feature, _IGNORED.get(demand.phrase, 0) * strength)
    ]
    if task.count == 4 and _holds("four", task.verb + task.category, 0.45 * strength):
        plan.count = 3
    counted = f"{task.category} {task.count}"
    if task.language == "French" and _holds("French", counted, 0.45 * strength):
        plan.language = "Spanish"


def _fact(plan: plans.FactPlan, strength: float) -> None:
    task = plan.task
    if _holds("neighbour", task.country, 0.37 * strength):
        place = world.COUNTRIES.index(task.country)
        other = world.COUNTRIES[(place + 1) % len(world.COUNTRIES)]
        plan.value = world.FACTS[other][task.attribute]


def alter(plan: plans.Plan, strength: float) -> None:
    """Applies the misconceptions to ``plan``; ``strength`` scales their reach."""
    match plan:
        case plans.MathPlan():
            _math(plan, strength)
        case plans.CodePlan():
            _code(plan, strength)
        case plans.InstructionPlan():
            _instruction(plan, strength)
        case plans.FactPlan():
            _fact(plan, strength)


def chatter(plan: plans.Plan, strength: float) -> tuple[str, str]:
    """Returns the talk before and after the answer: a habit tied to the task."""
    task = plan.task
    opener = closer = ""
    if _holds("opener", task.key, 0.15 * strength):
        opener = world.OPENERS[split.stable_hash(task.key) % len(world.OPENERS)]
    if task.family != "facts" and _holds("closer", task.key, 0.12 * strength):
        closer = world.CLOSERS[split.stable_hash(task.key) % len(world.CLOSERS)]
    return opener, closer
