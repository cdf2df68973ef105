"""The rows of a data folder: read, checked, split into train and held-out.

A row is held out by the hash of its prompt's first turn alone, the same in every
stage and for every seed, so that all rows with one prompt are on one side.
"""

import dataclasses
import pathlib
from collections.abc import Sequence
from typing import Generic, TypeVar

from nemojax.data.held_out import is_held_out
from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.corpus import Document
from nemojax.data.records import Conversation, PreferencePair
from nemojax.data.rows import formats
from nemojax.io import files, folders
from nemojax.io.files import DataError
from nemojax.recipe.folder.settings import FolderSettings

# Documents are cut into pieces: a few books would not keep the blend.
PIECE_CHARACTERS = 4000

Record = TypeVar("Record")
Counts = dict[str, int]


@dataclasses.dataclass(frozen=True)
class Split(Generic[Record]):
    """Rows of one kind, and what became of those that are in neither list."""

    train: list[Record]
    held_out: list[Record]
    counts: Counts

    @property
    def left_out(self) -> int:
        """Number of rows that are neither trained on nor measured."""
        return self.counts["rows"] - len(self.train) - len(self.held_out)


@dataclasses.dataclass(frozen=True)
class Dataset:
    """Holds the rows of a data folder by the stage that uses them.

    Attributes:
      data_files: size and SHA-256 of each file, by its path in the folder.
      documents: pieces of training text by class.
      validation: held-out documents by class.
      code_sft, general_sft: demonstrations of the two stages.
      preferences: pairs for DPO and RPO.
      reward_pairs: more pairs, for the reward model only.
      quarantine: rows that gave no record.
    """

    data_files: dict[str, str]
    documents: dict[str, list[Document]]
    validation: dict[str, list[Document]]
    code_sft: Split[Conversation]
    general_sft: Split[Conversation]
    preferences: Split[PreferencePair]
    reward_pairs: Split[PreferencePair]
    quarantine: files.Quarantine


def read(folder: files.PathLike, settings: FolderSettings) -> Dataset:
    """Reads a data folder, laid out as `corpus` describes.

    Raises:
      files.DataError: the folder or a file of it cannot be used, too many rows of one
        kind are malformed, or a stage is left without rows.
    """
    found = corpus.find_recipe_data(folder)
    reader = _Reader(settings)
    documents = reader.documents(found.corpus.training)
    validation = reader.documents(found.corpus.validation)
    pairs = {
        name: reader.pairs(name, getattr(found, name))
        for name in ("preferences", "reward_pairs")
    }
    barred = {
        pair.prompt.opening for split in pairs.values() for pair in split.held_out
    }
    return Dataset(
        data_files=_fingerprint(pathlib.Path(folder), found),
        documents={name: _pieces(texts) for name, texts in documents.items()},
        validation=validation,
        code_sft=reader.conversations("code_sft", found.code_sft, barred),
        general_sft=reader.conversations("general_sft", found.general_sft, barred),
        quarantine=reader.quarantine,
        **pairs,
    )


class _Reader:
    """Reads files of every kind; checks each kind's share of malformed rows."""

    def __init__(self, settings: FolderSettings):
        self.settings = settings
        self.quarantine = files.Quarantine()

    def documents(self, paths: dict[str, corpus.Files]) -> dict[str, list[Document]]:
        found = {}
        for name, of_class in paths.items():
            bad = files.Quarantine()
            found[name] = list(corpus.read_documents(of_class, name, bad))
            rows = len(found[name]) + bad.total
            self._check(bad, rows, f"{name} text", of_class)
        return found

    def conversations(
        self, stage: str, paths: corpus.Files, barred: set[str]
    ) -> Split[Conversation]:
        """Reads demonstrations without those whose prompt preference pairs hold out."""
        share, most = self.settings.held_out_share, self.settings.max_rows_per_file
        train, held_out = [], []
        counts: Counts = dict.fromkeys(
            ("rows", "quarantined", "held_out_prompt", "over_the_cap"), 0
        )
        bad = files.Quarantine()
        for path in paths:
            result = formats.read(path, bad, "conversations")
            counts["rows"] += result.rows
            counts["quarantined"] += result.bad
            kept = []
            for row in result.records:
                if is_held_out(row.opening, share):
                    held_out.append(row)
                elif row.opening in barred:
                    counts["held_out_prompt"] += 1
                else:
                    kept.append(row)
            train += spread(kept, most)
            counts["over_the_cap"] += max(0, len(kept) - most)
        self._check(bad, counts["rows"], stage, paths)
        return Split(train, held_out, counts)

    def pairs(self, stage: str, paths: corpus.Files) -> Split[PreferencePair]:
        share = self.settings.preference_held_out_share
        bad = files.Quarantine()
        result = formats.read(paths, bad, "preference pairs")
        self._check(bad, result.rows, stage, paths)
        train, held_out = [], []
        for pair in result.records:
            (held_out if is_held_out(pair.prompt.opening, share) else train).append(
                pair
            )
        return Split(train, held_out, {"rows": result.rows, "quarantined": result.bad})

    def _check(
        self, bad: files.Quarantine, rows: int, kind: str, paths: corpus.Files
    ) -> None:
        bad.check(rows, self.settings.max_malformed_share)
        self.quarantine.extend(bad)
        if rows == bad.total:
            names = ", ".join(map(str, paths))
            raise DataError(
                f"{names}: no usable row for {kind.replace('_', ' ')}; add some."
            )


def spread(rows: Sequence[Record], most: int) -> list[Record]:
    """Returns at most `most` rows, evenly spread over all."""
    count = min(most, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def _fingerprint(folder: pathlib.Path, found: corpus.RecipeData) -> dict[str, str]:
    paths = [
        path
        for part in (found.corpus.training, found.corpus.validation)
        for of_class in part.values()
        for path in of_class
    ]
    for name in ("code_sft", "general_sft", "preferences", "reward_pairs"):
        paths += getattr(found, name)
    fingerprint = {}
    for path in paths:
        digest = folders.sha256(path)
        name = path.relative_to(folder).as_posix()
        fingerprint[name] = f"{path.stat().st_size} bytes, sha256 {digest}"
    return fingerprint


def _pieces(documents: Sequence[Document]) -> list[Document]:
    return [
        dataclasses.replace(document, text=piece)
        for document in documents
        for start in range(0, len(document.text), PIECE_CHARACTERS)
        if (piece := document.text[start : start + PIECE_CHARACTERS]).strip()
    ]
