"""A byte-level BPE tokenizer with Llama 3's control tokens, trained on a few words."""

import functools

import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

CONTROLS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
SPECIAL = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
_WORDS = "the user asks and the assistant answers: one two three, system."


@functools.cache
def tokenizer_json() -> bytes:
    """The content of its `tokenizer.json`."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([_WORDS] * 3, trainer)
    tokenizer.add_special_tokens(list(CONTROLS))
    bos = tokenizer.token_to_id(CONTROLS[0])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{CONTROLS[0]} $A", special_tokens=[(CONTROLS[0], bos)]
    )
    return tokenizer.to_str().encode()
