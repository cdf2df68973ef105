"""Static sizes of the engine: everything that decides what is compiled."""

import dataclasses

from nemojax.errors import UserError

_BLOCK = 16


@dataclasses.dataclass(frozen=True)
class EngineConfig:
    """Static shapes of the paged engine; every field is part of what is compiled.

    Attributes:
      slots: sequences that are decoded at a time, over all shards of `data`.
      blocks: blocks of the key/value cache of each shard of `data`.
      block_size: tokens of a block.
      max_length: tokens of a sequence, prompt and output together.
      prefill_slots: prompts that one prefill call takes, over all shards.
      chunk: prompt tokens that a prefill call takes of each prompt.
      split_tail: whether the tokens after a prompt's last full block have a prefill
        program of their own, for `block_size` tokens. Less work where several requests
        share a prompt; one more program to compile.
      tile: keys that attention reads at a time; a multiple of `block_size`. A tile that
        holds a whole sequence is gathered once a round and not once a token.
      steps: tokens of each sequence that a round of decoding generates.
      rounds: rounds of a decode call at most.
      memory_fraction: share of an accelerator's memory that weights and cache may fill;
        `blocks` become fewer for it. What is left is for the work on them.
    """

    slots: int = 32
    blocks: int = 1024
    block_size: int = 16
    max_length: int = 4096
    prefill_slots: int = 8
    chunk: int = 128
    split_tail: bool = False
    tile: int = 256
    steps: int = 4
    rounds: int = 1
    memory_fraction: float = 0.9

    def fitted(self, free: float, block_bytes: float) -> "EngineConfig":
        """Returns as many of the blocks as there is room for.

        Args:
          free: bytes of each device that the cache may take.
          block_bytes: bytes of a block on each device.

        Raises:
          UserError: not one sequence of `max_length` has room.
        """
        room = max(0, int(free // block_bytes))
        if room >= self.blocks:
            return self
        needed = -(-self.max_length // self.block_size) + 1
        if room < needed:
            raise UserError(
                f"a sequence of {self.max_length} tokens needs "
                f"{needed * block_bytes / 2**30:.2f} GiB of each device, "
                f"{max(free, 0) / 2**30:.2f} are free: allow fewer tokens, quantise "
                "the weights, or split the model over more devices"
            )
        return dataclasses.replace(self, blocks=room)

    @property
    def width(self) -> int:
        """Blocks in a sequence's block table: those of `max_length`, in whole tiles."""
        return -(-self.max_length // self.tile) * self.tile // self.block_size

    @property
    def room(self) -> int:
        """Tokens that a prompt and its output may have together."""
        return min(self.max_length, (self.blocks - 1) * self.block_size)

    def next_chunk(self, prompt: int, prefilled: int) -> tuple[int, int]:
        """Plans the next prefill of a prompt.

        Which program computes a token depends on its place in its own prompt alone:
        programs round differently, and an output must not depend on what was shared.

        Args:
          prompt: tokens of the prompt.
          prefilled: number of the prompt's tokens that are in the cache.

        Returns:
          Chunk size of the program, and how many tokens it takes.
        """
        if not self.split_tail:
            return self.chunk, min(self.chunk, prompt - prefilled)
        head = (prompt - 1) // self.block_size * self.block_size
        if prefilled < head:
            return self.chunk, min(self.chunk, head - prefilled)
        return self.block_size, prompt - prefilled

    def check(self, data: int) -> None:
        """Checks the sizes against the mesh.

        Args:
          data: shards of the mesh's axis `data`.

        Raises:
          UserError: slots that `data` does not divide, or a tile of broken blocks.
        """
        for name in ("slots", "prefill_slots"):
            if getattr(self, name) % data:
                raise UserError(
                    f"{name}={getattr(self, name)} does not divide over data={data}"
                )
        if self.tile % self.block_size:
            raise UserError(
                f"tile={self.tile} is no multiple of block_size={self.block_size}"
            )


def serving(
    slots: int,
    max_length: int,
    cache_tokens: int = 0,
    *,
    data: int = 1,
    memory_fraction: float = 0.9,
) -> EngineConfig:
    """Returns sizes for requests of any kind that come one by one.

    Args:
      slots: sequences that are decoded at a time.
      max_length: tokens of a prompt and its output.
      cache_tokens: tokens whose keys and values are kept; 0: all slots at full length.
      data: shards of the mesh's axis `data`.
      memory_fraction: share of an accelerator's memory for weights and cache.
    """
    whole = -(-max_length // _BLOCK) * _BLOCK
    blocks = -(-(cache_tokens or slots * whole) // (_BLOCK * data))
    return EngineConfig(
        slots=slots,
        blocks=max(blocks, whole // _BLOCK) + 1,
        block_size=_BLOCK,
        max_length=max_length,
        prefill_slots=max(data, min(slots, 4) // data * data),
        chunk=min(128, max_length),
        tile=min(256, whole),
        memory_fraction=memory_fraction,
    )


def batch(max_prompt: int, max_tokens: int, *, data: int = 1) -> EngineConfig:
    """Returns sizes for long lists of short prompts to a small model.

    Args:
      max_prompt: tokens of the longest prompt.
      max_tokens: tokens of the longest output.
      data: shards of the mesh's axis `data`.
    """
    block, slots = 8, 128
    length = -(-(max_prompt + max_tokens) // block) * block
    return EngineConfig(
        slots=slots * data,
        blocks=slots * length // block + 1,
        block_size=block,
        max_length=length,
        prefill_slots=16 * data,
        chunk=min(32, max_prompt),
        split_tail=True,
        tile=length,
        steps=8,
        rounds=4,
    )
