"""Plans of a scripted teacher's answers: right at first, then altered."""

import dataclasses
import random

from nemojax.tasks.miniature import (
    code_tasks,
    fact_tasks,
    grading,
    instruction_tasks,
    math_tasks,
    world,
)


@dataclasses.dataclass
class MathPlan:
    """Steps as (operator, amount, slip added to the result), and the final marker."""

    task: math_tasks.MathTask
    steps: list[tuple[str, int, int]]
    marks_final: bool = True

    def write(self, rng: random.Random) -> str:
        """Writes the planned answer."""
        chain, value = math_tasks.write_chain(self.task.start, self.steps)
        return f"{chain} {'####' if self.marks_final else 'So'} {value}"


@dataclasses.dataclass
class CodePlan:
    """The program to write; without its colon it does not parse."""

    task: code_tasks.CodeTask
    operations: list[code_tasks.Operation]
    reducer: str
    has_colon: bool = True

    def write(self, rng: random.Random) -> str:
        """Writes the planned answer."""
        program = code_tasks.write_program(self.operations, self.reducer)
        return program if self.has_colon else program.replace(":", "", 1)


@dataclasses.dataclass
class InstructionPlan:
    """The form and content to give; ``repeats`` allows the same word twice."""

    task: instruction_tasks.InstructionTask
    constraints: list[str]
    count: int
    language: str
    repeats: bool = False

    def write(self, rng: random.Random) -> str:
        """Writes the planned answer."""
        words = world.WORDS[self.task.category][self.language]
        draw = rng.choices if self.repeats else rng.sample
        return self.task.write(draw(words, k=self.count), self.constraints)


@dataclasses.dataclass
class FactPlan:
    """The value to name."""

    task: fact_tasks.FactTask
    value: str

    def write(self, rng: random.Random) -> str:
        """Writes the planned answer."""
        return self.value


Plan = MathPlan | CodePlan | InstructionPlan | FactPlan


def make(task: grading.Task) -> Plan:
    """Returns the plan of the right answer to ``task``.

    Raises:
      ValueError: if the task is of no known family.
    """
    match task:
        case math_tasks.MathTask():
            return MathPlan(task, [(s.operator, s.amount, 0) for s in task.steps])
        case code_tasks.CodeTask():
            return CodePlan(task, list(task.operations), task.reducer)
        case instruction_tasks.InstructionTask():
            constraints = list(task.constraints)
            return InstructionPlan(task, constraints, task.count, task.language)
        case fact_tasks.FactTask():
            return FactPlan(task, task.answer)
    raise ValueError(f"no plan for a task of family {task.family!r}")
