"""Tiny tokenizers of the kinds that models are published with."""

import json
import pathlib

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

SPECIAL = (
    "<s>",
    "</s>",
    "<|im_start|>",
    "<|im_end|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
    "<start_of_turn>",
    "<end_of_turn>",
    "<extra_id_0>",
    "<extra_id_1>",
)
STRIPPING = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>")
ORDINARY = ("<think>", "</think>", "kubectl", "    ", "<｜User｜>", "<｜Assistant｜>")
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
WORDS = [
    "[INST] <<SYS>> system <</SYS>> the user asks [/INST] and the assistant answers\n",
    "### Instruction:\n\n### Response:\nUSER: one two three ASSISTANT: yes, no.\n\n",
    "user assistant model System User Assistant  kubectl 12 + 30 = 42 é ü 你好",
] * 20
_BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
_SPACE = "\u2581"
_FULL = [
    decoders.Replace(_SPACE, " "),
    decoders.ByteFallback(),
    decoders.Fuse(),
]


def _byte_level(pattern: str | None) -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer(models.BPE())
    step = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=not pattern)
    tokenizer.pre_tokenizer = step
    if pattern:
        split = pre_tokenizers.Split(tokenizers.Regex(pattern), "isolated")
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, step])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<unk>"],
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    return tokenizer


def _pieces(scheme: str | None) -> tokenizers.Tokenizer:
    """Llama 2's kind: a space before texts by that scheme, or by the normalizer."""
    model = models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True)
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        special_tokens=["<unk>", "<s>", "</s>", *_BYTES],
        show_progress=False,
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    tokenizer = tokenizers.Tokenizer(tokenizer.model)  # bytes are no control tokens
    if scheme is None:
        prepend = normalizers.Prepend(_SPACE)
        spaces = normalizers.Replace(" ", _SPACE)
        tokenizer.normalizer = normalizers.Sequence([prepend, spaces])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
            replacement=_SPACE, prepend_scheme=scheme, split=False
        )
    strip = [] if scheme == "never" else [decoders.Strip(" ", 1, 0)]
    tokenizer.decoder = decoders.Sequence([*_FULL, *strip])
    return tokenizer


def _unigram(scheme: str) -> tokenizers.Tokenizer:
    """SentencePiece's Unigram with its usual normalizer and byte fallback."""
    tokenizer = tokenizers.Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(
        vocab_size=200, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False
    )
    tokenizer.train_from_iterator(WORDS, trainer)
    fields = json.loads(tokenizer.to_str())
    vocab = [tuple(piece) for piece in fields["model"]["vocab"]]
    vocab += [(piece, -20.0) for piece in _BYTES]
    tokenizer.model = models.Unigram(vocab, unk_id=0, byte_fallback=True)
    steps = [normalizers.NFKC(), normalizers.Replace(tokenizers.Regex(" {2,}"), " ")]
    tokenizer.normalizer = normalizers.Sequence(steps)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=_SPACE, prepend_scheme=scheme
    )
    tokenizer.decoder = decoders.Sequence([*_FULL, decoders.Strip(" ", 1, 0)])
    return tokenizer


_LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
KINDS = {
    "byte level": lambda: _byte_level(None),
    "byte level, llama 3": lambda: _byte_level(_LLAMA_3),
    "pieces, prepend": lambda: _pieces(None),
    "pieces, first": lambda: _pieces("first"),
    "pieces, always": lambda: _pieces("always"),
    "pieces, never": lambda: _pieces("never"),
    "unigram, first": lambda: _unigram("first"),
    "unigram, always": lambda: _unigram("always"),
}


def write(directory: pathlib.Path, kind: str, **config: object) -> None:
    """Writes `tokenizer.json` and `tokenizer_config.json` of a kind of tokenizer."""
    tokenizer = KINDS[kind]()
    tokens = [tokenizers.AddedToken(name, special=True) for name in SPECIAL]
    tokens += [
        tokenizers.AddedToken(name, special=True, rstrip=True, normalized=False)
        for name in STRIPPING
    ]
    tokenizer.add_special_tokens(tokens)
    ordinary = [
        tokenizers.AddedToken(name, normalized=name == "kubectl") for name in ORDINARY
    ]
    tokenizer.add_tokens(ordinary)
    tokenizer.save(str(directory / "tokenizer.json"))
    fields = {"tokenizer_class": "PreTrainedTokenizerFast", **ROLES, **config}
    (directory / "tokenizer_config.json").write_text(json.dumps(fields))
