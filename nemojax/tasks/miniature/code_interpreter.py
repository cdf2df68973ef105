"""Interpreter of the list programs that models write, which runs no code.

A program is one function of one list, made of assignments and a return. Its syntax
tree is turned into closures node by node; what is not listed here is refused. Values
are integers and flat lists of integers, all sizes are bounded, and loops draw on a
step budget, so that no program can reach anything or take long.
"""

import ast
import operator
import re
from collections.abc import Callable, Sequence
from typing import Any

MAX_SOURCE_CHARACTERS = 600
MAX_NESTING = 20
MAX_LITERAL = 10_000
MAX_MAGNITUDE = 10**9
MAX_LIST_LENGTH = 200
STEP_BUDGET = 5_000

Value = int | list[int]

# No quotes, dots, escapes or digits that run into letters: the parser then has
# nothing to warn about, and attributes cannot even be spelled.
_FORBIDDEN_TEXT = re.compile(r"[^A-Za-z0-9_ \n=()\[\]:,+*%<>!-]|\d[A-Za-z_]")
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "sum": sum,
    "max": max,
    "min": min,
    "len": len,
    "sorted": sorted,
}
_COMPARISONS: dict[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
_ARITHMETIC: dict[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Mod: operator.mod,
}
_RUNTIME_ERRORS = (ArithmeticError, LookupError, TypeError, ValueError)


class Refused(ValueError):
    """The program leaves the language or its limits."""


class _Frame:
    """The variables of one call and the steps it may still take."""

    __slots__ = ("names", "steps_left")

    def __init__(self, names: dict[str, Value], steps_left: int):
        self.names = names
        self.steps_left = steps_left

    def charge(self, steps: int) -> None:
        self.steps_left -= steps
        if self.steps_left < 0:
            raise Refused("the program takes too many steps")


_Expression = Callable[[_Frame], Any]


def _refuse(node: ast.AST) -> Refused:
    return Refused(f"{type(node).__name__} is not part of the language")


def _constant(node: ast.Constant, depth: int) -> _Expression:
    value = node.value
    if type(value) is not int or value > MAX_LITERAL:
        raise Refused(f"literal {value!r} is not an integer up to {MAX_LITERAL}")
    return lambda frame: value


def _name(node: ast.Name, depth: int) -> _Expression:
    name = node.id
    return lambda frame: frame.names[name]


def _negative(node: ast.UnaryOp, depth: int) -> _Expression:
    if not isinstance(node.op, ast.USub):
        raise _refuse(node.op)
    operand = _expression(node.operand, depth)
    return lambda frame: -operand(frame)


def _arithmetic(node: ast.BinOp, depth: int) -> _Expression:
    function = _ARITHMETIC.get(type(node.op))
    if function is None:
        raise _refuse(node.op)
    left, right = _expression(node.left, depth), _expression(node.right, depth)
    joins = isinstance(node.op, ast.Add)

    def evaluate(frame: _Frame) -> Value:
        first, second = left(frame), right(frame)
        if isinstance(first, list) or isinstance(second, list):
            if not joins:
                raise Refused("lists can only be joined by +")
            result = function(first, second)
            if len(result) > MAX_LIST_LENGTH:
                raise Refused("a list grows too long")
            frame.charge(len(result))
            return result
        result = function(first, second)
        if not -MAX_MAGNITUDE <= result <= MAX_MAGNITUDE:
            raise Refused("a number grows too large")
        return result

    return evaluate


def _comparison(node: ast.Compare, depth: int) -> _Expression:
    if len(node.ops) != 1:
        raise Refused("comparisons cannot be chained")
    function = _COMPARISONS.get(type(node.ops[0]))
    if function is None:
        raise _refuse(node.ops[0])
    left = _expression(node.left, depth)
    right = _expression(node.comparators[0], depth)

    def evaluate(frame: _Frame) -> bool:
        first, second = left(frame), right(frame)
        if isinstance(first, list):
            frame.charge(len(first))
        return function(first, second)

    return evaluate


def _call(node: ast.Call, depth: int) -> _Expression:
    if not isinstance(node.func, ast.Name) or node.func.id not in _FUNCTIONS:
        raise Refused("only sum, max, min, len and sorted can be called")
    if node.keywords:
        raise Refused("calls take no named arguments")
    function = _FUNCTIONS[node.func.id]
    arguments = [_expression(argument, depth) for argument in node.args]

    def evaluate(frame: _Frame) -> Value:
        values = [argument(frame) for argument in arguments]
        frame.charge(sum(len(v) for v in values if isinstance(v, list)))
        return function(*values)

    return evaluate


def _index(node: ast.Subscript, depth: int) -> _Expression:
    container = _expression(node.value, depth)
    if not isinstance(node.slice, ast.Slice):
        place = _expression(node.slice, depth)
        return lambda frame: container(frame)[place(frame)]
    bounds = (node.slice.lower, node.slice.upper, node.slice.step)
    parts = [None if bound is None else _expression(bound, depth) for bound in bounds]

    def evaluate(frame: _Frame) -> Value:
        result = container(frame)[slice(*[part and part(frame) for part in parts])]
        frame.charge(len(result))
        return result

    return evaluate


def _integer(value: Value) -> int:
    if isinstance(value, list):
        raise Refused("lists hold integers only")
    return value


def _list(node: ast.List, depth: int) -> _Expression:
    items = [_expression(item, depth) for item in node.elts]
    return lambda frame: [_integer(item(frame)) for item in items]


def _comprehension(node: ast.ListComp, depth: int) -> _Expression:
    generator = node.generators[0]
    if len(node.generators) != 1 or generator.is_async:
        raise Refused("a comprehension has one plain loop")
    target = _target_name(generator.target)
    iterable = _expression(generator.iter, depth)
    element = _expression(node.elt, depth)
    conditions = [_expression(condition, depth) for condition in generator.ifs]

    def evaluate(frame: _Frame) -> Value:
        values = iterable(frame)
        frame.charge(1 + len(values))
        names = frame.names
        # The loop variable lives in the comprehension only.
        frame.names = inner = dict(names)
        result = []
        for value in values:
            inner[target] = value
            for condition in conditions:
                if not condition(frame):
                    break
            else:
                result.append(_integer(element(frame)))
        frame.names = names
        return result

    return evaluate


_EXPRESSIONS: dict[type[ast.expr], Callable[[Any, int], _Expression]] = {
    ast.Constant: _constant,
    ast.Name: _name,
    ast.UnaryOp: _negative,
    ast.BinOp: _arithmetic,
    ast.Compare: _comparison,
    ast.Call: _call,
    ast.Subscript: _index,
    ast.List: _list,
    ast.ListComp: _comprehension,
}


def _expression(node: ast.expr, depth: int) -> _Expression:
    translate = _EXPRESSIONS.get(type(node))
    if translate is None:
        raise _refuse(node)
    if depth >= MAX_NESTING:
        raise Refused("the program is nested too deeply")
    return translate(node, depth + 1)


def _target_name(node: ast.expr) -> str:
    if not isinstance(node, ast.Name) or node.id in _FUNCTIONS:
        raise Refused("only variables can be assigned")
    return node.id


def _parse(source: str) -> ast.FunctionDef:
    if len(source) > MAX_SOURCE_CHARACTERS:
        raise Refused(f"the program is longer than {MAX_SOURCE_CHARACTERS} characters")
    if _FORBIDDEN_TEXT.search(source):
        raise Refused("the program holds characters outside the language")
    try:
        body = ast.parse(source).body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Refused(f"not a program: {error}") from error
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        raise Refused("a program is exactly one function")
    return body[0]


def _parameter(function: ast.FunctionDef) -> str:
    arguments = function.args
    plain = (
        len(arguments.args) == 1
        and arguments.args[0].annotation is None
        and not arguments.posonlyargs
        and not arguments.kwonlyargs
        and not arguments.defaults
        and arguments.vararg is None
        and arguments.kwarg is None
    )
    extras = function.decorator_list or getattr(function, "type_params", None)
    if not plain or extras or function.returns is not None:
        raise Refused("a function takes one plain argument")
    return arguments.args[0].arg


class Program:
    """A checked program, ready to be run on lists of integers."""

    def __init__(self, source: str):
        """Translates ``source``.

        Raises:
          Refused: if anything in it is not part of the language.
        """
        function = _parse(source)
        self._parameter = _parameter(function)
        # (variable, expression); the variable of a return is None.
        self._statements: list[tuple[str | None, _Expression]] = []
        for node in function.body:
            if isinstance(node, ast.Assign) and len(node.targets) == 1:
                name = _target_name(node.targets[0])
                self._statements.append((name, _expression(node.value, 0)))
            elif isinstance(node, ast.Return) and node.value is not None:
                self._statements.append((None, _expression(node.value, 0)))
            else:
                raise _refuse(node)

    def run(self, values: Sequence[int], steps: int = STEP_BUDGET) -> Value:
        """Returns what the function returns for the list ``values``.

        Raises:
          Refused: if a limit is passed or nothing is returned.
          ArithmeticError, LookupError, TypeError, ValueError: as Python would.
        """
        frame = _Frame({self._parameter: list(values)}, steps)
        for name, expression in self._statements:
            result = expression(frame)
            if name is None:
                return result
            frame.names[name] = result
        raise Refused("the function returns nothing")


def run(source: str, inputs: Sequence[Sequence[int]]) -> list[Value | None] | None:
    """Runs ``source`` on each of ``inputs``.

    Returns:
      One result an input, None where that run failed; or None alone if the source is
      not a program of the language.
    """
    try:
        program = Program(source)
    except Refused:
        return None
    results: list[Value | None] = []
    for values in inputs:
        try:
            results.append(program.run(values))
        except _RUNTIME_ERRORS:
            results.append(None)
    return results
