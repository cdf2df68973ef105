"""The bytes that the names of tokens stand for."""

import re

# Byte-level vocabularies write a byte as the character of its number where that can be
# seen, and the others, in their order, as the characters from 256 on.
_SEEN = (*range(33, 127), *range(161, 173), *range(174, 256))
_UNSEEN = (byte for byte in range(256) if byte not in _SEEN)
_BYTE_OF = {chr(byte): byte for byte in _SEEN}
_BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(_UNSEEN)}
_FALLBACK = re.compile("<0x([0-9A-F]{2})>")


def level(name: str) -> bytes | None:
    """Returns the bytes of a name in a byte-level vocabulary; None if it has none."""
    if not _BYTE_OF.keys() >= set(name):
        return None
    return bytes(map(_BYTE_OF.__getitem__, name))


def fallback(name: str) -> bytes | None:
    """Returns the byte of a name such as "<0xE2>"; None of another."""
    found = _FALLBACK.fullmatch(name)
    return bytes.fromhex(found[1]) if found else None
