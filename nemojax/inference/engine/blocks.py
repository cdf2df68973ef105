"""Which blocks of the key/value cache hold whose tokens; lives on the host.

A block holds a fixed number of tokens of one text. A full block is known by all the
tokens up to its end, so prompts that begin alike share it: the samples of one prompt,
and the turns of one conversation. What nobody uses any more stays known until its place
is needed, the longest unused first. Block 0 is nobody's: unused rows write there.
"""

import collections
import itertools
from collections.abc import Sequence

# Of all tokens up to a block's end: what the block before it is, and its own tokens.
_Key = tuple[int, tuple[int, ...]]
_BEGIN = -1


class OutOfBlocks(Exception):
    """There are not enough free blocks now."""


class Text:
    """The blocks of one text, in order.

    Attributes:
      blocks: their numbers; `pool.size` tokens each.
      shared: how many tokens at the beginning are in the cache already.
    """

    def __init__(self, blocks: list[int], shared: int):
        self.blocks, self.shared = blocks, shared


class BlockPool:
    """Gives out the blocks of one cache.

    Attributes:
      size: tokens of a block.
      count: blocks, the one that is nobody's included.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self._users = collections.Counter[int]()
        self._known: dict[_Key, int] = {}
        self._key: dict[int, _Key] = {}
        # Of each known block; never given twice, since a block's place is.
        self._name: dict[int, int] = {}
        self._names = itertools.count()
        # In the order in which they are taken; those that are known last.
        self._free = collections.OrderedDict.fromkeys(range(1, count))

    @property
    def free(self) -> int:
        """Blocks that nobody uses."""
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """Blocks of so many tokens."""
        return -(-tokens // self.size)

    def open(self, prompt: Sequence[int], room: int, *, share: bool = True) -> Text:
        """Blocks for a prompt and what follows it.

        Full blocks that are known are shared, but never the prompt's last token, since
        the first token of the answer is predicted there.

        Args:
          prompt: tokens.
          room: tokens that follow at most.
          share: whether known blocks are looked for.

        Raises:
          OutOfBlocks: too few are free; nothing is taken.
        """
        found = self._find(prompt) if share else []
        missing = self.needed(len(prompt) + room) - len(found)
        unused = sum(1 for block in found if block in self._free)
        if missing > self.free - unused:
            raise OutOfBlocks
        for block in found:
            self._use(block)
        blocks = found + [self._take() for _ in range(missing)]
        return Text(blocks, len(found) * self.size)

    def remember(self, text: Text, tokens: Sequence[int]) -> None:
        """Makes the full blocks of a text known, now that their tokens are written.

        Args:
          text: as `open` gave it.
          tokens: all that are in the cache, from the text's beginning.
        """
        before = _BEGIN
        for number in range(len(tokens) // self.size):
            block = text.blocks[number]
            part = tuple(tokens[number * self.size : (number + 1) * self.size])
            known = self._known.setdefault((before, part), block)
            if known == block and block not in self._key:
                self._key[block] = before, part
                self._name[block] = next(self._names)
            before = self._name[known]

    def close(self, text: Text) -> None:
        """Gives the blocks of a text back."""
        # The end of a text is less likely to come again than its beginning.
        for block in reversed(text.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                del self._users[block]
                self._free[block] = None
                self._free.move_to_end(block, last=block in self._key)
        text.blocks = []

    def _find(self, prompt: Sequence[int]) -> list[int]:
        found: list[int] = []
        before = _BEGIN
        for number in range((len(prompt) - 1) // self.size):
            part = tuple(prompt[number * self.size : (number + 1) * self.size])
            block = self._known.get((before, part))
            if block is None:
                break
            found.append(block)
            before = self._name[block]
        return found

    def _use(self, block: int) -> None:
        self._free.pop(block, None)
        self._users[block] += 1

    def _take(self) -> int:
        block, _ = self._free.popitem(last=False)
        key = self._key.pop(block, None)
        if key is not None:
            del self._known[key], self._name[block]
        self._users[block] += 1
        return block
