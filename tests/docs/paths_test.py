"""The files and names that the documentation sends readers to are there."""

import re

import pytest

from tests.house import tree

_PAGES = sorted(
    path
    for path in tree.files()
    if path.suffix == ".md"
    and path.parts[0] in ("README.md", "CONTRIBUTING.md", "docs")
)
_PATH = re.compile(r"`((?:nemojax|experiments|tests|benchmarks)/[\w/.]+\.\w+)`")
_NAMED = re.compile(r"`([\w/]+\.py)` \(([^)]*`[^)]*)\)")
_LINK = re.compile(r"\]\((?!https?:)([^)#]+)")


def text(page):
    return (tree.ROOT / page).read_text()


@pytest.mark.parametrize("page", _PAGES, ids=str)
def test_the_files_that_a_page_names_exist(page):
    named = _PATH.findall(text(page)) + [
        (page.parent / link).as_posix() for link in _LINK.findall(text(page))
    ]
    assert [name for name in named if not (tree.ROOT / name).exists()] == []


def test_the_names_behind_a_file_are_in_it():
    found = _NAMED.findall(text("docs/architecture.md"))
    assert len(found) > 15
    for path, words in found:
        source = (tree.ROOT / path).read_text()
        for name in re.findall(r"`(\w+)`", words):
            assert re.search(rf"\b{name}\b", source), f"{path}: {name}"


def test_the_ways_from_a_command_are_short():
    """As few files as a newcomer opens who knows the page alone."""
    most = {
        "the train step": 3,
        "the RPO loss": 3,
        "where a row becomes tokens": 5,
        "where a checkpoint is written": 4,
    }
    page = text("docs/architecture.md")
    for what, limit in most.items():
        (row,) = re.findall(rf"^\| {what} \|(.*)\|$", page, re.MULTILINE)
        assert 1 < len(re.findall(r"`[\w/]+\.py`", row)) <= limit
