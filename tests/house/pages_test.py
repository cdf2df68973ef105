"""What the documentation's Python says is so: its blocks run, one after the other."""

import re

import pytest

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
