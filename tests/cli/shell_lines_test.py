"""The command lines of the documentation name scripts and flags that there are."""

import re
import shlex

import pytest

from nemojax.cli import command_line
from nemojax.errors import UserError
from tests.house import tree

_TEXTS = {
    path.as_posix(): (tree.ROOT / path).read_text()
    for path in tree.files()
    if path.suffix == ".md"
    and path.parts[0] in ("README.md", "CONTRIBUTING.md", "docs")
}
_COMMAND = r"(?:\S+/)?python -m \w+\.\w+"
_LINE = re.compile(rf"^(?: {{4}})?({_COMMAND}(?:.*\\\n)*.*)", re.MULTILINE)
_INLINE = re.compile(rf"`({_COMMAND}[^`]*)`")
_PLACEHOLDERS = {"NAME"}


def commands(pattern):
    """(page, words) of each command line that is not only a pattern of one."""
    for page, text in _TEXTS.items():
        for found in pattern.finditer(text):
            words = shlex.split(found[1].replace("\\\n", " "), comments=True)
            module = words[words.index("-m") + 1]
            if module.partition(".")[2] not in _PLACEHOLDERS:
                yield page, module, words[words.index("-m") + 2 :]


LINES, INLINE = list(commands(_LINE)), list(commands(_INLINE))


def test_there_are_lines():
    assert len(LINES) > 20 and len(INLINE) > 5


@pytest.mark.parametrize(("page", "module", "words"), LINES + INLINE)
def test_the_script_is_there(page, module, words):
    place = tree.ROOT / module.replace(".", "/")
    assert place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()


def of_flags(lines):
    """Those of scripts whose flags are absl's and ours."""
    return [
        (page, module.partition(".")[2], words)
        for page, module, words in lines
        if module.startswith("experiments.") and module != "experiments.lm_eval"
    ]


@pytest.mark.parametrize(("page", "name", "words"), of_flags(LINES))
def test_a_line_is_read_as_it_is_written(page, name, words, script):
    """Every flag is known, takes its value, and none is missing."""
    script(name)
    command_line.parse([name, *words], "", arguments=True)


@pytest.mark.parametrize(("page", "name", "words"), of_flags(INLINE))
def test_a_command_in_a_sentence_has_flags_that_there_are(page, name, words, script):
    script(name)
    try:
        if "--help" not in words:
            command_line.parse([name, *words], "", arguments=True)
    except UserError as error:
        assert str(error).startswith("name the ")  # the sentence leaves it out
