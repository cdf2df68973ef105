"""Rows of a data folder as tokens: the tokenizer, the blend, what fits the context."""

import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np

from nemojax.data.batching import batches as data_batches
from nemojax.data.batching import packing
from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.corpus import Document
from nemojax.data.records import Conversation, PreferencePair
from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.nemotron_template import NemotronTemplate
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.io.files import DataError
from nemojax.recipe.folder.material import Counts, Material, spread
from nemojax.recipe.folder.settings import Settings

TEMPLATE = NemotronTemplate(system_header=False, bos=True)
SFT_SETS = ("code_sft", "general_sft")
PAIR_SETS = ("preferences", "reward_pairs")


@dataclasses.dataclass(frozen=True)
class Fitted:
    """The rows that fit the context, by set.

    Attributes:
      demonstrations, held_out: encoded conversations of `SFT_SETS`; a few rows of the
        code stage are in the general one, too.
      pairs, held_out_pairs: of `PAIR_SETS`.
      counts: what became of the training rows of each set.
    """

    demonstrations: dict[str, list[packing.TokenSequence]]
    held_out: dict[str, list[packing.TokenSequence]]
    pairs: dict[str, list[PreferencePair]]
    held_out_pairs: dict[str, list[PreferencePair]]
    counts: dict[str, Counts]


def fit(settings: Settings, material: Material, tokenizer: Tokenizer) -> Fitted:
    """Encodes all rows and leaves out, and counts, those longer than a row.

    Raises:
      files.DataError: a stage is left without rows.
    """
    found = Fitted({}, {}, {}, {}, {})
    for name in SFT_SETS:
        split = getattr(material, name)
        rows, too_long = fitting_examples(tokenizer, split.train, settings.length)
        measured, _ = fitting_examples(tokenizer, split.held_out, settings.length)
        found.demonstrations[name] = rows
        found.held_out[name] = spread(measured, settings.held_out_rows)
        found.counts[name] = split.counts | {"too_long": too_long}
    replay = _replay(settings, *(found.demonstrations[name] for name in SFT_SETS))
    found.demonstrations["general_sft"] += replay
    found.counts["general_sft"]["from_code_stage"] = len(replay)
    for name in PAIR_SETS:
        split = getattr(material, name)
        limits = (settings.length, settings.long_pair)
        pairs, counts = fitting_pairs(tokenizer, split.train, *limits)
        measured, _ = fitting_pairs(tokenizer, split.held_out, *limits)
        found.pairs[name] = spread(pairs, settings.max_pairs)
        found.held_out_pairs[name] = spread(measured, settings.held_out_pairs)
        counts["over_the_cap"] = len(pairs) - len(found.pairs[name])
        found.counts[name] = split.counts | counts
    for name in (*SFT_SETS, *PAIR_SETS):
        rows = found.demonstrations.get(name) or found.pairs.get(name, ())
        found.counts[name]["trained"] = len(rows)
    _check(settings, found)
    return found


def _replay(settings: Settings, code: list, general: list) -> list:
    order = data_batches.epoch_order(settings.seed, 0, len(code))
    return [code[index] for index in order[: int(settings.code_share * len(general))]]


def _check(settings: Settings, found: Fitted) -> None:
    """Raises DataError if a stage has nothing to train on or to measure."""
    sets = {**found.demonstrations, "preferences": found.pairs["preferences"]}
    held_out = {**found.held_out, "preferences": found.held_out_pairs["preferences"]}
    for what, rows_of in (("training in", sets), ("measuring", held_out)):
        for name, rows in rows_of.items():
            if not rows:
                raise DataError(
                    f"no row is left for {what} {name.replace('_', ' ')}: none fits "
                    f"{settings.length} tokens; add more or shorter rows."
                )


def train_tokenizer(settings: Settings, material: Material) -> Tokenizer:
    """SentencePiece BPE on a sample of the pretraining blend.

    Raises:
      files.DataError: the text is too small or too varied for the vocabulary.
    """
    blend = _blend(settings, material, "tokenizer", settings.tokenizer_bytes)
    try:
        return tokenizers.train(
            (document.text for document in blend), vocab_size=settings.vocab_size
        )
    except ValueError as error:
        raise DataError(f"pretrain/: {error}; add more text.") from error


def pretraining_rows(
    settings: Settings, material: Material, tokenizer: Tokenizer
) -> tuple[np.ndarray, Counts]:
    """Rows int32 [N, length] of the blend, and bytes of text by class."""
    texts: list[list[int]] = []
    tokens = 0
    counts = dict.fromkeys(corpus.BLEND, 0)
    # A token is at least one byte, save the one that begins a document.
    bytes_needed = settings.pretrain_tokens * 16
    for document in _blend(settings, material, "pretrain", bytes_needed):
        texts.append(tokenizer.encode(document.text))
        counts[document.text_class] += corpus.utf8_bytes(document.text)
        tokens += len(texts[-1]) + 1
        if tokens >= settings.pretrain_tokens + settings.length:
            break
    rows = packing.pack_documents(
        texts, length=settings.length, bos_id=tokenizer.bos_id
    )
    return rows[: settings.pretrain_tokens // settings.length], counts


def _blend(
    settings: Settings, material: Material, name: str, total_bytes: int
) -> Iterator[Document]:
    seeds = np.random.SeedSequence([settings.seed, *name.encode()])
    return corpus.sample_blend(
        material.documents, corpus.BLEND, np.random.default_rng(seeds), total_bytes
    )


def fitting_examples(
    tokenizer: Tokenizer, rows: Sequence[Conversation], length: int
) -> tuple[list[packing.TokenSequence], int]:
    """Encoded demonstrations of at most `length` tokens, and the number of longer."""
    kept: list[packing.TokenSequence] = []
    for row in rows:
        example = TEMPLATE.encode(tokenizer, row)
        if len(example[0]) <= length:
            kept.append(example)
    return kept, len(rows) - len(kept)


def fitting_pairs(
    tokenizer: Tokenizer,
    pairs: Sequence[PreferencePair],
    length: int,
    long_pair: int,
) -> tuple[list[PreferencePair], Counts]:
    """Pairs of which both responses fit; a long dialogue loses its oldest turns.

    Turns are dropped by two, a user's and the answer to it, equally for both
    responses, until neither has more than `long_pair` tokens or one turn is left. A
    pair that then has more than `length` tokens is left out.

    Returns:
      The pairs, and the counts `shortened` and `too_long`.
    """
    kept = []
    counts = {"shortened": 0, "too_long": 0}
    for pair in pairs:
        shorter, tokens = pair, _tokens(tokenizer, pair)
        while tokens > long_pair and (dropped := _without_oldest(shorter)):
            shorter, tokens = dropped, _tokens(tokenizer, dropped)
        if tokens > length:
            counts["too_long"] += 1
            continue
        counts["shortened"] += shorter is not pair
        kept.append(shorter)
    return kept, counts


def _tokens(tokenizer: Tokenizer, pair: PreferencePair) -> int:
    """Of the longer response, with the prompt."""
    return max(
        len(TEMPLATE.encode_response(tokenizer, pair.prompt, text)[0])
        for text in (pair.chosen, pair.rejected)
    )


def _without_oldest(pair: PreferencePair) -> PreferencePair | None:
    """The pair without its first user turn and the answer; None if it has no other."""
    messages = pair.prompt.messages
    system = messages[:1] if messages[0].role == "system" else ()
    turns = messages[len(system) + 2 :]
    if not turns:
        return None
    return dataclasses.replace(pair, prompt=Conversation((*system, *turns)))
