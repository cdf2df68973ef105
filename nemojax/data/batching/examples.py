"""Rows of data files as the examples of a stage: encoded, checked, and counted.

A row is an example, or it is in the quarantine with its file, row, field and reason:
rows that are too long for a sequence, or whose chosen response has too low a reward,
are sound but left out, and counted; they are never cut or replaced.
"""

import dataclasses
import functools
import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nemojax.data import records
from nemojax.data.batching.batches import epoch_order
from nemojax.data.batching.packing import TokenSequence
from nemojax.data.held_out import is_held_out
from nemojax.data.records import AttributeLabels, Conversation, PreferencePair
from nemojax.data.rows import formats
from nemojax.data.text.chat_template import ChatTemplate, TextTokenizer
from nemojax.errors import UserError
from nemojax.io import files, quarantine
from nemojax.io.files import BadRow, DataError, Quarantine, Row

# (file, row) -> rewards of the chosen and the rejected response.
Rewards = Mapping[tuple[str, int], tuple[float, float]]
# (record) -> its sequences and its values; raises ValueError for what is no example.
Encode = Callable[[Any], tuple[list[TokenSequence], Sequence[float]]]


@dataclasses.dataclass
class Examples:
    """Examples of a stage.

    Attributes:
      groups: the sequences of each: one, or those of a chosen and a rejected response.
      prompts: the turn of a user with which each begins.
      values: float32 [N, K]: labels, or the rewards of the two responses and the margin
        of the pair (NaN: none).
      counts: rows met, examples kept, and the others by reason.
      detected: the format of each file.
      quarantine: rows that are no examples.
    """

    groups: list[list[TokenSequence]]
    prompts: list[str]
    values: np.ndarray
    counts: dict[str, int]
    detected: dict[str, str | None]
    quarantine: Quarantine

    def __len__(self) -> int:
        return len(self.groups)

    @functools.cached_property
    def fingerprint(self) -> str:
        """Fingerprint of tokens, targets and values.

        It changes with the tokenizer, the template, the limit and the files.
        """
        digest = hashlib.sha256()
        for group in self.groups:
            for tokens, mask in group:
                digest.update(len(tokens).to_bytes(4, "little"))
                digest.update(np.asarray(tokens, np.int32).tobytes())
                digest.update(np.asarray(mask, np.uint8).tobytes())
        digest.update(np.ascontiguousarray(self.values).tobytes())
        return digest.hexdigest()

    def with_share(self, other: "Examples", share: float, seed: int) -> "Examples":
        """Appends so many of other examples that they are a share of all.

        Args:
          other: examples of the same kind.
          share: share of the other examples in [0, 1); the report's general SFT has 2 %
            of the code SFT's rows.
          seed: seed of the choice.

        Raises:
          UserError: a share outside of [0, 1).
        """
        if not 0 <= share < 1:
            raise UserError(f"share={share} is outside of [0, 1)")
        wanted = round(len(self) * share / (1 - share))
        taken = epoch_order(seed, 0, len(other))[:wanted]
        return Examples(
            self.groups + [other.groups[index] for index in taken],
            self.prompts + [other.prompts[index] for index in taken],
            np.concatenate([self.values, other.values[taken]]),
            self.counts | {"replayed": len(taken)},
            self.detected | other.detected,
            self.quarantine,
        )


def demonstrations(tokenizer: TextTokenizer, template: ChatTemplate) -> Encode:
    """Encodes conversations: all answers are trained that are not only context."""

    def encode(record: Any):
        _expect(record, Conversation)
        tokens, mask = template.encode(tokenizer, record)
        if not any(mask):
            raise DataError("no token to train on")
        return [(tokens, mask)], ()

    return encode


def preferences(
    tokenizer: TextTokenizer,
    template: ChatTemplate,
    *,
    needs_rewards: bool = False,
    default_rewards: tuple[float, float] | None = None,
    min_chosen_reward: float | None = None,
) -> Encode:
    """Encodes pairs: of each response its tokens alone are trained.

    Args:
      tokenizer: tokenizer of the model.
      template: template of the model.
      needs_rewards: whether a pair without rewards is an error (RPO).
      default_rewards: rewards of the chosen and the rejected response of such a pair.
      min_chosen_reward: a pair whose chosen response has less is left out.
    """

    def encode(record: Any):
        _expect(record, PreferencePair)
        rewards = record.chosen_reward, record.rejected_reward
        if None in rewards:
            rewards = default_rewards or (math.nan, math.nan)
        if needs_rewards and math.isnan(rewards[0]):
            raise DataError(
                "no rewards, which RPO needs: score the pairs with "
                "experiments.score and say --rewards=FOLDER, or say "
                "--default_chosen_reward=1 --default_rejected_reward=0"
            )
        if min_chosen_reward is not None and not rewards[0] >= min_chosen_reward:
            if math.isnan(rewards[0]):
                raise DataError("no reward, which --min_chosen_reward needs")
            raise _Skip("chosen", quarantine.BELOW_THRESHOLD)
        return [
            template.encode_response(tokenizer, record.prompt, text)
            for text in (record.chosen, record.rejected)
        ], (*rewards, math.nan if record.margin is None else record.margin)

    return encode


def labelled(tokenizer: TextTokenizer, template: ChatTemplate) -> Encode:
    """Encodes labelled responses, up to the token at which rewards are read."""

    def encode(record: Any):
        _expect(record, AttributeLabels)
        return [_scored(tokenizer, template, record.conversation)], record.labels

    return encode


def compared(
    tokenizer: TextTokenizer, template: ChatTemplate, *, needs_margin: bool = False
) -> Encode:
    """Encodes pairs for a reward model; their value is the margin, 0 where no matter.

    Args:
      tokenizer: tokenizer of the model.
      template: template of the model.
      needs_margin: whether a pair without a margin is an error.
    """

    def encode(record: Any):
        _expect(record, PreferencePair)
        if needs_margin and record.margin is None:
            raise DataError(
                "no margin, nor the strength of a preference: leave out pairs without, "
                "or say --pairwise=plain"
            )
        texts = (record.chosen, record.rejected)
        talks = [record.prompt.with_response(text) for text in texts]
        value = record.margin if needs_margin else 0.0
        return [_scored(tokenizer, template, talk) for talk in talks], (value,)

    return encode


def _scored(
    tokenizer: TextTokenizer, template: ChatTemplate, conversation: Conversation
) -> TokenSequence:
    tokens = template.encode_for_reward(tokenizer, conversation)
    return tokens, [0] * len(tokens)


_KINDS = {
    Conversation: "conversations",
    PreferencePair: "preference pairs",
    AttributeLabels: "attribute labels",
}


def _expect(record: Any, kind: type) -> None:
    if not isinstance(record, kind):
        found = _KINDS.get(type(record), f"a {type(record).__name__}")
        raise DataError(
            f"holds {found}, this stage takes {_KINDS[kind]}: "
            "see experiments.convert_data"
        )


class _Skip(ValueError):
    """A sound row that is left out."""

    def __init__(self, field: str, reason: str):
        super().__init__(reason)
        self.field = field


def read(
    paths: Iterable[files.PathLike],
    encode: Encode,
    *,
    length: int,
    max_bad_fraction: float = 0.05,
    values: int = 0,
    rewards: Rewards | None = None,
) -> Examples:
    """Reads all rows of data files.

    Args:
      paths: files and folders.
      encode: function that makes an example of a record.
      length: most tokens of a sequence.
      max_bad_fraction: largest share of the rows that may be malformed.
      values: number of values of an example.
      rewards: rewards of pairs, instead of those in the files; a pair that has none
        there, being too long to be scored for one, is left out.

    Raises:
      DataError: a file is unreadable or holds another kind of records, too many rows
        are malformed, a row misses what the stage needs, or no example is left.
    """
    detected: dict[str, str | None] = {}

    def outcomes():
        for path in files.list_files(paths):
            opened = formats.open_file(path)
            detected[str(path)] = opened.format
            yield from _outcomes(opened, encode, length, rewards)

    return _collected(outcomes(), detected, max_bad_fraction, values)


def of_records(
    records: Iterable[Any],
    encode: Encode,
    *,
    name: str,
    length: int,
    max_bad_fraction: float = 1.0,
    values: int = 0,
) -> Examples:
    """Makes examples of records in memory.

    Args:
      records: records of the kind that `encode` takes, or rows that give such, as
        dicts.
      encode: function that makes an example of a record.
      name: name of the records, in messages.
      length: most tokens of a sequence; longer examples are left out and counted.
      max_bad_fraction: largest share of the records that may be malformed.
      values: number of values of an example.

    Raises:
      DataError: a record is of another kind, too many are malformed, or no example is
        left.
    """
    opened = formats.in_memory(records, name)
    outcomes = _outcomes(opened, encode, length, None)
    return _collected(outcomes, {name: opened.format}, max_bad_fraction, values)


def _collected(
    outcomes: Iterable[BadRow | tuple[list[TokenSequence], Sequence[float], str]],
    detected: dict[str, str | None],
    max_bad_fraction: float,
    values: int,
) -> Examples:
    found = Examples([], [], np.zeros((0, values)), {}, detected, Quarantine())
    kept: list[Sequence[float]] = []
    rows = 0
    for outcome in outcomes:
        rows += 1
        if isinstance(outcome, BadRow):
            found.quarantine.add(outcome)
            continue
        group, numbers, prompt = outcome
        found.groups.append(group)
        found.prompts.append(prompt)
        kept.append(numbers)
    found.quarantine.check(rows, max_bad_fraction)
    reasons = found.quarantine.counts
    found.counts = {"rows": rows, "examples": len(kept), **reasons}
    if not kept:
        names = ", ".join(detected)
        told = ", ".join(f"{why} ({n})" for why, n in [*reasons.items()][:3])
        raise DataError(f"{names}: no row can be trained on: {told or 'there is none'}")
    found.values = np.array(kept, np.float32).reshape(len(kept), values)
    return found


def _outcomes(
    opened: formats.RecordFile, encode: Encode, length: int, rewards: Rewards | None
) -> Iterator[BadRow | tuple[list[TokenSequence], Sequence[float], str]]:
    for item in opened.rows:
        if isinstance(item, BadRow):
            yield item
            continue
        row, record = item
        if rewards is not None and isinstance(record, PreferencePair):
            found = rewards.get((row.file, row.row))
            if found is None:
                yield row.reject("", quarantine.NOT_SCORED)
                continue
            record = dataclasses.replace(
                record, chosen_reward=found[0], rejected_reward=found[1]
            )
        yield _example(row, record, encode, length)


def _example(row: Row, record: Any, encode: Encode, length: int):
    try:
        group, values = encode(record)
    except DataError as error:
        raise DataError(f"{row.file}, row {row.row}: {error}") from error
    except _Skip as skipped:
        return row.reject(skipped.field, str(skipped))
    except ValueError as error:
        return row.reject("", str(error))
    longest = max(len(tokens) for tokens, _ in group)
    if longest > length:
        return row.reject("", quarantine.TOO_LONG)
    arrays = [
        (np.array(tokens, np.int32), np.array(mask, np.uint8)) for tokens, mask in group
    ]
    return arrays, values, records.conversation_of(record).opening


def split(examples: Examples, share: float) -> tuple[Examples, Examples]:
    """Splits off the examples whose prompts are held out, to measure on.

    Args:
      examples: all examples.
      share: share of the prompts, see `held_out.is_held_out`.

    Raises:
      UserError: one of the sides is empty.
    """
    held = [is_held_out(prompt, share) for prompt in examples.prompts]
    if all(held) or not any(held):
        raise UserError(
            f"{len(set(examples.prompts))} prompts are too few to hold {share:.1%} out"
        )
    sides = [np.flatnonzero(np.array(held) == side).tolist() for side in (0, 1)]
    return _taken(examples, sides[0]), _taken(examples, sides[1])


def _taken(examples: Examples, indices: list[int]) -> Examples:
    return dataclasses.replace(
        examples,
        groups=[examples.groups[index] for index in indices],
        prompts=[examples.prompts[index] for index in indices],
        values=examples.values[indices],
        counts=examples.counts | {"examples": len(indices)},
    )
