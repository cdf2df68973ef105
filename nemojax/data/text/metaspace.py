"""The space that tokenizers of pieces put before a text: where, and a text without."""

from typing import Any

import tokenizers
from tokenizers import decoders, pre_tokenizers

SPACE = "\u2581"


def prepend_scheme(config: dict[str, Any]) -> str | None:
    """Returns the prepend scheme of a `LlamaTokenizer`, None of others.

    Transformers 5 makes it anew, of the pieces and two fields of
    `tokenizer_config.json`, whatever the `tokenizer.json` says.
    """
    if str(config.get("tokenizer_class")).removesuffix("Fast") != "LlamaTokenizer":
        return None
    if config.get("add_prefix_space") is False:
        return "never"
    return "always" if config.get("legacy") else "first"


def like_llama(tokenizer: tokenizers.Tokenizer, scheme: str) -> None:
    """Gives a tokenizer of pieces the steps of a `LlamaTokenizer`."""
    tokenizer.normalizer = None
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        replacement=SPACE, prepend_scheme=scheme, split=False
    )
    steps: list[Any] = [decoders.Replace(SPACE, " ")]
    steps += [decoders.ByteFallback(), decoders.Fuse()]
    if scheme != "never":
        steps.append(decoders.Strip(content=" ", left=1))
    tokenizer.decoder = decoders.Sequence(steps)


def without_prefix(part: Any) -> Any:
    """Returns a step of a `tokenizer.json` without the space that it puts before."""
    if isinstance(part, list):
        found = [without_prefix(each) for each in part]
        return [each for each in found if each is not None]
    if not isinstance(part, dict) or part.get("type") == "Prepend":
        return None
    changes: dict[str, Any] = {
        name: without_prefix(part[name])
        for name in ("normalizers", "pretokenizers")
        if name in part
    }
    if "prepend_scheme" in part:
        changes["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        changes["add_prefix_space"] = False
    return {**part, **changes}
