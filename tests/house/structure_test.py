"""The sizes, docstrings and proportions that keep the house readable."""

import pytest

from tests.house import checks, tree

EVERYTHING = tree.sources(
    "nemojax", "experiments", "benchmarks", "tests", "third_party"
)


def in_tree(check, sources) -> list[str]:
    return [f"{path}: {breach}" for path in sources for breach in check(sources[path])]


def test_no_file_is_longer_than_one_concept():
    assert in_tree(checks.long_file, EVERYTHING) == []


def test_no_function_is_longer_than_a_page():
    assert in_tree(checks.long_functions, EVERYTHING) == []


def test_docstrings_stand_alone():
    sources = tree.sources("nemojax", "experiments")
    assert in_tree(checks.fragments, sources) == []
    assert in_tree(checks.repeats, EVERYTHING) == []


def test_tests_are_at_least_their_share_of_all_lines():
    share = checks.test_share(
        tree.sources("tests"), tree.sources("nemojax", "experiments")
    )
    assert share >= checks.TEST_SHARE, f"{share:.1%} of the Python lines are tests"


def test_experiments_are_short_and_name_their_command():
    breaches = []
    for path, text in tree.sources("experiments").items():
        if path.stem != "__init__":
            found = checks.long_file(text, checks.EXPERIMENT_LINES)
            found += checks.unnamed_command(path, text)
            breaches += [f"{path}: {breach}" for breach in found]
    assert breaches == []


def test_no_file_names_a_path_of_one_machine():
    breaches = []
    for path in tree.files():
        try:
            text = (tree.ROOT / path).read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue  # a binary file
        breaches += [f"{path}: {found}" for found in checks.host_paths(text)]
    assert breaches == []


def test_the_tree_is_not_empty():
    """The checks above hold nothing when they see no files."""
    assert any(path.parts[0] == "nemojax" for path in EVERYTHING)
    assert any(path.name == "pyproject.toml" for path in tree.files())


@pytest.mark.parametrize(("lines", "breaches"), [(400, 0), (401, 1)])
def test_long_file_counts_lines(lines, breaches):
    assert len(checks.long_file("x = 1\n" * lines)) == breaches


@pytest.mark.parametrize("keyword", ["def", "async def"])
@pytest.mark.parametrize(("lines", "breaches"), [(80, 0), (81, 1)])
def test_long_functions_counts_from_def_to_last_line(keyword, lines, breaches):
    body = "        x = 1\n" * (lines - 1)
    text = f"class A:\n    @property\n    {keyword} f(self):\n{body}"
    assert len(checks.long_functions(text)) == breaches


def test_fragments_want_verbs_of_functions_and_nouns_of_the_rest():
    text = (
        '"""Of a."""\nclass C:\n    """A c."""\n    @property\n    def p(self):\n'
        '        """Number of p."""\n    def m(self):\n        """The m."""\n'
        'def f():\n    """Makes f."""\ndef g(): ...\n'
    )
    assert checks.fragments(text) == [
        "the docstring of the module begins with 'Of'",
        "the docstring of m begins with 'The'",
    ]


def test_repeats_finds_a_paragraph_that_stands_twice():
    text = 'def f():\n    """Makes f.\n\n    Once.\n\n    {}\n    """\n'
    assert checks.repeats(text.format("Twice.")) == []
    assert checks.repeats(text.format("Once.")) == [
        "the docstring of f repeats a paragraph"
    ]


def test_unnamed_command_reads_the_docstring_only():
    path = tree.ROOT / "experiments/sft.py"
    assert checks.unnamed_command(path, '"""python -m experiments.sft"""') == []
    assert checks.unnamed_command(path, '"""python -m experiments.dpo"""')
    assert checks.unnamed_command(path, "# python -m experiments.sft")


@pytest.mark.parametrize("folder", ["work", "root", "tmp/v"])
def test_host_paths_finds_absolute_paths_only(folder):
    assert checks.host_paths(f"see `/{folder}/x.py`, (/{folder}/)") != []
    assert checks.host_paths(f"../{folder}/x https://example.org/{folder}/x") == []


def test_test_share_is_a_share_of_lines():
    assert (
        checks.test_share({"a": "1\n2\n"}, {"b": "1\n", "c": "1\n2\n3\n4\n5\n"}) == 0.25
    )
