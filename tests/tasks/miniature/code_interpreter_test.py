"""The interpreter computes what Python computes, and refuses all else early."""

import random
import sys

import pytest

from nemojax.tasks.miniature import code_interpreter

INPUTS = [[], [3], [5, 1, 4, 1], list(range(9)), [7] * 6]


def _integer(rng, names, depth):
    """Returns a random integer expression; ``names`` are the integer variables."""
    leaves = [str(rng.randint(0, 5)), *names]
    if depth == 0:
        return rng.choice(leaves)
    values = _list(rng, names, depth - 1)
    form = rng.randrange(7)
    if form < 2:
        left, right = (_integer(rng, names, depth - 1) for _ in range(2))
        return f"({left}{rng.choice('+-*%')}{right})"
    if form == 2:
        return f"-{_integer(rng, names, depth - 1)}"
    if form == 3:
        return f"{values}[{rng.randint(-2, 2)}]"
    if form == 4:
        return rng.choice(leaves)
    return f"{rng.choice(['sum', 'max', 'min', 'len'])}({values})"


def _list(rng, names, depth):
    """Returns a random expression that is a list of integers."""
    if depth == 0:
        return "x"
    inner = _list(rng, names, depth - 1)
    form = rng.randrange(6)
    if form == 0:
        items = [_integer(rng, names, depth - 1) for _ in range(rng.randint(0, 2))]
        return f"({inner}+[{','.join(items)}])"
    if form == 1:
        bounds = [rng.choice(["", str(rng.randint(-3, 3))]) for _ in range(2)]
        return f"{inner}[{':'.join(bounds)}{rng.choice(['', ':-1', ':2'])}]"
    if form == 2:
        return f"sorted({inner})"
    target = rng.choice("vwx")
    scope = [*names, target] if target != "x" else names
    if target == "x":  # the loop hides the list: only its integers can be used
        return f"[x*2 for x in {inner} if x>{rng.randint(0, 4)}]"
    condition = _integer(rng, scope, depth - 1)
    comparison = rng.choice(["<", ">", "==", "<=", ">=", "!="])
    keep = f" if {condition}{comparison}{rng.randint(0, 5)}" if form == 3 else ""
    return f"[{_integer(rng, scope, depth - 1)} for {target} in {inner}{keep}]"


def _python(source):
    """Runs a program that this test wrote, with Python."""
    scope = {}
    exec(source, scope)
    results = []
    for values in INPUTS:
        try:
            results.append(scope["f"](list(values)))
        except (ArithmeticError, LookupError, TypeError, ValueError):
            results.append(None)
    return results


def test_random_programs_give_what_python_gives():
    rng = random.Random(0)
    failures = compared = 0
    for _ in range(2500):
        lines = [f" x={_list(rng, [], rng.randint(0, 3))}\n" for _ in range(2)]
        result = rng.choice([_list, _integer])(rng, [], rng.randint(0, 3))
        source = f"def f(x):\n{''.join(lines)} return {result}"
        if len(source) > code_interpreter.MAX_SOURCE_CHARACTERS:
            continue
        expected = _python(source)
        assert code_interpreter.run(source, INPUTS) == expected, source
        compared += 1
        failures += None in expected
    assert compared > 2000  # most were real programs
    assert 100 < failures < 0.9 * compared  # on both sides of Python's errors


def test_the_input_list_is_not_changed():
    values = [3, 1, 2]
    code_interpreter.run("def f(x):\n x=sorted(x)\n return x", [values])
    assert values == [3, 1, 2]


@pytest.mark.parametrize(
    "body",
    [
        "return x.append(1)",
        "return ().__class__",
        "return __import__('os')",
        "return open('f')",
        "return eval(x)",
        "return f(x)",
        "return (lambda: x)()",
        "return [v for v in x for w in x]",
        "return [v for v, w in x]",
        "return {v for v in x}",
        "return sorted(x, key=len)",
        "return sum(*x)",
        "return 'a'",
        "return 1.5",
        "return 10**9",
        "return 99999999999",
        "return x*5 if x else x",
        "return 1<2<3",
        "return True",
        "return not x",
        "return (y:=x)",
        "import os",
        "global x",
        "while 1:\n  x=x",
        "for v in x:\n  x=x",
        "x+=[1]",
        "x[0]=1",
        "sum=x",
        "x=y=x",
        "return",
        "yield x",
        "@x",
    ],
)
def test_everything_outside_the_language_is_refused(body):
    assert code_interpreter.run(f"def f(x):\n {body}\n", INPUTS) is None


@pytest.mark.parametrize(
    "source",
    [
        "",
        "x=1",
        "import os\ndef f(x):\n return x",
        "def f(x):\n return x\nf([1])",
        "def f(x, y):\n return x",
        "def f(x=[]):\n return x",
        "def f(*x):\n return x",
        "def f(x: int):\n return x",
        "async def f(x):\n return x",
        "class f:\n x=1",
        "@f\ndef f(x):\n return x",
    ],
)
def test_only_one_plain_function_is_a_program(source):
    assert code_interpreter.run(source, INPUTS) is None


def test_lists_of_lists_are_refused_when_run():
    for body in ("return [x]", "return [x for v in x]", "return x*3"):
        assert code_interpreter.run(f"def f(x):\n {body}", [[1, 2]]) == [None]


_BLOW_UPS = {
    "doubling list": " x=x+x\n" * 40 + " return x",
    "squaring number": " x=sum(x)\n" + " x=x*x\n" * 40 + " return x",
    "nested loops": " x=x+x\n" * 4
    + " return [sum([sum([sum(x) for a in x]) for b in x]) for c in x]",
    "deep nesting": " return " + "-" * 500 + "1",
    "deep brackets": " return " + "(" * 250 + "1" + ")" * 250,
    "long literal": " return " + "9" * 550,
    "long source": " x=x\n" * 100_000 + " return x",
    "repeated text": " return " + "a1" * 280 + "!",
}


@pytest.mark.parametrize("name", _BLOW_UPS)
def test_huge_work_is_refused_after_few_calls(name):
    """Of Python's functions and of C's, whose arguments are bounded (see below)."""
    calls = []
    sys.setprofile(lambda frame, event, argument: calls.append(event))
    try:
        found = code_interpreter.run("def f(x):\n" + _BLOW_UPS[name], [list(range(9))])
    finally:
        sys.setprofile(None)
    assert found in (None, [None])
    assert len(calls) < code_interpreter.STEP_BUDGET


def test_joined_lists_and_numbers_are_bounded():
    longest, largest = code_interpreter.MAX_LIST_LENGTH, code_interpreter.MAX_MAGNITUDE
    joined = "def f(x):\n return x+x"
    assert code_interpreter.run(joined, [[1] * (longest // 2)]) == [[1] * longest]
    assert code_interpreter.run(joined, [[1] * (longest // 2 + 1)]) == [None]
    added = "def f(x):\n return x[0]+x[1]"
    assert code_interpreter.run(added, [[largest, 0]]) == [largest]
    assert code_interpreter.run(added, [[largest, 1], [-largest, -1]]) == [None, None]


def test_step_budget_counts_the_loop():
    program = code_interpreter.Program("def f(x):\n return [v for v in x]")
    assert program.run([1, 2, 3], steps=4) == [1, 2, 3]
    with pytest.raises(code_interpreter.Refused, match="steps"):
        program.run([1, 2, 3], steps=3)
