"""A SentencePiece BPE tokenizer whose control tokens no text can produce.

The settings are those of Nemotron-4 (the 15B report, section 2): BPE, whitespace
preserved, numbers split into digits, unknown characters backed off to bytes.
"""

import hashlib
import io
import pathlib
import re
from collections.abc import Iterable, Iterator, Sequence

import sentencepiece

from nemojax.errors import UserError

PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID = range(4)

# SentencePiece writes a space as this character. Taken from a text, the character
# would come back as a space, so a text's own ones are encoded as bytes.
_SPACE = "\u2581"
_SPACE_BYTES = tuple(f"<0x{byte:02X}>" for byte in _SPACE.encode())
_CONTROL_PIECE = re.compile(r"<extra_id_\d+>")
_INSIDE_CONTROL_PIECE = re.compile(r"(?<=<)(?=extra_id_\d+>)")
# A protobuf message appended to a serialised one is merged into it: this sets
# normalizer_spec (field 3) {add_dummy_prefix (3): false,
# remove_extra_whitespaces (4): false}.
_KEEP_TEXT = b"\x1a\x04\x18\x00\x20\x00"
# The trainer cannot take these characters inside a sentence.
_SENTENCE_BREAKS = re.compile("[\n\0\u2585]")
_SENTENCE_CHARACTERS = 4096


class Tokenizer:
    """A tokenizer of a SentencePiece model.

    For a model with byte fallback and without a normalizer, as `train` makes them,
    `decode(encode(text)) == text` for any text that UTF-8 can hold; "nmt_nfkc", the
    default of SentencePiece, makes spaces of newlines and tabs and merges characters
    that look alike. In any case `encode` never returns the id of a control piece,
    whatever the text says: control tokens enter a sequence only through `control` and
    the ids below.
    """

    pad_id = PAD_ID
    unk_id = UNKNOWN_ID
    bos_id = BOS_ID
    eos_id = EOS_ID

    def __init__(self, model_bytes: bytes, *, dummy_prefix: bool | None = None):
        """Reads a serialised SentencePiece model.

        Args:
          model_bytes: the content of a `.model` file.
          dummy_prefix: whether texts are encoded as if a space came first, so that a
            word has the same tokens at the start of a text as elsewhere; by default
            what the model was trained with. The released Nemotron-4 tokenizer is
            used without.

        Raises:
          UserError: if the bytes are no SentencePiece model, or its pad, unknown,
            begin and end ids are not 0, 1, 2 and 3.
        """
        self.model_bytes = model_bytes
        try:
            as_trained = sentencepiece.SentencePieceProcessor(model_proto=model_bytes)
            self._processor = sentencepiece.SentencePieceProcessor(
                model_proto=model_bytes + _KEEP_TEXT
            )
        except RuntimeError as error:
            raise UserError(f"not a SentencePiece model: {error}") from error
        processor = self._processor
        ids = tuple(
            int(id_())
            for id_ in (
                processor.pad_id,
                processor.unk_id,
                processor.bos_id,
                processor.eos_id,
            )
        )
        if ids != (PAD_ID, UNKNOWN_ID, BOS_ID, EOS_ID):
            raise UserError(f"pad, unknown, bos, eos ids are {ids}, not (0, 1, 2, 3)")
        if dummy_prefix is None:
            dummy_prefix = as_trained.normalize("a").startswith(_SPACE)
        self.dummy_prefix = dummy_prefix
        self.vocab_size: int = processor.vocab_size()
        self.fingerprint = hashlib.sha256(model_bytes).hexdigest()
        self._index_pieces()

    def _index_pieces(self) -> None:
        """Finds the control ids, and the bytes that each id writes."""
        processor = self._processor
        self._control_ids: dict[str, int] = {}
        self._token_bytes: list[bytes] = []
        # Models made elsewhere may have control pieces as user-defined symbols, which
        # SentencePiece finds in texts too, unless a text is split inside of them.
        self._split_text = False
        for token_id in range(self.vocab_size):
            piece = processor.id_to_piece(token_id)
            self._token_bytes.append(piece.replace(_SPACE, " ").encode())
            if processor.is_byte(token_id):
                self._token_bytes[-1] = bytes([int(piece[3:-1], 16)])
            elif processor.is_unknown(token_id):
                self._token_bytes[-1] = "\ufffd".encode()
            elif processor.is_control(token_id):
                self._control_ids[piece] = token_id
                self._token_bytes[-1] = b""
            elif _CONTROL_PIECE.fullmatch(piece):
                self._control_ids[piece] = token_id
                self._token_bytes[-1] = b""
                self._split_text = True
        byte_ids = [processor.piece_to_id(piece) for piece in _SPACE_BYTES]
        self._space_ids = byte_ids if all(map(processor.is_byte, byte_ids)) else None

    @classmethod
    def load(cls, path: str | pathlib.Path) -> "Tokenizer":
        """Reads a `.model` file; raises OSError, or UserError as the constructor."""
        try:
            return cls(pathlib.Path(path).read_bytes())
        except UserError as error:
            raise UserError(f"{path}: {error}") from error

    def save(self, path: str | pathlib.Path) -> None:
        """Writes a `.model` file, which other SentencePiece users can read too."""
        pathlib.Path(path).write_bytes(self.model_bytes)

    @property
    def controls(self) -> tuple[str, ...]:
        """The names of all control pieces."""
        return tuple(self._control_ids)

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids that begin every text that is completed: Nemotron-4 has none."""
        return ()

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """Returns the bytes that an id writes, of a control token none.

        Args:
          token_id: an id of the vocabulary.
          first: whether it begins a text, where the dummy prefix is not written.
        """
        written = self._token_bytes[token_id]
        return written.removeprefix(b" ") if first and self.dummy_prefix else written

    def piece_text(self, token_id: int) -> str:
        """Returns what an id writes inside of a text, of a control token its name.

        A piece of a character is named after its bytes, such as "<0xE2>".
        """
        return bytes_text(self._token_bytes[token_id]) or self.piece(token_id)

    def piece(self, token_id: int) -> str:
        """Returns the piece of an id, as SentencePiece writes it."""
        return self._processor.id_to_piece(token_id)

    def control(self, piece: str) -> int:
        """Returns the id of a control piece such as "<extra_id_1>".

        Raises:
          UserError: if the vocabulary has no such control piece.
        """
        if piece not in self._control_ids:
            raise UserError(
                f"no control piece {piece!r}; there are {', '.join(self._control_ids)}"
            )
        return self._control_ids[piece]

    def encode(self, text: str) -> list[int]:
        """Returns the token ids of a text, none of them a control id.

        Raises:
          UserError: if the text has a lone surrogate, which UTF-8 cannot hold.
        """
        if self.dummy_prefix and text:
            text = " " + text
        return self.encode_inside(text)

    def encode_inside(
        self, text: str, before: str | None = None, after: str | None = None
    ) -> list[int]:
        """Encodes a part of a text, without dummy prefix; otherwise as `encode`.

        The control tokens beside the text change nothing.
        """
        del before, after
        text.encode()  # UnicodeEncodeError is a ValueError that names the character.
        if self._space_ids is None:
            return self._encode_part(text)
        first, *others = text.split(_SPACE)
        ids = self._encode_part(first)
        for other in others:
            ids += self._space_ids
            ids += self._encode_part(other)
        return ids

    def _encode_part(self, text: str) -> list[int]:
        parts = _INSIDE_CONTROL_PIECE.split(text) if self._split_text else [text]
        return [token for part in parts for token in self._processor.encode(part)]

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of token ids; control tokens write nothing.

        Bytes that are no valid UTF-8 become U+FFFD, as does the unknown token.

        Raises:
          UserError: if an id is outside of the vocabulary.
        """
        parts = []
        for token_id in ids:
            if not 0 <= token_id < self.vocab_size:
                raise UserError(
                    f"token id {token_id} is outside of [0, {self.vocab_size})"
                )
            parts.append(self._token_bytes[token_id])
        text = b"".join(parts).decode(errors="replace")
        return text.removeprefix(" ") if self.dummy_prefix else text


def bytes_text(written: bytes) -> str:
    """Returns the text of a token's bytes, or names the bytes that are no text."""
    try:
        return written.decode()
    except UnicodeDecodeError:
        return "".join(f"<0x{byte:02X}>" for byte in written)


def _sentences(texts: Iterable[str]) -> Iterator[str]:
    """Yields the lines of texts, in pieces that the trainer does not leave out."""
    for text in texts:
        try:
            text.encode()
        except UnicodeEncodeError as error:
            found = text[error.start : error.start + 1]
            raise UserError(f"a text holds a lone surrogate, {found!a}") from error
        for line in _SENTENCE_BREAKS.split(text):
            for start in range(0, len(line), _SENTENCE_CHARACTERS):
                yield line[start : start + _SENTENCE_CHARACTERS]


def _noted(sentences: Iterable[str], faults: list[Exception]) -> Iterator[str]:
    """Yields sentences, and notes an error, of which the trainer would make another."""
    try:
        yield from sentences
    except Exception as error:
        faults.append(error)
        raise


def _check_extra_pieces(extra_pieces: Sequence[str]) -> None:
    for piece in extra_pieces:
        if not piece or set(piece) & {" ", _SPACE} or _CONTROL_PIECE.search(piece):
            raise UserError(
                f"extra piece {piece!r} is empty, holds a space or a control piece"
            )
        if extra_pieces.count(piece) > 1:
            raise UserError(f"extra piece {piece!r} comes twice")


# What the trainer says, and what is said instead.
_FAULTS = (
    (r"sentences_\.empty", "there is no text to learn from"),
    (
        r"too high \((\d+)\).*<= (\d+)",
        r"the text is too small for \1 pieces: give more, or ask for \2 at most",
    ),
    (
        r"required_chars\. (\d+) vs (\d+)",
        r"\1 pieces are too few: bytes, control pieces and the characters of the text "
        r"alone are \2",
    ),
    (r"character_coverage", "character_coverage is outside of [0.98, 1]"),
)


def _fault(message: str) -> str:
    """Returns what a message of the trainer says about texts and settings."""
    for pattern, meaning in _FAULTS:
        if found := re.search(pattern, message):
            return found.expand(meaning)
    return " ".join(message.split())


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    control_pieces: int = 8,
    extra_pieces: Sequence[str] = (),
    byte_fallback: bool = True,
    dummy_prefix: bool = False,
    character_coverage: float = 0.9999,
    num_threads: int = 2,
) -> Tokenizer:
    """Trains a tokenizer; the same arguments give the same bytes.

    Args:
      texts: texts to learn from; a text may have many lines.
      vocab_size: number of ids, all included.
      control_pieces: number of control pieces <extra_id_0>, <extra_id_1>, ...
      extra_pieces: strings that are always one token wherever they occur in a text;
        they hold no space. A newline needs none, it is a byte, but "\\n\\n" would.
      byte_fallback: whether characters outside of the vocabulary become bytes;
        without, they become the unknown token and are lost.
      dummy_prefix: see `Tokenizer`.
      character_coverage: share of the characters of the texts that get a piece.
      num_threads: threads used for training.

    Raises:
      UserError: for an unusable extra piece or text, no text, or a vocabulary too large
        for the texts or too small for their characters; the message says by how much.
    """
    _check_extra_pieces(extra_pieces)
    extra = list(extra_pieces)
    if not byte_fallback and "\n" not in extra:
        extra.append("\n")  # The trainer sees single lines and would not learn it.
    model = io.BytesIO()
    faults: list[Exception] = []
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_noted(_sentences(texts), faults),
            model_writer=model,
            model_type="bpe",
            vocab_size=vocab_size,
            control_symbols=[f"<extra_id_{index}>" for index in range(control_pieces)],
            user_defined_symbols=extra,
            byte_fallback=byte_fallback,
            add_dummy_prefix=dummy_prefix,
            character_coverage=character_coverage,
            num_threads=num_threads,
            pad_id=PAD_ID,
            unk_id=UNKNOWN_ID,
            bos_id=BOS_ID,
            eos_id=EOS_ID,
            pad_piece="<pad>",
            normalization_rule_name="identity",
            remove_extra_whitespaces=False,
            allow_whitespace_only_pieces=True,
            split_digits=True,
            max_sentence_length=4 * _SENTENCE_CHARACTERS + 1,
            minloglevel=2,
        )
    except RuntimeError as error:
        if faults:
            raise faults[0] from None
        raise UserError(f"cannot train a tokenizer: {_fault(str(error))}") from error
    return Tokenizer(model.getvalue())
