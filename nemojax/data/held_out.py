"""The one rule by which rows are held out."""

import hashlib


def is_held_out(key: str, share: float) -> bool:
    """Returns whether a share of all keys, which are measured on alone, has this one.

    The key alone decides, on every machine and for every seed: what comes twice, in
    whatever file, is on one side, and a smaller share is a part of a larger one.

    Args:
      key: the text of a document, or the first turn of a user of a conversation.
      share: held-out share, in [0, 1].
    """
    digest = hashlib.sha256(key.encode()).digest()
    return int.from_bytes(digest[:8], "big") < share * 2**64
