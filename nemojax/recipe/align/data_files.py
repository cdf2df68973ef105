"""Rows of a run of alignment: which files, and the examples that are read from them."""

import dataclasses
import hashlib
import os
from collections.abc import Sequence
from typing import Any

from nemojax.data.batching import examples as reading
from nemojax.data.batching.examples import Encode, Examples
from nemojax.inference.scoring import pair_rewards
from nemojax.io import files
from nemojax.recipe.align.settings import StageSettings


@dataclasses.dataclass(frozen=True)
class DataFiles:
    """The rows of a run.

    Attributes:
      train: files and folders to train on, or records and rows in memory.
      held_out: the same, to measure on.
      held_out_share: share of the prompts of `train` to measure on, where there is no
        other.
      replay, replay_share: files of a stage before, and the share of all examples that
        come from there.
      max_bad_fraction: largest share of the rows that may be malformed.
      rewards: folder with scores of the pairs, instead of the rewards in the files.
      reward_weights: weights of the attributes, see `pair_rewards.weights_of`.
    """

    train: Sequence[Any]
    held_out: Sequence[Any] = ()
    held_out_share: float = 0.0
    replay: Sequence[str] = ()
    replay_share: float = 0.0
    max_bad_fraction: float = 0.05
    rewards: str | None = None
    reward_weights: str = "nemotron4_340b"

    def configuration(self) -> dict[str, Any]:
        """Returns names and sizes, as JSON.

        Raises:
          DataError: a file is missing.
        """
        found: dict[str, Any] = {
            "held_out_share": self.held_out_share,
            "replay_share": self.replay_share,
            "rewards": self.rewards,
            "reward_weights": self.reward_weights,
        }
        for name in ("train", "held_out", "replay"):
            rows = getattr(self, name)
            if _in_memory(rows):
                found[name] = hashlib.sha256(repr(rows).encode()).hexdigest()
                continue
            paths = files.list_files(rows) if rows else []
            found[name] = [[str(path), path.stat().st_size] for path in paths]
        return found

    def read(
        self, encode: Encode, settings: StageSettings, values: int
    ) -> tuple[Examples, Examples | None]:
        """Reads the examples to train on and those to measure on.

        Raises:
          DataError: as `examples.read`.
          UserError: too few prompts to hold some out.
        """
        scores = None
        if self.rewards is not None:
            weights = pair_rewards.weights_of(self.reward_weights)
            scores = pair_rewards.read(self.rewards, weights)
        how: dict[str, Any] = {
            "length": settings.length,
            "max_bad_fraction": self.max_bad_fraction,
            "values": values,
        }

        def read(rows: Sequence[Any]) -> Examples:
            if _in_memory(rows):
                return reading.of_records(rows, encode, name="rows", **how)
            return reading.read(rows, encode, rewards=scores, **how)

        train, held = read(self.train), None
        others = []
        if self.held_out:
            held = read(self.held_out)
            others.append(held)
        elif self.held_out_share:
            train, held = reading.split(train, self.held_out_share)
        if self.replay:
            others.append(read(self.replay))
            train = train.with_share(others[-1], self.replay_share, settings.seed)
        for other in others:  # their rejected rows are told of, too
            for bad in other.quarantine.rows:
                train.quarantine.add(bad)
        return train, held


def _in_memory(rows: Sequence[Any]) -> bool:
    return not all(isinstance(row, str | os.PathLike) for row in rows)
