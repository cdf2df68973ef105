"""The notebooks run, and their kept outputs are of the kinds that they give."""

import base64

import pytest

from tests.docs import notebooks
from tests.house import tree

pytestmark = pytest.mark.usefixtures("quick_compile")
PATHS = sorted(path for path in tree.files() if path.suffix == ".ipynb")


def kinds(notebook):
    """The kind of each output, by cell."""
    return [
        [(output["output_type"], *output.get("data", ())) for output in cell["outputs"]]
        for cell in notebooks.code_cells(notebook)
    ]


def test_there_are_notebooks():
    assert PATHS


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_notebook_runs_on_a_tiny_model(path, here, monkeypatch):
    """In a folder beside runs/miniature, which has the models of the fixture."""
    run = here / "runs/miniature"
    run.mkdir(parents=True)
    (run / "model").symlink_to(here / "models/mine")
    (run / "policy_reward_model").mkdir()
    (run / "policy_reward_model/model").symlink_to(here / "models/reward")
    folder = here / path.parent
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    notebook = notebooks.read(tree.ROOT / path)
    kept = kinds(notebook)
    notebooks.run(notebook)
    assert kinds(notebook) == kept
    assert any("image/png" in output for cell in kept for output in cell)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_a_notebook_is_one_of_the_fourth_format(path):
    notebook = notebooks.read(tree.ROOT / path)
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    for number, cell in enumerate(notebooks.code_cells(notebook), 1):
        assert cell["execution_count"] == number
        for output in cell["outputs"]:
            if image := output.get("data", {}).get("image/png"):
                assert base64.b64decode(image).startswith(b"\x89PNG")
