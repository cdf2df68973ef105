"""Runs a notebook without Jupyter.

    python -m tests.docs.notebooks docs/notebooks/first_steps.ipynb

runs it in its folder and keeps what its cells put out.
"""

import ast
import base64
import contextlib
import io
import json
import os
import pathlib
import sys
from typing import Any

import matplotlib

matplotlib.use("agg")
from matplotlib import pyplot

_TEXT, _PNG = "text/plain", "image/png"


def read(path: pathlib.Path) -> dict[str, Any]:
    """Reads a notebook."""
    return json.loads(path.read_text())


def code_cells(notebook: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the cells with code, in order."""
    return [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]


def run(notebook: dict[str, Any]) -> None:
    """Runs the cells in order, in the current folder, and replaces their outputs."""
    names: dict[str, Any] = {"__name__": "__main__"}
    for number, cell in enumerate(code_cells(notebook), 1):
        cell["execution_count"] = number
        cell["outputs"] = _outputs("".join(cell["source"]), names, number)


def _outputs(source: str, names: dict[str, Any], number: int) -> list[dict[str, Any]]:
    """Runs a cell; returns its text, its figures and the value of its last line."""
    body = ast.parse(source).body
    last = body.pop() if body and isinstance(body[-1], ast.Expr) else None
    written, value = io.StringIO(), None
    with contextlib.redirect_stdout(written):
        exec(compile(ast.Module(body, []), f"cell {number}", "exec"), names)
        if isinstance(last, ast.Expr):
            expression = ast.Expression(last.value)
            value = eval(compile(expression, f"cell {number}", "eval"), names)
    found: list[dict[str, Any]] = []
    if text := written.getvalue():
        lines = text.splitlines(keepends=True)
        found.append({"output_type": "stream", "name": "stdout", "text": lines})
    for figure in map(pyplot.figure, pyplot.get_fignums()):
        image = io.BytesIO()
        figure.savefig(image, format="png", dpi=72, bbox_inches="tight")
        data = {_PNG: base64.b64encode(image.getvalue()).decode()}
        found.append({"output_type": "display_data", "data": data, "metadata": {}})
    if not pyplot.get_fignums() and value is not None:
        data = {_TEXT: repr(value).splitlines(keepends=True)}
        found.append(
            {
                "output_type": "execute_result",
                "execution_count": number,
                "data": data,
                "metadata": {},
            }
        )
    pyplot.close("all")
    return found


def main(path: pathlib.Path) -> None:
    """Runs a notebook in its folder and keeps its outputs."""
    notebook = read(path)
    path = path.absolute()
    os.chdir(path.parent)
    run(notebook)
    path.write_text(json.dumps(notebook, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main(pathlib.Path(sys.argv[1]))
