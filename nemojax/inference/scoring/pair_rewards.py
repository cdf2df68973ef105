"""Rewards of pairs from the scores that `experiments.score` wrote."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from nemojax import losses
from nemojax.data.batching.examples import Rewards
from nemojax.data.records import ATTRIBUTES
from nemojax.io.files import DataError
from nemojax.io.parts import Parts

SIDES = ("chosen", "rejected")


def weights_of(text: str) -> tuple[float, ...]:
    """Parses the weights of the five attributes: a name, or numbers.

    The names are those of `losses.ATTRIBUTE_WEIGHTS`.

    Raises:
      DataError: neither.
    """
    if text in losses.ATTRIBUTE_WEIGHTS:
        return losses.ATTRIBUTE_WEIGHTS[text]
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = ()
    if len(found) != len(ATTRIBUTES):
        known = ", ".join(losses.ATTRIBUTE_WEIGHTS)
        raise DataError(
            f"--reward_weights={text}: say {known}, or a number for each of "
            f"{', '.join(ATTRIBUTES)}"
        )
    return found


def read(folder: str | Path, weights: Sequence[float]) -> Rewards:
    """Reads the rewards in a folder of `experiments.score`.

    Args:
      folder: scores in files part-NNNNN.jsonl.
      weights: weights of the five attributes; a model of one attribute is its own
        reward.

    Raises:
      DataError: there are no scores, or not of pairs, or of other attributes.
      WorkdirError: they were changed.
    """
    parts = Parts(Path(folder))  # compares with the checksums
    paths = sorted(parts.directory.glob("part-?????.jsonl"))
    cut = parts.directory / f"part-{len(paths):05}.json"
    if cut.exists():
        raise DataError(f"{cut}: its rows are missing: score the pairs again")
    if not paths:
        raise DataError(f"{folder}: no scores: part-00000.jsonl is not there")
    found = {}
    for path in paths:
        for number, line in enumerate(path.read_text().splitlines(), 1):
            try:
                row = json.loads(line)
                values = [_reward(row[side]["rewards"], weights) for side in SIDES]
                found[row["file"], row["row"]] = values[0], values[1]
            except (KeyError, TypeError, ValueError) as error:
                raise DataError(
                    f"{path}, row {number}: no rewards of a pair ({error}): score the "
                    "pairs with a reward model"
                ) from error
    return found


def _reward(attributes: Mapping[str, float], weights: Sequence[float]) -> float:
    if len(attributes) == 1:
        return float(next(iter(attributes.values())))
    values = np.array([attributes[name] for name in ATTRIBUTES])
    return float(losses.aggregate(values, weights))
