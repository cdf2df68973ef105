"""Pretraining samples: row g of a run as a pure function of (seed, blend, g).

The text of a component is one stream: its records in the order of the files. An epoch
cuts the stream, as a circle, into samples of equal length, beginning at another place
each time, and takes them in another order. Nothing depends on hosts, workers or
restarts, and the state of the data is the number of samples that were taken.
"""

import dataclasses
import json
import pathlib
from collections.abc import Callable, Iterable, Sequence

import numpy as np

from nemojax.data.batching import batches
from nemojax.data.batching.batches import Batch
from nemojax.data.pretraining import mixture
from nemojax.data.pretraining.blends import Component
from nemojax.data.pretraining.token_corpus import TokenCorpus
from nemojax.data.pretraining.token_files import Group, TokenFile
from nemojax.errors import UserError
from nemojax.io.quarantine import DataError


class Stream:
    """The text of some groups, as samples."""

    def __init__(self, files: Sequence[TokenFile], groups: Iterable[Group]):
        """Finds the records of the groups.

        Raises:
          UserError: there are none.
        """
        wanted, self._files = set(groups), files
        numbers, records, lengths = [], [], []
        for number, file in enumerate(files):
            mine = [group in wanted for group in file.groups]
            found = np.flatnonzero(np.array(mine, bool)[file.group])
            numbers.append(np.full(len(found), number, np.int32))
            records.append(found)
            lengths.append(file.tokens[found])
        self._file, self._record = np.concatenate(numbers), np.concatenate(records)
        self._end = np.cumsum(np.concatenate(lengths), dtype=np.int64)
        if not len(self._end):
            raise UserError("no text in these groups")

    @property
    def tokens(self) -> int:
        """Tokens of an epoch."""
        return int(self._end[-1])

    def place(self, rank: np.ndarray, length: int, seed: int) -> np.ndarray:
        """Returns where in the stream the samples of these ranks begin, int64."""
        per_epoch = max(1, self.tokens // length)
        epoch, index = np.divmod(rank, per_epoch)
        begin = np.empty(len(rank), np.int64)
        for one in np.unique(epoch):
            mine, key = epoch == one, _key(seed, int(one))
            shift = int(mixture.mixed(np.array([key], np.uint64), 0)[0]) % self.tokens
            order = mixture.permuted(index[mine], per_epoch, key)
            begin[mine] = (order * length + shift) % self.tokens
        return begin

    def read(
        self, begin: int, length: int, damaged: Callable[[TokenFile, int, str], None]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Reads tokens int32 [length] from a place on, cyclically, and a mask of them.

        A damaged record is told, and its tokens are 0 and False.
        """
        tokens, there = np.zeros(length, np.int32), np.ones(length, bool)
        at, done = begin, 0
        piece = int(np.searchsorted(self._end, at, side="right"))
        while done < length:
            start = int(self._end[piece - 1]) if piece else 0
            take = min(length - done, int(self._end[piece]) - at)
            file = self._files[self._file[piece]]
            record = int(self._record[piece])
            part = slice(done, done + take)
            try:
                tokens[part] = file.read(record)[at - start : at - start + take]
            except DataError as error:
                damaged(file, record, str(error))
                there[part] = False
            done, at, piece = done + take, at + take, piece + 1
            if piece == len(self._end):
                piece = at = 0
        return tokens, there


def _key(seed: int, epoch: int) -> int:
    words = np.random.SeedSequence([seed, epoch]).generate_state(1, np.uint64)
    return int(words[0] >> np.uint64(2))


@dataclasses.dataclass(frozen=True)
class BlendPhase:
    """A blend from one sample on, until the next part begins.

    Attributes:
      first: number of its first sample.
      components: components that the stream is made of.
    """

    first: int
    components: tuple[Component, ...]


class Samples:
    """Finds the tokens of each sample of a pretraining run by its number.

    Attributes:
      length: S, tokens of a sample.
      damaged: records that could not be read: {(path, record): why}.
      lost: samples that had some of it.
    """

    def __init__(
        self,
        corpus: TokenCorpus,
        parts: Sequence[BlendPhase],
        length: int,
        seed: int,
        *,
        isolate_documents: bool = False,
        faults: pathlib.Path | None = None,
        max_lost: int = 0,
    ):
        """Opens the text of all parts.

        Args:
          corpus: tokenized.
          parts: parts in the order of their first samples, the first from 0.
          length: S.
          seed: decides the order.
          isolate_documents: whether a document's tokens attend to it alone; in the
            report they attend to all that stands before them in the sample.
          faults: file to add damaged records to.
          max_lost: samples that may have damaged text.
        """
        self.length, self._seed, self._isolate = length, seed, isolate_documents
        self._eos, self._parts = corpus.tokenizer.eos_id, tuple(parts)
        self._mixtures = [
            mixture.Mixture([one.weight for one in part.components], seed + number)
            for number, part in enumerate(parts)
        ]
        self._streams: dict[str, Stream] = {}
        for part in parts:
            for one in part.components:
                if one.name not in self._streams:
                    self._streams[one.name] = Stream(corpus.files, one.groups)
        self._faults, self._max_lost = faults, max_lost
        self.damaged: dict[tuple[str, int], str] = {}
        self.lost: set[int] = set()

    def counts(self, n: int) -> dict[str, int]:
        """Counts the samples of each component among the first n."""
        found = dict.fromkeys(self._streams, 0)
        for number, part in enumerate(self._parts):
            size = min(n, self._stop(number)) - part.first
            if size > 0:
                counts = self._mixtures[number].counts(size)
                for one, count in zip(part.components, counts, strict=True):
                    found[one.name] += int(count)
        return found

    def expected(self, n: int) -> dict[str, float]:
        """Returns how many of the first n samples the blends give each component."""
        found = dict.fromkeys(self._streams, 0.0)
        for number, part in enumerate(self._parts):
            size = max(0, min(n, self._stop(number)) - part.first)
            for one in part.components:
                found[one.name] += one.weight * size
        return found

    def epochs(self, name: str, samples: int) -> float:
        """Returns how often a component's text is seen in so many of its samples."""
        return samples * self.length / self._streams[name].tokens

    def places(self, first: int, count: int) -> list[tuple[str, int]]:
        """Returns component and place in its text of `count` samples from `first`."""
        found: list[tuple[str, int]] = []
        for number, part in enumerate(self._parts):
            start, stop = max(first, part.first), self._stop(number)
            stop = min(first + count, stop)
            if start >= stop:
                continue
            before = self.counts(part.first)
            component, rank = self._mixtures[number].at(
                start - part.first, stop - start
            )
            begin = np.empty(stop - start, np.int64)
            for index, one in enumerate(part.components):
                mine = component == index
                begin[mine] = self._streams[one.name].place(
                    before[one.name] + rank[mine], self.length, self._seed
                )
            names = [part.components[index].name for index in component]
            found += zip(names, begin.tolist(), strict=True)
        return found

    def batch(self, first: int, count: int) -> Batch:
        """Returns samples `first` to `first + count - 1` as a batch [count, S].

        Raises:
          DataError: too many samples have damaged text; names the last record.
        """
        rows = np.zeros((count, self.length), np.int32)
        there = np.ones((count, self.length), bool)
        for row, (name, begin) in enumerate(self.places(first, count)):
            stream = self._streams[name]
            rows[row], there[row] = stream.read(begin, self.length, self._damaged)
            if not there[row].all():
                self._count_lost(first + row)
        return self._batch(rows, there)

    def _batch(self, rows: np.ndarray, there: np.ndarray) -> Batch:
        if self._isolate:
            return batches.from_documents(rows, self._eos, there)
        batch = batches.from_rows(rows)
        # Neither what is missing nor what would be predicted from it is a target.
        batch.loss_mask[~there] = 0
        batch.loss_mask[:, 1:][~there[:, :-1]] = 0
        return batch

    def _stop(self, part: int) -> int:
        later = self._parts[part + 1 :]
        return later[0].first if later else np.iinfo(np.int64).max

    def _damaged(self, file: TokenFile, record: int, why: str) -> None:
        key = str(file.path), record
        if key in self.damaged:
            return
        self.damaged[key] = why
        if self._faults is not None:
            row = {"file": key[0], "record": record, "row": int(file.row[record])}
            with self._faults.open("a") as stream:
                stream.write(json.dumps(row | {"reason": why}) + "\n")

    def _count_lost(self, sample: int) -> None:
        self.lost.add(sample)
        if len(self.lost) > self._max_lost:
            last = next(reversed(self.damaged.values()))
            raise DataError(
                f"{len(self.lost)} samples have damaged text, more than the "
                f"{self._max_lost} that may; the last is {last}. Tokenize that file "
                "again, or allow more with --max_bad_fraction"
            )


def validation_batches(
    corpus: TokenCorpus, split: str, length: int, rows: int, most: int
) -> dict[str, list[Batch]]:
    """Yields batches [rows, S] from the beginning of held-out text by class.

    What does not fill a row at the end is padded; rows without text fill up a batch.
    """
    found = {}
    for text_class in sorted({group.text_class for group in corpus.totals(split)}):
        groups = [g for g in corpus.totals(split) if g.text_class == text_class]
        stream = Stream(corpus.files, groups)
        count = min(most * rows, -(-stream.tokens // length))
        tokens = np.zeros((-(-count // rows) * rows, length), np.int32)
        segments = np.zeros_like(tokens)
        for row in range(count):
            size = min(length, stream.tokens - row * length)
            tokens[row, :size], there = stream.read(row * length, size, _unreadable)
            segments[row, :size] = there
        found[text_class] = [
            batches.from_rows(tokens[at : at + rows], segments[at : at + rows])
            for at in range(0, len(tokens), rows)
        ]
    return found


def _unreadable(file: TokenFile, record: int, why: str) -> None:
    raise DataError(f"held-out text: {why}; tokenize that file again")
