"""A tiny data folder in the layout of `data.pretraining.corpus`, and settings to match.

All rows are made up here. Sets come in several of the formats that people use.
"""

import gzip
import json
import pathlib
from typing import Any

from nemojax.recipe.folder.settings import FolderSettings

NOUNS = ("river", "lamp", "garden", "bridge", "letter", "window", "market", "forest")
VERBS = ("crosses", "follows", "paints", "carries", "forgets", "repairs")
FOREIGN = (
    "der Fluss ist breit",
    "la lampe est verte",
    "el puente es largo",
    "川は広い",
)
LONG = "This answer goes on and on without an end. " * 40


def write(folder: pathlib.Path) -> pathlib.Path:
    """Writes the folder; the same rows at every call."""
    sentences = [f"The {a} {v} the {b}." for a in NOUNS for v in VERBS for b in NOUNS]
    english = [" ".join(sentences[i : i + 24]) for i in range(0, len(sentences), 24)]
    foreign = ["\n".join(f"{text} ({i})" for text in FOREIGN * 5) for i in range(6)]
    code = [f"def f{i}(x):\n    return x + {i}\n" * 6 for i in range(8)]
    for name, texts in (
        ("english", english),
        ("multilingual", foreign),
        ("code", code),
    ):
        rows = [{"text": text, "source": "made up"} for text in texts]
        lines(folder / f"pretrain/{name}-00000.jsonl.gz", rows[2:])
        lines(folder / f"pretrain/dev-{name}.jsonl", rows[:2])
    whole_list(folder / "sft/code_small.json", [_code(i) for i in range(24)])
    lines(folder / "code/mbpp_train.jsonl", [_mbpp(i) for i in range(8)])
    lines(folder / "sft/chat.jsonl", [_chat(i) for i in range(30)])
    lines(folder / "math/gsm8k_train.jsonl.gz", [_sum(i) for i in range(20)])
    hh = [_hh(i) for i in range(40)]
    hh[3]["rejected"] = hh[3]["chosen"]  # one row that cannot be used
    lines(folder / "preference/hh_small.jsonl.gz", hh)
    whole_list(folder / "preference/dpo_small.json", [_ranked(i) for i in range(12)])
    whole_list(folder / "preference/other.json", [_llmbar(i) for i in range(20)])
    lines(
        folder / "reward/regression.jsonl",
        [{"prompt": "Hi?", "response": "Hi.", "helpfulness": 3, "correctness": 3,
          "coherence": 4, "complexity": 1, "verbosity": 1}],
    )  # fmt: skip
    return folder


def settings(**changes: Any) -> FolderSettings:
    """Sizes with which all stages together take seconds."""
    sizes: dict[str, Any] = {
        "vocab_size": 384,
        "d_model": 32,
        "num_layers": 1,
        "length": 96,
        "batch": 4,
        "pretrain_tokens": 96 * 2 * 12,
        "validations": 3,
        "validation_bytes": 400,
        "held_out_share": 0.3,
        "preference_held_out_share": 0.4,
        "rpo_rounds": 2,
    }
    return FolderSettings(**sizes | changes)


def lines(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes one object a line, compressed where the name says so."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = "".join(json.dumps(row) + "\n" for row in rows)
    if path.suffix == ".gz":
        path.write_bytes(gzip.compress(text.encode(), mtime=0))
    else:
        path.write_text(text)


def whole_list(path: pathlib.Path, rows: list[dict[str, Any]]) -> None:
    """Writes one JSON list."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(rows))


def _code(i: int) -> dict[str, Any]:
    answer = LONG if i == 5 else f"def add(x):\n    return x + {i}"
    return {"instruction": f"Add {i} to x.", "input": "", "output": answer}


def _mbpp(i: int) -> dict[str, Any]:
    return {
        "text": f"Write f that takes {i} away.",
        "code": f"def f(x):\n    return x - {i}",
        "test_setup_code": "",
        "test_list": [f"assert f({i}) == 0"],
    }


def _chat(i: int) -> dict[str, Any]:
    noun = NOUNS[i % len(NOUNS)]
    turns = [
        {"from": "human", "value": f"What is {noun} number {i}?"},
        {"from": "gpt", "value": f"It is the {noun}."},
    ]
    return {"conversations": turns}


def _sum(i: int) -> dict[str, Any]:
    return {"question": f"What is {i} + 2?", "answer": f"{i} + 2\n#### {i + 2}"}


def _hh(i: int) -> dict[str, Any]:
    noun = NOUNS[i % len(NOUNS)]
    opening = f"\n\nHuman: May I break {noun} {i}?"
    if i % 4 == 0:  # too long
        opening += f"\n\nAssistant: {LONG}\n\nHuman: So may I?"
    return {
        "chosen": f"{opening}\n\nAssistant: No, please leave it alone.",
        "rejected": f"{opening}\n\nAssistant: Yes, break it now, of course!",
    }


def _ranked(i: int) -> dict[str, Any]:
    return {
        "conversations": [{"from": "human", "value": f"Name a colour, please ({i})."}],
        "chosen": {"from": "gpt", "value": "A colour is green."},
        "rejected": {"from": "gpt", "value": "I will not."},
    }


def _llmbar(i: int) -> dict[str, Any]:
    outputs = (f"{i} is a number.", "What do you mean?")
    first = i % 2
    return {
        "input": f"What is {i}?",
        "output_1": outputs[first],
        "output_2": outputs[1 - first],
        "label": 1 + first,
    }
