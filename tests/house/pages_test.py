"""What the documentation's Python says is so: its blocks run, one after the other."""

import re

import pytest

from nemojax.data.rows import formats, writers
from tests.house import tree

pytest.importorskip("safetensors")
_BLOCK = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


@pytest.mark.parametrize("page", ["docs/models.md"])
def test_the_blocks_of_a_page_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (tree.ROOT / page).read_text()
    names: dict = {}
    blocks = list(_BLOCK.finditer(text))
    assert blocks
    for block in blocks:
        line = text[: block.start(1)].count("\n")
        exec(compile("\n" * line + block[1], page, "exec"), names)


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
