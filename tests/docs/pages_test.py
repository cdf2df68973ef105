"""What the documentation's Python says is so: its blocks run, one after the other."""

import re

import pytest

from nemojax.data.rows import formats, writers
from tests.house import tree
from tests.inference.server import serving_process

pytest.importorskip("safetensors")
pytestmark = pytest.mark.usefixtures("quick_compile")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_TEXTS = {
    path.as_posix(): (tree.ROOT / path).read_text()
    for path in tree.files()
    if path.suffix == ".md" and path.parts[0] in ("README.md", "docs")
}
SERVING = "docs/serving.md"
PAGES = sorted(
    page for page, text in _TEXTS.items() if _BLOCK.search(text) and page != SERVING
)


def run_blocks(page, text):
    """Runs the blocks of a page in one namespace; errors name its lines."""
    names: dict = {}
    for block in _BLOCK.finditer(text):
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], page, "exec"), names)


def test_there_are_pages():
    assert {"README.md", "docs/models.md", "docs/alignment.md"} <= set(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_the_blocks_of_a_page_run(page, here):
    run_blocks(page, _TEXTS[page])


def test_the_client_of_the_page_on_serving_is_answered(home, capsys):
    """At the address of a server that is started for it."""
    pytest.importorskip("openai")
    text, port = _TEXTS[SERVING], "http://127.0.0.1:8000"
    assert port in text
    flags = ("--default_max_tokens=8",)
    with serving_process.serving(home / "models/mine", *flags) as (address, _):
        run_blocks(SERVING, text.replace(port, address))
    assert capsys.readouterr().out


def test_the_table_of_formats_names_each_with_its_kind_and_layout():
    kinds = {
        "conversations": "conversation",
        "preference pairs": "pair",
        "attribute labels": "labels",
    }
    written = {layout.format: name for name, layout in writers.TARGETS.items()}
    expected = {
        (entry.name, kinds[kind], written.get(entry.name, ""))
        for kind, entries in formats.FORMATS.items()
        for entry in entries
    }
    page = (tree.ROOT / "docs/data.md").read_text()
    table = [line.split("|") for line in page.splitlines() if line.startswith("| `")]
    found = {
        (name.split("`")[1], kind.strip(), target.strip(" `"))
        for _, name, _, kind, target, _ in table
    }
    assert found == expected
