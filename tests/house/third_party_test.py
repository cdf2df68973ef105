"""Everything of third parties is pinned, and names its origin and licence."""

import re
import tomllib

import pytest

from tests.house import checks, tree

FOLDER = tree.ROOT / "third_party"
LOCKS = sorted(FOLDER.glob("*.lock"))
PROJECT = tomllib.loads((tree.ROOT / "pyproject.toml").read_text())["project"]
ITEMS = {path.parts[1] for path in tree.files() if path.parts[0] == "third_party"}


def table(text: str) -> dict[str, list[str]]:
    """The rows of a Markdown table by their first column, header and rule left out."""
    lines = [line for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]
    return {row[0].strip("`"): row[1:] for row in rows}


def entries(lock: str) -> dict[str, list[str]]:
    """Hashes by package of a requirements lock."""
    blocks = re.split(r"^(?=[a-zA-Z0-9])", lock, flags=re.M)
    return {
        match[1]: re.findall(r"--hash=sha256:([0-9a-f]{64})\b", block)
        for block in blocks
        if (match := re.match(r"([\w.-]+)==\S+", block))
    }


def names(requirements: list[str]) -> set[str]:
    """The distributions asked for, in the one spelling that all spellings share."""
    found = (re.match(r"[\w.-]+", requirement) for requirement in requirements)
    return {re.sub(r"[-_.]+", "-", match[0]).lower() for match in found if match}


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_pins_every_package_by_hash_and_names_no_index(lock):
    text = lock.read_text()
    pins = entries(text)
    # One entry for each line that is neither a hash nor a comment.
    assert len(pins) == len(re.findall(r"^[^\s#]", text, re.M)) > 0
    assert [name for name, hashes in pins.items() if not hashes] == []
    assert re.findall(r"\S*(?:://|index-url|find-links|trusted-host)\S*", text) == []


@pytest.mark.parametrize("lock", LOCKS, ids=lambda lock: lock.name)
def test_a_lock_holds_what_the_project_asks_for(lock):
    asked = names(PROJECT["dependencies"] + PROJECT["optional-dependencies"]["dev"])
    assert asked - entries(lock.read_text()).keys() == set()


def test_the_library_imports_only_what_the_project_declares():
    extras = PROJECT["optional-dependencies"]
    users = [extras[extra] for extra in extras if extra != "dev"]
    declared = names(sum(users, PROJECT["dependencies"]))
    undeclared = {
        f"{path}: {distribution}"
        for path, text in tree.sources("nemojax", "experiments").items()
        for module in checks.imports(text)
        if (distribution := checks.distribution(module)) not in {None, *declared}
    }
    assert sorted(undeclared) == []


def test_both_supported_versions_have_a_lock():
    assert [lock.name for lock in LOCKS] == [
        "requirements-py311.lock",
        "requirements-py312.lock",
    ]


def test_no_lock_brings_torch_or_a_vendor_library():
    pinned = {name for lock in LOCKS for name in entries(lock.read_text())}
    assert not [n for n in pinned if n.startswith(("torch", "nvidia", "transformers"))]


def test_every_item_names_its_origin_and_licence():
    rows = table((FOLDER / "README.md").read_text())
    assert ITEMS - {"README.md", "BUILD"} == rows.keys()
    assert [item for item, (_, *rest) in rows.items() if not all(rest)] == []


def test_every_locked_package_names_its_licence_and_origin():
    rows = table((FOLDER / "LICENSES.md").read_text())
    assert rows.keys() == {n for lock in LOCKS for n in entries(lock.read_text())}
    assert [name for name, cells in rows.items() if not all(cells)] == []


def test_names_are_spelt_in_one_way():
    assert names(["ml_collections>=1", "a.B[c]", "x"]) == {"ml-collections", "a-b", "x"}


def test_imports_are_traced_to_their_distribution():
    text = (
        "import os\nimport absl.flags as f\nfrom jax import numpy\nimport nemojax.x\n"
    )
    found = [checks.distribution(module) for module in checks.imports(text)]
    assert set(found) == {None, "absl-py", "jax"}


def test_entries_reads_hashes_of_each_package():
    hashes = ["a" * 64, "b" * 64]
    lines = "".join(f" \\\n    --hash=sha256:{digest}" for digest in hashes)
    assert entries(f"x-y==1.0{lines}\n    # via z\nz==2\n") == {"x-y": hashes, "z": []}


def test_table_reads_rows_by_first_column():
    assert table("text\n| a | b |\n|---|---|\n| `x` | 1 |\n") == {"x": ["1"]}
