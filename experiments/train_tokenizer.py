"""A SentencePiece tokenizer with the settings of Nemotron-4.

    python -m experiments.train_tokenizer --data=DATA --out=tokenizer.model

BPE with byte fallback, numbers split into digits, white space kept as it is, and
control pieces `<extra_id_0>`, `<extra_id_1>`, ... (15B report, section 2). Learns from
the text in DATA/pretrain, in the layout of data/pretraining/corpus.py. As in the
report, text that is not English gets a larger share than in pretraining: by default
30 %, where pretraining has 15 %. A class with a share above 0 has to have text.

Prints the bytes of held-out text that a token stands for, by class, and where the
model is. 256,000 pieces need some gigabytes of text; 4,096 from 4 MB take seconds.
"""

import pathlib

import numpy as np
from absl import flags

from nemojax.cli import command
from nemojax.data.pretraining import corpus
from nemojax.data.text import tokenizer as tokenizers
from nemojax.errors import UserError
from nemojax.io import files, folders

FLAGS = flags.FLAGS
flags.DEFINE_string("data", None, "folder of the data files", required=True)
flags.DEFINE_string("out", "tokenizer.model", "the model to write; must not exist")
flags.DEFINE_integer(
    "vocab_size", 256_000, "pieces, with all that are added", lower_bound=300
)
flags.DEFINE_integer(
    "control_pieces", 16, "pieces <extra_id_0> and so on", lower_bound=1
)
flags.DEFINE_float("megabytes", 500.0, "how much text to learn from", lower_bound=0.01)
flags.DEFINE_float("english", 0.5, "share of English text, in bytes", lower_bound=0)
flags.DEFINE_float(
    "multilingual", 0.3, "share of text in other languages", lower_bound=0
)
flags.DEFINE_float("code", 0.2, "share of code", lower_bound=0)
flags.DEFINE_integer("seed", 0, "seed of the sample of the text")
command.define_json()


def train(data: str, weights: dict[str, float]) -> tokenizers.Tokenizer:
    """Trains on a sample of the text, each class with its share.

    Raises:
      UserError: the text cannot be read, or is too small for the vocabulary.
    """
    bad = files.Quarantine()
    needed = [name for name, weight in weights.items() if weight]
    training = corpus.find_corpus(data, needed=needed).training
    documents = {
        name: list(corpus.read_documents(training[name], name, bad)) for name in needed
    }
    bad.check(sum(map(len, documents.values())) + bad.total)
    rng = np.random.default_rng(FLAGS.seed)
    num_bytes = int(FLAGS.megabytes * 1e6)
    try:
        sample = corpus.sample_blend(documents, weights, rng, num_bytes)
        return tokenizers.train(
            (document.text for document in sample),
            vocab_size=FLAGS.vocab_size,
            control_pieces=FLAGS.control_pieces,
        )
    except UserError as error:
        raise UserError(f"{data}: {error}") from error


def bytes_per_token(data: str, tokenizer: tokenizers.Tokenizer) -> dict[str, float]:
    """Measures bytes per token of the held-out text that there is, by class."""
    found = {}
    for name, paths in corpus.find_corpus(data, needed=()).validation.items():
        if not paths:
            continue
        bad = files.Quarantine()
        texts = [one.text for one in corpus.read_documents(paths, name, bad)]
        bad.check(len(texts) + bad.total)
        tokens = sum(len(tokenizer.encode(text)) for text in texts)
        found[name] = sum(map(corpus.utf8_bytes, texts)) / max(tokens, 1)
    return found


def run() -> int:
    """Trains, measures, writes."""
    out = pathlib.Path(FLAGS.out)
    if out.exists():
        raise UserError(f"{out} exists; name another file with --out")
    if not out.parent.is_dir():
        raise UserError(f"{out.parent}: there is no such folder")
    weights = {name: float(FLAGS[name].value or 0) for name in corpus.TEXT_CLASSES}
    tokenizer = train(FLAGS.data, weights)
    folders.write_file(out, tokenizer.model_bytes)
    measured = bytes_per_token(FLAGS.data, tokenizer)
    result = {
        "tokenizer": str(out),
        "vocab_size": tokenizer.vocab_size,
        "sha256": tokenizer.fingerprint,
        "bytes_per_token": {name: round(value, 3) for name, value in measured.items()},
    }
    lines = [f"{name:13} {value:.2f} bytes a token" for name, value in measured.items()]
    lines.append(f"{tokenizer.vocab_size:,} pieces: {out}")
    command.print_result(result, "\n".join(lines), FLAGS.json)
    return command.SUCCESS


if __name__ == "__main__":
    command.start(run)
