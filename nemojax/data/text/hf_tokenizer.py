"""A Hugging Face `tokenizer.json` whose control tokens no text can produce."""

import hashlib
import json
import pathlib
import re
from collections.abc import Iterable
from typing import Any

import tokenizers

from nemojax.data.text.tokenizer import bytes_text
from nemojax.errors import UserError

_SIDE_FILES = ("special_tokens_map.json", "tokenizer_config.json")
# Byte-level vocabularies write a byte as the character of its number where that can be
# seen, and the others, in their order, as the characters from 256 on.
_SEEN = (*range(33, 127), *range(161, 173), *range(174, 256))
_UNSEEN = (byte for byte in range(256) if byte not in _SEEN)
_BYTE_OF = {chr(byte): byte for byte in _SEEN}
_BYTE_OF |= {chr(256 + place): byte for place, byte in enumerate(_UNSEEN)}
_BYTE_NAME = re.compile("<0x([0-9A-F]{2})>")


class HuggingFaceTokenizer:
    """A tokenizer of a `tokenizer.json`, with the interface of `Tokenizer`.

    Every added token of the file is a control token: it has an id, which `control`
    gives, and text that looks like it is encoded as the characters that it is. With
    byte-level BPE (Llama 3) `decode(encode(text)) == text` for any text that UTF-8
    can hold; a normalizer in the file may change what it means to change.
    """

    def __init__(self, data: bytes, special: dict[str, str] | None = None):
        """Reads a `tokenizer.json`.

        Args:
          data: content of the file.
          special: the control tokens that serve as "bos_token", "eos_token",
            "pad_token" and "unk_token".

        Raises:
          UserError: it is no tokenizer, or has not the tokens that `special` names.
        """
        try:
            fields: dict[str, Any] = json.loads(data)
            added = {t["content"]: t["id"] for t in fields.get("added_tokens") or []}
            self._all = tokenizers.Tokenizer.from_str(data.decode())
            # Without added tokens and without the template that would add more.
            plain = {**fields, "added_tokens": [], "post_processor": None}
            self._plain = tokenizers.Tokenizer.from_str(json.dumps(plain))
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"no tokenizer.json: {error}") from error
        self._data = data
        decoder = json.dumps(fields.get("decoder"))
        self._byte_level = '"ByteLevel"' in decoder
        self._byte_fallback = '"ByteFallback"' in decoder
        self._inside = self._plain.encode("a", add_special_tokens=False).ids[-1:]
        self._control_ids: dict[str, int] = added
        self._controls = frozenset(added.values())
        self._special = dict(special or {})
        for role, piece in self._special.items():
            if piece not in added and self._plain.token_to_id(piece) is None:
                raise UserError(f"{role} {piece!r} is not in the vocabulary")
        ids = self._all.get_vocab(with_added_tokens=True).values()
        self.vocab_size: int = max(ids) + 1
        self.fingerprint = hashlib.sha256(data).hexdigest()

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "HuggingFaceTokenizer":
        """Reads a `tokenizer.json`, or the one of a checkpoint's directory.

        The roles of control tokens come from the files beside it.

        Raises:
          OSError: it cannot be read.
          UserError: as the constructor.
        """
        path = pathlib.Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        special: dict[str, str] = {}
        for name in _SIDE_FILES:
            side = path.with_name(name)
            if not side.exists():
                continue
            fields = json.loads(side.read_text())
            for role in ("bos_token", "eos_token", "pad_token", "unk_token"):
                value = fields.get(role)
                value = value.get("content") if isinstance(value, dict) else value
                if value:
                    special[role] = value
        return cls(path.read_bytes(), special)

    def save(self, path: str | pathlib.Path) -> None:
        """Writes the `tokenizer.json`."""
        pathlib.Path(path).write_bytes(self._data)

    @property
    def bos_id(self) -> int:
        """The id that begins a sequence; raises ValueError if there is none."""
        return self._role("bos_token")

    @property
    def eos_id(self) -> int:
        """The id that ends a sequence; raises ValueError if there is none."""
        return self._role("eos_token")

    @property
    def pad_id(self) -> int:
        """The id of padding, or that of the end where the model has none."""
        return self._role("pad_token" if "pad_token" in self._special else "eos_token")

    def _role(self, role: str) -> int:
        if role not in self._special:
            raise UserError(f"the tokenizer names no {role}")
        found = self._all.token_to_id(self._special[role])
        assert found is not None  # the constructor looked
        return found

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids that the file puts before every text, such as that of `<s>`."""
        with_others = self._all.encode("a", add_special_tokens=True).ids
        alone = self._all.encode("a", add_special_tokens=False).ids
        return tuple(with_others[: with_others.index(alone[0])])

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of all control tokens."""
        return tuple(self._control_ids)

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """Returns the bytes that an id writes, of a control token none.

        Args:
          token_id: an id of the vocabulary.
          first: whether it begins a text: some decoders take a space from there.
        """
        name = self._all.id_to_token(token_id)
        if name is None or token_id in self._controls:
            return b""
        if first and "\ufffd" not in (text := self.decode([token_id])):
            return text.encode()
        if self._byte_level and _BYTE_OF.keys() >= set(name):
            return bytes(map(_BYTE_OF.__getitem__, name))
        if self._byte_fallback and (byte := _BYTE_NAME.fullmatch(name)):
            return bytes.fromhex(byte[1])
        # Behind another token, where no decoder takes a space away.
        before = self.decode(self._inside)
        return self.decode([*self._inside, token_id]).removeprefix(before).encode()

    def piece_text(self, token_id: int) -> str:
        """Returns what an id writes inside of a text, of a control token its name.

        A piece of a character is named after its bytes, such as "<0xE2>".
        """
        written = bytes_text(self.token_bytes(token_id))
        return written or self._all.id_to_token(token_id) or ""

    def control(self, piece: str) -> int:
        """Returns the id of a control token such as "<|eot_id|>".

        Raises:
          UserError: there is no such control token.
        """
        if piece not in self._control_ids:
            known = ", ".join(list(self._control_ids)[:20])
            raise UserError(f"no control token {piece!r}; there are {known}")
        return self._control_ids[piece]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, none of them a control id.

        Raises:
          UserError: the text has a lone surrogate, which UTF-8 cannot hold, or the
            vocabulary itself spells a control token that the text holds.
        """
        text.encode()  # UnicodeEncodeError is a ValueError that names the character.
        ids = self._plain.encode(text, add_special_tokens=False).ids
        if not self._controls.isdisjoint(ids):
            bad = next(token for token in ids if token in self._controls)
            raise UserError(
                f"the text spells the control token {self._all.id_to_token(bad)!r}"
            )
        return ids

    def encode_inside(self, text: str) -> list[int]:
        """Encodes a text that does not begin a sequence: here as `encode`."""
        return self.encode(text)

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; control tokens write nothing.

        Raises:
          UserError: an id is outside of the vocabulary.
        """
        ids = list(ids)
        for token in ids:
            if not 0 <= token < self.vocab_size:
                raise UserError(
                    f"token id {token} is outside of [0, {self.vocab_size})"
                )
        kept = [token for token in ids if token not in self._controls]
        return self._plain.decode(kept, skip_special_tokens=False)
