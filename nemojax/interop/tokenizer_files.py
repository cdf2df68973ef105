"""Writes SentencePiece tokenizers as files that `AutoTokenizer` reads."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from sentencepiece import sentencepiece_model_pb2

from nemojax.data.text import template_files
from nemojax.data.text.tokenizer import Tokenizer

MODEL = "tokenizer.model"
FAST = "tokenizer.json"
CONFIG = template_files.CONFIG
# All that a user of a model needs of its tokenizer, by name.
FILES = (
    MODEL,
    FAST,
    CONFIG,
    "special_tokens_map.json",
    *template_files.FILES,
    "generation_config.json",
)
_SPACE = "\u2581"
_Piece = sentencepiece_model_pb2.ModelProto.SentencePiece  # type: ignore[attr-defined]
# The layout that data/text/nemotron_template.py describes.
CHAT_TEMPLATE = """\
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
  {{- '<extra_id_1>' -}}
{%- endif -%}
"""


def find(directory: pathlib.Path) -> dict[str, pathlib.Path]:
    """Returns the files of a tokenizer that lie in a directory, by name."""
    paths = {name: directory / name for name in FILES}
    return {name: path for name, path in paths.items() if path.is_file()}


def own(files: Mapping[str, pathlib.Path]) -> Tokenizer | None:
    """Returns the SentencePiece tokenizer of files that `AutoTokenizer` cannot read."""
    if FAST in files or MODEL not in files:
        return None
    try:
        return Tokenizer.load(files[MODEL])
    except ValueError:
        return None  # it has another layout of ids; the file itself is copied


def write(directory: pathlib.Path, tokenizer: Tokenizer) -> None:
    """Writes `tokenizer.model`, `tokenizer.json` and `tokenizer_config.json`.

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
        fields["chat_template"] = CHAT_TEMPLATE
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
