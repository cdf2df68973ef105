"""A Hugging Face `tokenizer.json` whose control tokens no text can produce."""

import functools
import hashlib
import json
import pathlib
import re
import secrets
from collections.abc import Iterable
from typing import Any

import tokenizers

from nemojax.data.text import byte_names, metaspace, template_files
from nemojax.data.text.tokenizer import bytes_text
from nemojax.errors import UserError
from nemojax.io import folders

_SIDE_FILES = ("special_tokens_map.json", template_files.CONFIG)
_ROLES = ("bos_token", "eos_token", "pad_token", "unk_token")
# Names of tokens that are there for chat templates, called special or not.
_MARKER = re.compile(r"<[|\uff5c].+[|\uff5c]>")
_FLAGS = ("single_word", "lstrip", "rstrip", "normalized", "special")


class HuggingFaceTokenizer:
    """A tokenizer of a `tokenizer.json`, with the interface of `Tokenizer`.

    An added token that the file calls special, or that serves as "bos_token" or the
    like, is a control token: `control` gives its id, and text that looks like it is
    encoded as the characters that it is. Other added tokens, such as `<think>`, are
    text. With byte-level BPE (Llama 3) `decode(encode(text)) == text` for any text
    that UTF-8 can hold; a normalizer in the file may change what it means to change.
    """

    def __init__(
        self,
        data: bytes,
        special: dict[str, str] | None = None,
        *,
        added: Iterable[tokenizers.AddedToken] = (),
        templates: str = "",
        prepend_scheme: str | None = None,
    ):
        """Reads a `tokenizer.json`.

        Args:
          data: content of the file.
          special: the control tokens that serve as "bos_token", "eos_token",
            "pad_token" and "unk_token".
          added: added tokens that take the place of those of the file.
          templates: chat templates; a token such as `<|im_end|>` that is written there
            is a control token, even where the file does not call it special.
          prepend_scheme: texts that have a space put before them by a tokenizer of
            pieces: "first", "always" or "never"; default: what the file says.

        Raises:
          UserError: it is no tokenizer, or has not the tokens that `special` names.
        """
        self._data = data
        self._special = dict(special or {})
        try:
            self._all = tokenizers.Tokenizer.from_str(data.decode())
        except Exception as error:  # the library raises bare Exceptions
            raise UserError(f"no tokenizer.json: {error}") from error
        if (
            prepend_scheme
            and metaspace.SPACE in f"{self._all.normalizer}{self._all.pre_tokenizer}"
        ):
            metaspace.like_llama(self._all, prepend_scheme)
        step = self._all.decoder
        decoder = "" if step is None else step.__getstate__().decode()
        self._byte_level = '"ByteLevel"' in decoder
        self._byte_fallback = '"ByteFallback"' in decoder
        self._letter = self._all.encode("a", add_special_tokens=False).ids[-1:]
        for role, piece in self._special.items():
            if self._all.token_to_id(piece) is None:
                raise UserError(f"{role} {piece!r} is not in the vocabulary")
        self._control_ids = self._add(added, templates)
        self._controls = frozenset(self._control_ids.values())
        self._nonce = secrets.token_hex(16)
        self._plain = tokenizers.Tokenizer(self._all.model)
        self._set_up(self._plain, self._all.normalizer, self._all.pre_tokenizer)
        self.vocab_size: int = max(self._all.get_vocab().values()) + 1
        self.fingerprint = hashlib.sha256(data).hexdigest()

    def _add(
        self, added: Iterable[tokenizers.AddedToken], templates: str
    ) -> dict[str, int]:
        """Adds tokens, makes those with a role special, returns the special ones."""
        vocabulary = self._all.get_vocab()
        self._all.add_tokens([token for token in added if token.content in vocabulary])
        known = {t.content: t for t in self._all.get_added_tokens_decoder().values()}
        roles = {name: _special(name) for name in self._special.values()}
        special = roles | {
            name: _special(name, token)
            for name, token in known.items()
            if name in roles or (_MARKER.fullmatch(name) and name in templates)
        }
        self._all.add_special_tokens(list(special.values()))
        found = self._all.get_added_tokens_decoder()
        return {token.content: id_ for id_, token in found.items() if token.special}

    def _set_up(
        self, tokenizer: tokenizers.Tokenizer, normalizer: Any, pre_tokenizer: Any
    ) -> None:
        """Makes a tokenizer of texts, which names no control token as a text could."""
        tokenizer.normalizer = normalizer
        tokenizer.pre_tokenizer = pre_tokenizer
        added = self._all.get_added_tokens_decoder()
        hidden = [self._hidden(token) for token in added.values()]
        tokenizer.add_tokens(hidden)
        # The numbers of added tokens depend on which of them are new.
        numbers = (tokenizer.token_to_id(token.content) for token in hidden)
        self._ids: dict[Any, int] = dict(zip(numbers, added, strict=True))

    def _hidden(self, token: tokenizers.AddedToken) -> tokenizers.AddedToken:
        """Returns an added token as a text may name it: a control token not at all."""
        if not token.special:
            return token
        return _special(self._secret(token.content), token)

    def _secret(self, control: str) -> str:
        """Returns the name by which a control token enters, which nobody can know."""
        return f"<{self._nonce}:{self.control(control)}>"

    @functools.cached_property
    def _inside(self) -> tokenizers.Tokenizer:
        """Tokenizer of a text that goes on, which has no space put before it."""
        parts = {
            name: json.loads(part.__getstate__())
            for name in ("normalizer", "pre_tokenizer")
            if (part := getattr(self._all, name)) is not None
        }
        without = {name: metaspace.without_prefix(part) for name, part in parts.items()}
        if parts == without:
            return self._plain
        model = {"type": "BPE", "vocab": {}, "merges": []}
        steps = tokenizers.Tokenizer.from_str(json.dumps({"model": model, **without}))
        found = tokenizers.Tokenizer(self._all.model)
        self._set_up(found, steps.normalizer, steps.pre_tokenizer)
        return found

    @classmethod
    def load(
        cls, path: str | pathlib.Path, template: str = ""
    ) -> "HuggingFaceTokenizer":
        """Reads a `tokenizer.json`, or the one of a checkpoint's directory.

        The files beside it say which tokens are control tokens, and that it is a
        `LlamaTokenizer`, whose spaces are then those of transformers 5. A token such
        as `<|im_end|>` that the chat template there writes is a control token, too,
        even where no file calls it special.

        Args:
          path: path of the file, or of the directory.
          template: a chat template that does not lie there.

        Raises:
          OSError: it cannot be read.
          UserError: as the constructor.
        """
        path = pathlib.Path(path)
        path = path / "tokenizer.json" if path.is_dir() else path
        special: dict[str, str] = {}
        config: dict[str, Any] = {}
        for side in map(path.with_name, _SIDE_FILES):
            config = folders.read_json(side) if side.exists() else {}
            roles = {role: _name(config.get(role)) for role in _ROLES}
            special |= {role: piece for role, piece in roles.items() if piece}
        return cls(
            path.read_bytes(),
            special,
            added=_added(config),
            templates="".join([template, *template_files.read(path.parent).values()]),
            prepend_scheme=metaspace.prepend_scheme(config),
        )

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
        if self._byte_level and (found := byte_names.level(name)) is not None:
            return found
        if self._byte_fallback and (found := byte_names.fallback(name)):
            return found
        # Behind another token, where no decoder takes a space away.
        before = self.decode(self._letter)
        return self.decode([*self._letter, token_id]).removeprefix(before).encode()

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
        return self._encode(self._plain, text)

    def encode_inside(
        self, text: str, before: str | None = None, after: str | None = None
    ) -> list[int]:
        """Encodes a text that does not begin a sequence, otherwise as `encode`.

        Args:
          text: text that goes on, or stands beside a control token.
          before: name of the control token before it; None: another text.
          after: name of the control token after it; None: another text, or nothing.
        """
        start = "" if before is None else self._secret(before)
        end = "" if after is None else self._secret(after)
        if before is not None or self._inside is self._plain:
            return self._encode(self._plain, text, start, end)
        # After an added token a text has its space again.
        found = self._plain.encode(text + end, add_special_tokens=False)
        spans = zip(found.ids, found.offsets, strict=True)
        first = next((at for id_, (at, _) in spans if id_ in self._ids), len(text))
        if first == len(text):
            return self._encode(self._inside, text, end=end)
        head = self._encode(self._inside, text[:first])
        return head + self._encode(self._plain, text[first:], end=end)

    def _encode(
        self, tokenizer: tokenizers.Tokenizer, text: str, start: str = "", end: str = ""
    ) -> list[int]:
        text.encode()  # UnicodeEncodeError is a ValueError that names the character.
        found = tokenizer.encode(start + text + end, add_special_tokens=False)
        ids = [self._ids.get(token, token) for token in found.ids]
        ids = ids[bool(start) : len(ids) - bool(end)]
        if not self._controls.isdisjoint(ids):
            index = next(i for i, token in enumerate(ids) if token in self._controls)
            first, last = found.offsets[index + bool(start)]
            name = self._all.id_to_token(ids[index])
            if name == self._special.get("unk_token"):
                part = (start + text)[first:last]
                raise UserError(f"the vocabulary has no token for {part!r}")
            raise UserError(f"the text spells the control token {name!r}")
        return ids

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
        return self._all.decode(kept, skip_special_tokens=False)


def _name(token: Any) -> str:
    """Returns the name of a token that a file gives by name, or as an object."""
    found = token.get("content") if isinstance(token, dict) else token
    return found if isinstance(found, str) else ""


def _special(
    name: str, like: tokenizers.AddedToken | None = None
) -> tokenizers.AddedToken:
    """Returns a control token, with the white space that another takes."""
    lstrip, rstrip = (like.lstrip, like.rstrip) if like else (False, False)
    return tokenizers.AddedToken(
        name, lstrip=lstrip, rstrip=rstrip, normalized=False, special=True
    )


def _added(config: dict[str, Any]) -> list[tokenizers.AddedToken]:
    """Returns the added tokens of a `tokenizer_config.json`.

    Raises:
      UserError: they are none.
    """
    try:
        tokens = (config.get("added_tokens_decoder") or {}).values()
        return [
            tokenizers.AddedToken(
                token["content"],
                **{flag: token[flag] for flag in _FLAGS if flag in token},
            )
            for token in tokens
        ]
    except (AttributeError, KeyError, TypeError) as error:
        raise UserError(
            f"added_tokens_decoder holds no added tokens: {error}"
        ) from error
