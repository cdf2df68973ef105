"""A model folder and data files to score."""

import json
import random

from nemojax.interop import model_folder, tokenizer_files

WORDS = ("red", "blue", "green", "tin", "gold", "lead")


def write_model(folder, config, params, tokenizer):
    """A model folder; returns its path."""
    files = {tokenizer_files.MODEL: tokenizer.model_bytes}
    model_folder.save(folder, config, params, files=files)
    return folder


def conversations(count, seed=0, most=4):
    """Rows of a prompt and a response of up to `most` words each."""
    rng = random.Random(seed)

    def text():
        return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

    return [{"prompt": text(), "response": text()} for _ in range(count)]


def write_rows(path, rows):
    """A .jsonl file; strings are lines as they are. Returns its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("".join(line + "\n" for line in lines))
    return path


def read_parts(folder, suffix=".jsonl"):
    """The objects in all parts, in order."""
    return [
        json.loads(line)
        for path in sorted(folder.glob(f"part-?????{suffix}"))
        for line in path.read_text().splitlines()
    ]


def contents(folder):
    """Bytes of all files by name."""
    return {
        path.name: path.read_bytes()
        for path in folder.iterdir()
        if path.name != ".lock"
    }
