"""Reader of compiled programs: their collectives, and what their loops compute."""

import dataclasses
import functools
import math
import re
from collections.abc import Iterator

COLLECTIVES = (
    "all-gather",
    "all-reduce",
    "all-to-all",
    "collective-permute",
    "reduce-scatter",
)
_SIZES = {
    "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "pred": 1, "s8": 1, "u8": 1, "s16": 2,
    "u16": 2, "s32": 4, "u32": 4, "s64": 8, "u64": 8,
}  # fmt: skip
_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\) -> .* \{$")
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?) ([a-z][\w\-]*)\(")
_SHAPE = re.compile(r"\b([a-z]+\d*)\[([\d,]*)\]")
_CALLED = re.compile(
    r"(?:body|condition|calls|to_apply|true_computation|false_computation)=%?([\w.\-]+)"
)
_BRANCHES = re.compile(r"branch_computations=\{([^}]*)\}")
_BODY = re.compile(r"body=%?([\w.\-]+)")
# These make no new array of their result's size.
_FREE = frozenset(
    ("parameter", "get-tuple-element", "tuple", "while", "bitcast", "conditional")
)


@dataclasses.dataclass(frozen=True)
class Instruction:
    """One line of a program.

    Attributes:
      name: name of the instruction's result.
      opcode: opcode of the instruction, without the "-start" of an asynchronous one.
      nbytes: bytes of the largest array of its result.
      text: the line.
    """

    name: str
    opcode: str
    nbytes: int
    text: str


class Program:
    """A compiled program, from the text that `compiled.as_text()` gives."""

    def __init__(self, text: str):
        self.computations: dict[str, list[Instruction]] = {}
        current: list[Instruction] = []
        for line in text.splitlines():
            if header := _COMPUTATION.match(line):
                current = self.computations.setdefault(header[2], [])
            elif found := _INSTRUCTION.match(line):
                current.append(_instruction(found, line))

    @functools.cached_property
    def loops(self) -> frozenset[str]:
        """The computations that run inside of a loop."""
        waiting = [
            match[1]
            for instructions in self.computations.values()
            for instruction in instructions
            if instruction.opcode == "while"
            and (match := _BODY.search(instruction.text))
        ]
        found: set[str] = set()
        while waiting:
            name = waiting.pop()
            if name in found or name not in self.computations:
                continue
            found.add(name)
            for instruction in self.computations[name]:
                waiting += _called(instruction.text)
        return frozenset(found)

    def collectives(self, *, in_loops: bool | None = None) -> list[Instruction]:
        """Lists all collectives, or those inside (outside) of loops."""
        return [
            instruction
            for name, instructions in self.computations.items()
            if in_loops is None or in_loops == (name in self.loops)
            for instruction in instructions
            if instruction.opcode in COLLECTIVES
        ]

    def large_loop_results(self, nbytes: int) -> list[Instruction]:
        """Lists arrays of at least `nbytes` that loops compute anew.

        Updates in place are left out: a dynamic-update-slice, or a fusion that ends
        with one.
        """
        return [
            instruction
            for name in self.loops
            if name not in self._fused
            for instruction in self.computations[name]
            if instruction.nbytes >= nbytes
            and instruction.opcode not in _FREE
            and not instruction.opcode.endswith("-done")
            and not self._in_place(instruction)
        ]

    @functools.cached_property
    def _fused(self) -> frozenset[str]:
        return frozenset(
            name
            for instructions in self.computations.values()
            for instruction in instructions
            if instruction.opcode == "fusion"
            for name in _called(instruction.text)
        )

    def _in_place(self, instruction: Instruction) -> bool:
        if instruction.opcode == "dynamic-update-slice":
            return True
        if instruction.opcode not in ("fusion", "call"):
            return False
        return all(
            any(i.opcode == "dynamic-update-slice" for i in self.computations[name])
            for name in _called(instruction.text)
            if name in self.computations
        )


def _called(text: str) -> Iterator[str]:
    yield from _CALLED.findall(text)
    for names in _BRANCHES.findall(text):
        yield from (name.strip().lstrip("%") for name in names.split(","))


def _instruction(found: re.Match[str], line: str) -> Instruction:
    name, result, opcode = found.groups()
    # An asynchronous fusion gives ((operands), result, context).
    result = re.sub(r"^\(\(.*?\), ", "", result)
    sizes = [
        _SIZES.get(dtype, 4) * math.prod(int(n) for n in dims.split(",") if n)
        for dtype, dims in _SHAPE.findall(result)
    ]
    opcode = opcode.removesuffix("-start")
    return Instruction(name, opcode, max(sizes, default=0), line.strip())
