"""Shapes for an engine: from what users say to what is compiled."""

from nemojax.inference.engine.paged_state import Shapes

_BLOCK = 16


def serving(
    rows: int, max_length: int, cache_tokens: int = 0, *, data: int = 1
) -> Shapes:
    """What is compiled to answer requests of any kind.

    Args:
      rows: answers that are written at a time.
      max_length: tokens of a prompt and its answer.
      cache_tokens: of which keys and values are kept; 0: of all rows at full length.
      data: shards of the mesh's axis `data`.
    """
    whole = -(-max_length // _BLOCK) * _BLOCK
    blocks = -(-(cache_tokens or rows * whole) // (_BLOCK * data))
    return Shapes(
        rows=rows,
        blocks=max(blocks, whole // _BLOCK) + 1,
        block_size=_BLOCK,
        max_length=max_length,
        prefill_rows=max(data, min(rows, 4) // data * data),
        chunk=min(128, max_length),
        tile=min(256, whole),
        steps=4,
    )
