"""The BUILD files cover every source and name what the sources import."""

import re
from pathlib import PurePosixPath

import pytest

from tests.house import checks, starlark, tree

SOURCES = tree.sources("nemojax", "experiments", "benchmarks", "tests", "third_party")
PACKAGES = [
    path.parent.as_posix().removeprefix(".")
    for path in tree.files()
    if path.name == "BUILD"
]


@pytest.fixture(scope="module")
def targets():
    return starlark.targets(tree.ROOT, PACKAGES)


def locked_packages() -> set[str]:
    """Names that every lock pins, as rules_python spells them."""
    locks = (tree.ROOT / "third_party").glob("*.lock")
    pinned = [
        set(re.findall(r"^([\w.-]+)==", lock.read_text(), re.M)) for lock in locks
    ]
    return {re.sub(r"[-.]+", "_", name) for name in set.intersection(*pinned)}


def needed(path: PurePosixPath, locked: set[str]) -> set[str]:
    """Labels that a source's imports ask for.

    Imports of packages outside the locks are optional extras, which Bazel does not see.
    """
    labels = set()
    for name in checks.imports(SOURCES[path]):
        parts = name.split(".")
        distribution = (checks.distribution(name) or "").replace("-", "_")
        package = "/".join(parts[:2])
        if len(parts) > 1 and parts[0] == "nemojax" and package in PACKAGES:
            labels.add(f"//{package}:{parts[1]}")
        elif parts[0] == "experiments":
            labels.add("//experiments:experiments")
        elif distribution in locked:
            labels.add(f"@pip//{distribution}")
    return labels


def test_every_source_is_in_a_target(targets):
    covered = {source for target in targets for source in target.sources}
    assert sorted({path.as_posix() for path in SOURCES} - covered) == []


def test_labels_are_declared_once(targets):
    labels = [target.label for target in targets]
    assert sorted({label for label in labels if labels.count(label) > 1}) == []


def test_every_dependency_exists(targets):
    known = {target.label for target in targets}
    known |= {f"@pip//{name}" for name in locked_packages()}
    for target in targets:
        assert sorted(target.dependencies - known) == [], target.label


def test_every_import_is_a_dependency(targets):
    locked = locked_packages()
    missing = set()
    for target in targets:
        folder = target.label.partition(":")[0].removeprefix("//")
        for source in target.sources:
            if source.startswith(f"{folder}/") and source.endswith(".py"):
                labels = needed(PurePosixPath(source), locked)
                labels -= target.dependencies | {target.label}
                missing |= {f"{folder}/BUILD: {label}" for label in labels}
    assert sorted(missing) == []


@pytest.fixture
def package(tmp_path):
    """A tree of one package with a package below it; evaluates the BUILD text given."""
    for name in (
        "a/x.py",
        "a/x_test.py",
        "a/sub/y.py",
        "a/other/z.py",
        "a/other/BUILD",
    ):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "rules.bzl").write_text(
        "def each():\n"
        "    for file in native.glob(['*_test.py']):\n"
        "        rule(name = file, srcs = [file])\n"
        "load('@rules//:defs.bzl', 'rule')\n"
    )

    def evaluate(text):
        (tmp_path / "a/BUILD").write_text(f"load('@rules//:defs.bzl', 'rule')\n{text}")
        return starlark.targets(tmp_path, ["a"])

    return evaluate


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("['*.py']", {"a/x.py", "a/x_test.py"}),
        ("['**/*.py']", {"a/x.py", "a/x_test.py", "a/sub/y.py"}),
        ("['sub/**']", {"a/sub/y.py"}),
        ("['**/*.py'], exclude = ['*_test.py']", {"a/x.py", "a/sub/y.py"}),
        ("['**/*.py'], exclude = ['*.py']", {"a/sub/y.py"}),
        ("['**/*.py'], exclude = ['**/*.py'], allow_empty = True", set()),
    ],
)
def test_glob_stays_in_its_package(package, arguments, expected):
    (target,) = package(f"rule(name = 'a', srcs = glob({arguments}))")
    assert target.sources == expected


def test_glob_that_finds_nothing_is_an_error(package):
    with pytest.raises(ValueError, match="finds nothing"):
        package("rule(name = 'a', srcs = glob(['*.txt']))")


def test_macros_see_the_package_that_calls_them(package):
    (target,) = package("load('//:rules.bzl', 'each')\neach()")
    assert target.label == "//a:x_test.py"
    assert target.sources == {"a/x_test.py"}


def test_labels_take_their_long_form(package):
    (target,) = package(
        "rule(name = 'a', srcs = ['//:m.py'], deps = [':b', '//c/d', '@pip//e'])"
    )
    assert target.sources == {"m.py"}
    assert target.dependencies == {"//a:b", "//c/d:d", "@pip//e"}
