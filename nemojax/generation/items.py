"""Tasks as the stages of data generation see them.

Any object with a family and a prompt will do: the embedded world's tasks, rows of a
benchmark, prompts that a model wrote.
"""

from typing import Protocol

from nemojax.data.records import Conversation


class Item(Protocol):
    """Something to answer: `prompt` is one user message or a whole conversation."""

    @property
    def family(self) -> str:
        """Kind of task, which groups results."""
        ...

    @property
    def prompt(self) -> str | Conversation:
        """One user message, or a whole conversation."""
        ...


def conversation(item: Item) -> Conversation:
    """Returns the item's prompt as a conversation that ends with a user turn."""
    if isinstance(item.prompt, Conversation):
        return item.prompt
    return Conversation.of(item.prompt)
