"""A dataclass's flags have its types, defaults and words, and make it again."""

import dataclasses

import pytest
from absl import flags

from nemojax.cli import dataclass_flags
from nemojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class Base:
    """What both have.

    Attributes:
      first, second: Both `of` them. Not this sentence.
      Raises are not fields.
    """

    first: int = 1
    second: float = 2.5


@dataclasses.dataclass(frozen=True)
class Derived(Base):
    """More.

    Attributes:
      names: RPO's names over
        two lines.
      limit: how far; None: no limit.
      on: whether it is on.
      word: one word.
      needed: has no default.

    Raises:
      UserError: never a flag.
    """

    needed: int = dataclasses.field(kw_only=True)
    names: tuple[str, ...] = ("a", "b")
    limit: float | None = None
    on: bool = False
    word: str = "x"

    def __post_init__(self):
        if self.first < 0:
            raise UserError(f"first={self.first} is negative")


DEFAULT = Derived(needed=7, word="y")
WORDS = {
    "first": "both of them",
    "second": "both of them",
    "names": "RPO's names over two lines",
    "limit": "how far; None: no limit",
    "on": "whether it is on",
    "word": "one word",
    "needed": "has no default",
}


@pytest.fixture
def parse():
    """Defines the flags of `DEFAULT` and reads a command line."""
    dataclass_flags.define("group", DEFAULT, "needed")
    names = [name for name in flags.FLAGS if name.startswith("group.")]
    yield lambda *arguments: flags.FLAGS(["script", *arguments])
    for name in names:
        delattr(flags.FLAGS, name)


def test_words_are_the_first_sentences_of_the_class_and_of_its_base():
    assert dataclass_flags.field_help(Derived) == WORDS


def test_each_field_has_a_flag_with_its_default_and_its_word(parse):
    parse()
    found = dataclass_flags.values("group")
    assert found | {"needed": 7} == dataclasses.asdict(DEFAULT)
    words = {name: flags.FLAGS[f"group.{name}"].help for name in found}
    assert words == {name: WORDS[name] for name in found}
    assert dataclass_flags.given("group") == {}


def test_what_is_given_is_told_apart_from_an_equal_default(parse):
    parse("--group.first=1", "--group.names=c,d", "--group.limit=3", "--group.on")
    given = {"first": 1, "names": ("c", "d"), "limit": 3.0, "on": True}
    assert dataclass_flags.given("group") == given
    other = Derived(needed=1, word="z")
    built = dataclass_flags.build("group", other)
    assert built == dataclasses.replace(other, **given)


def test_a_value_that_the_class_refuses_names_the_group(parse):
    parse("--group.first=-1")
    with pytest.raises(UserError, match=r"--group: first=-1 is negative"):
        dataclass_flags.build("group", DEFAULT)
