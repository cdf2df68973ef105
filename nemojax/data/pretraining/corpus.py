"""Pretraining text by class, and which files of a data folder serve which stage.

A data folder holds one folder for each use; all files are `.jsonl`, `.json`, their
`.gz` or `.zst`, or `.parquet`, and `*` stands for anything:

    pretrain/<class>-*       text for training, the class being english, multilingual
    pretrain/dev-<class>*    or code; and held-out text for the validation loss.
                             Rows: text, and if known source, language, licence
    sft/code_*               conversations about code, and MBPP training problems:
    code/mbpp_train*         the first stage of fine-tuning
    sft/*                    all other conversations, and GSM8K training problems:
    math/gsm8k_train*        the second stage
    preference/hh_*          preference pairs for DPO and RPO
    preference/dpo_*
    preference/*             all other preference pairs, for reward models
    reward/*regression*      responses labelled with five attributes, for the
    reward/helpsteer*        regression reward model

The formats of the rows are told from their fields, see `formats`.
"""

import dataclasses
import pathlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import numpy as np

from nemojax.errors import UserError
from nemojax.io import fields, files

TEXT_CLASSES = ("english", "multilingual", "code")
# Shares of the text (report, section 2.1), here counted in bytes.
BLEND = {"english": 0.70, "multilingual": 0.15, "code": 0.15}

Files = tuple[pathlib.Path, ...]

_TRAINING = "pretrain/{}-*"
_STAGE_PATTERNS = {
    "code_sft": ("sft/code_*", "code/mbpp_train*"),
    "general_sft": ("sft/*", "math/gsm8k_train*"),
    "preferences": ("preference/hh_*", "preference/dpo_*"),
    "reward_pairs": ("preference/*",),
    "reward_attributes": ("reward/*regression*", "reward/helpsteer*"),
}


@dataclasses.dataclass(frozen=True)
class Document:
    """One text to pretrain on.

    Attributes:
      text: never blank.
      source: origin of the document, or "".
      language: language, of speech or programming, as the row names it, or "".
      text_class: one of `TEXT_CLASSES`.
    """

    text: str
    source: str
    language: str
    text_class: str


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Files of pretraining text by class, for training and for validation."""

    training: dict[str, Files]
    validation: dict[str, Files]


@dataclasses.dataclass(frozen=True)
class RecipeData:
    """The files that serve each stage of the recipe; see the module's docstring."""

    corpus: Corpus
    code_sft: Files
    general_sft: Files
    preferences: Files
    reward_pairs: Files
    reward_attributes: Files


def utf8_bytes(text: str) -> int:
    """Counts the bytes of a text in UTF-8, the unit of blends and bits per byte."""
    return len(text.encode("utf-8"))


def find_corpus(
    folder: files.PathLike, *, needed: Collection[str] | None = None
) -> Corpus:
    """Finds the pretraining text in the data folder `folder`.

    Args:
      folder: data folder, as the module's docstring describes it.
      needed: classes of which there must be text for training; with none of them there
        must be some text for training. None: all, for training and validation.

    Raises:
      files.DataError: the folder is missing, or has no text for some class.
    """
    folder = _existing(folder)
    corpus, missing = _corpus(folder)
    if needed or (needed is not None and any(corpus.training.values())):
        patterns = [_TRAINING.format(name) for name in needed]
        missing = [pattern for pattern in missing if pattern in patterns]
    _raise_if_missing(folder, missing)
    return corpus


def find_recipe_data(folder: files.PathLike) -> RecipeData:
    """Finds the files of all stages of the recipe in the data folder `folder`.

    Raises:
      files.DataError: the folder is missing, or has no file for some stage.
    """
    folder = _existing(folder)
    corpus, missing = _corpus(folder)
    stages: dict[str, Files] = {}
    taken: set[pathlib.Path] = set()
    for stage, patterns in _STAGE_PATTERNS.items():
        found = [file for file in _glob(folder, patterns) if file not in taken]
        taken.update(found)
        stages[stage] = tuple(found)
        if not found:
            missing.append(f"{' or '.join(patterns)} (for {stage.replace('_', ' ')})")
    _raise_if_missing(folder, missing)
    return RecipeData(corpus, **stages)


def _existing(folder: files.PathLike) -> pathlib.Path:
    folder = pathlib.Path(folder)
    if not folder.is_dir():
        raise files.DataError(f"{folder}: no such folder; name the folder of the data.")
    return folder


def _corpus(folder: pathlib.Path) -> tuple[Corpus, list[str]]:
    missing = []
    parts: list[dict[str, Files]] = []
    for pattern in (_TRAINING, "pretrain/dev-{}*"):
        part = {}
        for text_class in TEXT_CLASSES:
            class_pattern = pattern.format(text_class)
            part[text_class] = _glob(folder, [class_pattern])
            if not part[text_class]:
                missing.append(class_pattern)
        parts.append(part)
    return Corpus(*parts), missing


def _glob(folder: pathlib.Path, patterns: Iterable[str]) -> Files:
    found = [file for pattern in patterns for file in sorted(folder.glob(pattern))]
    return tuple(file for file in found if file.name.endswith(files.SUFFIXES))


def _raise_if_missing(folder: pathlib.Path, missing: Sequence[str]) -> None:
    if missing:
        raise files.DataError(
            f"{folder}: no data file matches {', '.join(missing)}; expected files "
            f"that end in {', '.join(files.SUFFIXES)} there."
        )


def read_documents(
    paths: files.PathLike | Iterable[files.PathLike],
    text_class: str,
    quarantine: files.Quarantine,
) -> Iterator[Document]:
    """Streams the documents of files that are all of one class.

    Args:
      paths: a file, a folder, or several of them.
      text_class: one of `TEXT_CLASSES`.
      quarantine: receives the rows without usable text.

    Raises:
      files.DataError: a file is missing or unreadable.
      UserError: there is no such class.
    """
    _check_class(text_class)
    for path in files.list_files(paths):
        for document, _ in read_numbered(path, text_class, quarantine):
            yield document


def read_numbered(
    path: files.PathLike, text_class: str, quarantine: files.Quarantine
) -> Iterator[tuple[Document, int]]:
    """Yields the documents of one file with the numbers of their rows."""
    _check_class(text_class)
    for row in quarantine.keep(files.read_rows(path)):
        try:
            yield _document(row.value, text_class), row.row
        except fields.Reject as reject:
            quarantine.add(row.reject(reject.field, reject.reason))


def _check_class(text_class: str) -> None:
    if text_class not in TEXT_CLASSES:
        raise UserError(f"text class {text_class!r} is none of {TEXT_CLASSES}")


def _document(row: fields.Fields, text_class: str) -> Document:
    text = fields.text(row, "text")
    if not text.strip():
        raise fields.Reject("text", "empty text")
    source, language = (
        fields.optional_text(row, name) for name in ("source", "language")
    )
    return Document(text, source, language, text_class)


def sample_blend(
    documents_by_class: Mapping[str, Sequence[Document]],
    weights: Mapping[str, float],
    rng: np.random.Generator,
    total_bytes: int,
) -> Iterator[Document]:
    """Orders documents so that the classes' shares of the bytes follow the weights.

    The next document is always of the class that is furthest behind its share, so
    every prefix of the order keeps the blend to within about one document a class.
    Each class is shuffled, and shuffled anew when all its documents have been given:
    a class that is too small for its weight is repeated.

    Args:
      documents_by_class: documents to draw from, by class.
      weights: share of the bytes by class, in any scale; `BLEND` is the recipe's.
      rng: the only source of chance; the order is a function of its state.
      total_bytes: the order ends with the document that reaches this many bytes.

    Raises:
      UserError: a weight is negative or all are zero, or a weighted class has no
        document.
    """
    classes = [name for name, weight in weights.items() if weight != 0]
    if not classes or any(weights[name] < 0 for name in classes):
        raise UserError(f"weights {dict(weights)} need to be positive")
    for name in classes:
        if not documents_by_class.get(name):
            raise UserError(f"no documents of class {name!r}, its weight is not zero")
    shuffled = {
        name: _shuffle_forever(documents_by_class[name], rng) for name in classes
    }
    given = dict.fromkeys(classes, 0)
    while sum(given.values()) < total_bytes:
        name = min(classes, key=lambda name: given[name] / weights[name])
        document = next(shuffled[name])
        given[name] += utf8_bytes(document.text)
        yield document


def _shuffle_forever(
    documents: Sequence[Document], rng: np.random.Generator
) -> Iterator[Document]:
    while True:
        for index in rng.permutation(len(documents)):
            yield documents[index]
