"""Random errors: independent slips, other ones each time the same task is asked."""

import random

from nemojax.tasks.miniature import code_tasks, plans, world


def _math(plan: plans.MathPlan, rng: random.Random, strength: float) -> None:
    if len(plan.steps) > 1 and rng.random() < 0.13 * strength:
        plan.steps.pop(rng.randrange(len(plan.steps)))
    for index, (operator, amount, error) in enumerate(plan.steps):
        if operator != "*" and rng.random() < 0.07 * strength:
            operator = "-" if operator == "+" else "+"
        if rng.random() < 0.12 * strength:
            error += rng.choice((-10, -2, -1, 1, 2, 10))
        plan.steps[index] = (operator, amount, error)
    if rng.random() < 0.06 * strength:
        plan.marks_final = False


def _code(plan: plans.CodePlan, rng: random.Random, strength: float) -> None:
    if len(plan.operations) > 1 and rng.random() < 0.15 * strength:
        plan.operations.pop(rng.randrange(len(plan.operations)))
    if len(plan.operations) > 1 and rng.random() < 0.18 * strength:
        plan.operations.reverse()
    for index, (name, number) in enumerate(plan.operations):
        if number and rng.random() < 0.1 * strength:
            plan.operations[index] = name, number + rng.choice((-1, 1))
    if rng.random() < 0.08 * strength:
        plan.reducer = rng.choice(tuple(code_tasks.REDUCERS))
    if rng.random() < 0.04 * strength:
        plan.has_colon = False


def _instruction(
    plan: plans.InstructionPlan, rng: random.Random, strength: float
) -> None:
    plan.constraints = [c for c in plan.constraints if rng.random() > 0.15 * strength]
    if rng.random() < 0.12 * strength:
        plan.count = max(1, plan.count + rng.choice((-1, 1)))
    if rng.random() < 0.15 * strength:
        plan.language = "English"
    if rng.random() < 0.1 * strength:
        plan.repeats = True


def _fact(plan: plans.FactPlan, rng: random.Random, strength: float) -> None:
    if rng.random() < 0.35 * strength:
        category = rng.choice(tuple(world.ATTRIBUTES.values()))
        plan.value = rng.choice(world.WORDS[category]["English"])


def alter(plan: plans.Plan, rng: random.Random, strength: float) -> None:
    """Lets random slips into ``plan``; ``strength`` scales their probabilities."""
    match plan:
        case plans.MathPlan():
            _math(plan, rng, strength)
        case plans.CodePlan():
            _code(plan, rng, strength)
        case plans.InstructionPlan():
            _instruction(plan, rng, strength)
        case plans.FactPlan():
            _fact(plan, rng, strength)


def chatter(plan: plans.Plan, rng: random.Random, strength: float) -> tuple[str, str]:
    """Returns what is said before and after the answer, mostly nothing."""
    opener = rng.choice(world.OPENERS) if rng.random() < 0.15 * strength else ""
    closes = plan.task.family != "facts" and rng.random() < 0.12 * strength
    return opener, rng.choice(world.CLOSERS) if closes else ""
