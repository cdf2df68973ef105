"""Host-side allocation of the blocks of the key/value cache, with prefix sharing.

A block holds a fixed number of tokens of one sequence. A full block is known by all the
tokens up to its end, so prompts that begin alike share it: the samples of one prompt,
and the turns of one conversation. An unused block stays known until its place is
needed, the longest unused first. Block 0 belongs to no sequence: the tables of unused
slots name it.
"""

import collections
import itertools
from collections.abc import Sequence

# Identifies all tokens up to a block's end: name of the block before, own tokens.
_Key = tuple[int, tuple[int, ...]]
_BEGIN = -1


class OutOfBlocks(Exception):
    """Says that there are not enough free blocks now."""


class CachedSequence:
    """The blocks of one sequence, in order.

    Attributes:
      blocks: their numbers; `pool.size` tokens each.
      shared: number of tokens at the beginning that lie in blocks of others.
    """

    def __init__(self, blocks: list[int], shared: int):
        self.blocks, self.shared = blocks, shared


class BlockPool:
    """Allocates the blocks of one cache.

    Attributes:
      size: tokens of a block.
      count: blocks, block 0 included.
    """

    def __init__(self, count: int, size: int):
        self.count, self.size = count, size
        self._users = [0] * count
        self._known: dict[_Key, int] = {}
        self._key: dict[int, _Key] = {}
        # Names of known blocks; never given twice, as a block's number is.
        self._name: dict[int, int] = {}
        self._names = itertools.count()
        # In the order in which they are taken; those that are known last.
        self._free = collections.OrderedDict.fromkeys(range(1, count))

    @property
    def free(self) -> int:
        """Number of blocks that no sequence uses."""
        return len(self._free)

    def needed(self, tokens: int) -> int:
        """Returns the number of blocks that hold so many tokens."""
        return -(-tokens // self.size)

    def open(
        self,
        prompt: Sequence[int],
        room: int,
        *,
        share: bool = True,
        like: CachedSequence | None = None,
    ) -> CachedSequence:
        """Allocates the blocks for a prompt and its output.

        Full blocks that are known are shared, but never the prompt's last token, since
        the first token of the output is predicted there.

        Args:
          prompt: tokens.
          room: output tokens at most.
          share: whether known blocks are looked for.
          like: an open sequence with the same prompt, whose blocks are shared although
            they are not known yet.

        Raises:
          OutOfBlocks: too few are free; nothing is taken.
        """
        found = self._find(prompt) if share else []
        if share and like is not None:
            found = like.blocks[: (len(prompt) - 1) // self.size]
        missing = self.needed(len(prompt) + room) - len(found)
        unused = sum(1 for block in found if block in self._free)
        if missing > self.free - unused:
            raise OutOfBlocks
        for block in found:
            self._use(block)
        blocks = found + [self._take() for _ in range(missing)]
        return CachedSequence(blocks, len(found) * self.size)

    def remember(self, sequence: CachedSequence, tokens: Sequence[int]) -> None:
        """Makes the full blocks of a sequence known, now that their tokens are written.

        Args:
          sequence: sequence as `open` gave it.
          tokens: all that are in the cache, from the sequence's beginning.
        """
        before = _BEGIN
        for number in range(len(tokens) // self.size):
            block = sequence.blocks[number]
            part = tuple(tokens[number * self.size : (number + 1) * self.size])
            known = self._known.setdefault((before, part), block)
            if known == block and block not in self._key:
                self._key[block] = before, part
                self._name[block] = next(self._names)
            before = self._name[known]

    def close(self, sequence: CachedSequence) -> None:
        """Gives the blocks of a sequence back."""
        # The end of a sequence is less likely to come again than its beginning.
        for block in reversed(sequence.blocks):
            self._users[block] -= 1
            if not self._users[block]:
                self._free[block] = None
                if block not in self._key:
                    self._free.move_to_end(block, last=False)
        sequence.blocks = []

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
