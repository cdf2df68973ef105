"""The measurable rules of the house, each a function from a source to its breaches."""

import ast
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

FILE_LINES = 400
FUNCTION_LINES = 80
EXPERIMENT_LINES = 150
TEST_SHARE = 0.35

# Distributions whose import name is another.
_DISTRIBUTIONS = {
    "absl": "absl-py",
    "orbax": "orbax-checkpoint",
    "yaml": "pyyaml",
}
_OURS = ("nemojax", "experiments", "benchmarks", "tests")
_FRAGMENT = re.compile(
    "(As|At|By|From|How|Its|Of|On|So|That|Those|To|Until"
    "|What|When|Where|Whether|Which|Why|With|Will)$"
)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef)


def long_file(text: str, limit: int = FILE_LINES) -> list[str]:
    """A file longer than the limit is more than one concept."""
    lines = len(text.splitlines())
    return [f"{lines} lines, over {limit}"] if lines > limit else []


def long_functions(text: str, limit: int = FUNCTION_LINES) -> list[str]:
    """Functions longer than the limit, decorators not counted, nested ones too."""
    functions = [n for n in ast.walk(ast.parse(text)) if isinstance(n, _FUNCTIONS)]
    return [
        f"{function.name} in line {function.lineno} has {lines} lines, over {limit}"
        for function in functions
        if (lines := (function.end_lineno or 0) - function.lineno + 1) > limit
    ]


def fragments(text: str) -> list[str]:
    """Docstrings that need their neighbours to be understood.

    A function's begins with a verb in the third person, any other one with no word
    that asks for a noun before it.
    """
    tree = ast.parse(text)
    found = []
    for node in ast.walk(tree):
        if not isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Module)):
            continue
        word = re.split(r"\W", (ast.get_docstring(node) or "").lstrip("`") + " ")[0]
        acts = isinstance(node, _FUNCTIONS) and not any(
            "property" in ast.unparse(d) for d in node.decorator_list
        )
        if _FRAGMENT.match(word) or (word and acts and not word.endswith("s")):
            name = getattr(node, "name", "the module")
            found.append(f"the docstring of {name} begins with {word!r}")
    return found


def repeats(text: str) -> list[str]:
    """Docstrings that say a paragraph twice."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (*_FUNCTIONS, ast.ClassDef, ast.Module)):
            parts = (ast.get_docstring(node) or "").split("\n\n")
            if len(set(parts)) < len(parts):
                name = getattr(node, "name", "the module")
                found.append(f"the docstring of {name} repeats a paragraph")
    return found


def unnamed_command(path: PurePosixPath, text: str) -> list[str]:
    """An experiment's docstring starts the reader off with the command to type."""
    command = f"python -m experiments.{path.stem}"
    if command in (ast.get_docstring(ast.parse(text)) or ""):
        return []
    return [f"the docstring does not name `{command}`"]


def host_paths(text: str) -> list[str]:
    """Absolute paths that exist on one machine only."""
    # Written so that this file does not hold what it looks for.
    folders = "|".join(("w" + "ork", "r" + "oot", "t" + "mp/v"))
    return re.findall(rf"(?<![\w.])/(?:{folders})/[^\s`'\"]*", text)


def test_share(tests: Mapping[PurePosixPath, str], others: Mapping) -> float:
    """The part of all Python lines that are tests."""
    counts = [sum(len(t.splitlines()) for t in s.values()) for s in (tests, others)]
    return counts[0] / max(1, sum(counts))


def imports(text: str) -> Iterator[str]:
    """Dotted names that a source imports; `from a import b` gives `a.b`."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def distribution(module: str) -> str | None:
    """The distribution that brings a dotted module; None for Python's own and ours."""
    top = module.partition(".")[0]
    if top in sys.stdlib_module_names or top in _OURS:
        return None
    return _DISTRIBUTIONS.get(top, top.replace("_", "-").lower())
