"""Writes SentencePiece tokenizers as files that `AutoTokenizer` reads."""

import json
import pathlib
import reprlib
from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from nemojax.data.text import template_files
from nemojax.data.text.nemotron_template import LABEL_START, TURN_START
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.errors import UserError
from nemojax.interop.config_json import TOKEN_IDS
from nemojax.io import folders

MODEL = "tokenizer.model"
FAST = "tokenizer.json"
CONFIG = template_files.CONFIG
GENERATION = "generation_config.json"
# The config.json that a model came with, of which the ids of special tokens are read.
ORIGINAL = "original_config.json"
# All that a user of a model needs of its tokenizer, by name.
FILES = (
    MODEL,
    FAST,
    CONFIG,
    "special_tokens_map.json",
    *template_files.FILES,
    GENERATION,
    ORIGINAL,
)
_SPACE = "\u2581"
_Piece = sentencepiece_model_pb2.ModelProto.SentencePiece  # type: ignore[attr-defined]
# The layout that data/text/nemotron_template.py describes.
_CHAT_TEMPLATE = """\
{%- set turns = messages -%}
{{- '<extra_id_0>System\\n' -}}
{%- if messages and messages[0]['role'] == 'system' -%}
  {{- messages[0]['content'] -}}
  {%- set turns = messages[1:] -%}
{%- endif -%}
{{- '\\n' -}}
{%- for turn in turns -%}
  {%- if turn['role'] != ['user', 'assistant'][loop.index0 % 2] -%}
    {{- raise_exception('user and assistant must take turns') -}}
  {%- endif -%}
  {{- '<extra_id_1>' + turn['role'] | capitalize + '\\n' + turn['content'] + '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<extra_id_1>Assistant\\n' -}}
{%- elif turns and turns[-1]['role'] == 'assistant' -%}
  {{- 'END_OF_ANSWER' -}}
{%- endif -%}
"""
# That of a policy, and that of a reward model.
CHAT_TEMPLATES = tuple(
    _CHAT_TEMPLATE.replace("END_OF_ANSWER", end) for end in (TURN_START, LABEL_START)
)


def find(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files of a tokenizer that lie in a directory, by name.

    Raises:
      UserError: what has such a name is no regular file.
    """
    paths = {name: directory / name for name in FILES}
    if not paths[ORIGINAL].exists():
        paths[ORIGINAL] = directory / "config.json"  # of a Hugging Face checkpoint
    there = {name: path for name, path in paths.items() if path.exists()}
    for path in there.values():
        if not path.is_file():
            raise UserError(f"{path}: no regular file")
    return there


def own(files: Mapping[str, pathlib.Path]) -> Tokenizer | None:
    """Returns the SentencePiece tokenizer of files that `AutoTokenizer` cannot read."""
    if FAST in files or MODEL not in files:
        return None
    try:
        return Tokenizer.load(files[MODEL])
    except ValueError:
        return None  # it has another layout of ids; the file itself is copied


def ids(file: pathlib.Path, name: str, vocab_size: int = 2**31) -> list[int]:
    """Reads the ids that a field of a JSON file names: one, several, or none.

    Raises:
      UserError: the file cannot be read, or names something else.
    """
    value = folders.read_json(file).get(name)
    found = value if isinstance(value, list) else [] if value is None else [value]
    for item in found:
        if type(item) is not int or not -1 <= item < vocab_size:
            raise UserError(
                f"{file}: {name} {reprlib.repr(item)} is no id of the {vocab_size:,}"
            )
    return [item for item in found if item >= 0]  # -1: none, in old files


def token_ids(files: Mapping[str, pathlib.Path]) -> dict[str, Any]:
    """Returns the ids of special tokens that a model came with, for its config.json.

    Raises:
      UserError: a file cannot be read.
    """
    if ORIGINAL in files:
        fields = folders.read_json(files[ORIGINAL])
        return {name: fields[name] for name in TOKEN_IDS if ids(files[ORIGINAL], name)}
    tokenizer = own(files)
    if tokenizer is None:
        return {}
    own_ids = (tokenizer.bos_id, tokenizer.eos_id, tokenizer.pad_id)
    return dict(zip(TOKEN_IDS, own_ids, strict=True))


def write(
    directory: pathlib.Path, tokenizer: Tokenizer, *, judge: bool = False
) -> None:
    """Writes `tokenizer.model`, `tokenizer.json` and `tokenizer_config.json`.

    The chat template of a `judge`, a reward model, ends where rewards are read.

    The ids are those of `tokenizer.encode` for every text without U+2581, which a
    `tokenizer.json` takes for a space. Unlike `tokenizer`, who reads these files takes
    a control token's name in a text for the token.
    """
    tokenizer.save(directory / MODEL)
    (directory / FAST).write_text(json.dumps(_fast(tokenizer), ensure_ascii=False))
    special = {
        role: tokenizer.piece(token_id)
        for role, token_id in (
            ("bos_token", tokenizer.bos_id),
            ("eos_token", tokenizer.eos_id),
            ("pad_token", tokenizer.pad_id),
            ("unk_token", tokenizer.unk_id),
        )
    }
    fields: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **special,
    }
    if "<extra_id_1>" in tokenizer.controls:
        fields["chat_template"] = CHAT_TEMPLATES[judge]
    (directory / CONFIG).write_text(json.dumps(fields, indent=2) + "\n")


def _fast(tokenizer: Tokenizer) -> dict[str, Any]:
    """Returns the content of a `tokenizer.json` of the same pieces."""
    model = sentencepiece_model_pb2.ModelProto()  # type: ignore[attr-defined]
    model.ParseFromString(tokenizer.model_bytes)
    vocab = {piece.piece: index for index, piece in enumerate(model.pieces)}
    scores = {p.piece: p.score for p in model.pieces if p.type == _Piece.NORMAL}
    added = [
        {
            "id": index,
            "content": piece.piece,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
            "special": piece.type != _Piece.USER_DEFINED,
        }
        for index, piece in enumerate(model.pieces)
        if piece.type in (_Piece.CONTROL, _Piece.UNKNOWN, _Piece.USER_DEFINED)
    ]
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": _SPACE}
    back = {"type": "Replace", "pattern": {"String": _SPACE}, "content": " "}
    normalizers: list[dict[str, Any]] = [replace]
    decoders: list[dict[str, Any]] = [back, {"type": "ByteFallback"}, {"type": "Fuse"}]
    if tokenizer.dummy_prefix:
        normalizers.insert(0, {"type": "Prepend", "prepend": " "})
        decoders.append({"type": "Strip", "content": " ", "start": 1, "stop": 0})
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "normalizer": {"type": "Sequence", "normalizers": normalizers},
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": {"type": "Sequence", "decoders": decoders},
        "model": {
            "type": "BPE",
            "unk_token": tokenizer.piece(tokenizer.unk_id),
            "fuse_unk": True,
            "byte_fallback": any(p.type == _Piece.BYTE for p in model.pieces),
            "vocab": vocab,
            "merges": _merges(scores),
        },
    }


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Returns the pairs that make each piece, the piece of the highest score first.

    SentencePiece merges by the score of the result, `tokenizers` by the order of pairs.
    """
    merges = []
    for piece in sorted(scores, key=lambda piece: -scores[piece]):
        pairs = ((piece[:cut], piece[cut:]) for cut in range(1, len(piece)))
        merges += [pair for pair in pairs if pair[0] in scores and pair[1] in scores]
    return merges
