"""The miniature world as training data: documents, labels, demonstrations, pairs."""

import dataclasses
import math
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np

from nemojax import losses
from nemojax.data.batching import batches, examples
from nemojax.data.batching.batches import Batch
from nemojax.data.batching.examples import Examples
from nemojax.data.records import AttributeLabels, Conversation
from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.generation import generators
from nemojax.generation.generators import Generator, Request, ScriptedGenerator
from nemojax.interop.loading import LoadedModel
from nemojax.io import sealed
from nemojax.io.journal import Journal, JournalRow
from nemojax.recipe.miniature import policy
from nemojax.recipe.miniature.settings import LENGTH, MiniatureSettings
from nemojax.reporting import statistics
from nemojax.sdg import filters
from nemojax.tasks.miniature import (
    annotator,
    closed_book,
    fact_tasks,
    tasks,
    teachers,
    text,
)
from nemojax.tasks.miniature.grading import Task
from nemojax.tasks.miniature.teachers import ScriptedTeacher

EXTRA_PIECES = ("System", "User", "Assistant", "####")
# At least this share of the prompts has an answer that the reward filter lets through.
PROMPTS_KEPT = 0.75
FILTER_WEIGHTS = losses.ATTRIBUTE_WEIGHTS["nemotron4_340b"]

# A task with a response, and whether the response is right.
Answered = tuple[Task, str]


def stream(settings: MiniatureSettings, name: str) -> random.Random:
    """Returns a stage's random stream, independent of what other stages drew."""
    return random.Random(f"miniature/{settings.seed}/{name}")


def train_tokenizer(settings: MiniatureSettings) -> Tokenizer:
    """Trains SentencePiece BPE on pretraining text and training prompts."""
    rng = stream(settings, "tokenizer")
    texts = text.sample_documents(rng, 12_000, phase=1)
    for task in tasks.sample_tasks(rng, "train", 2_000):
        texts += [task.prompt, task.gold(rng)]
    return tokenizers.train(
        texts,
        vocab_size=settings.vocab_size,
        control_pieces=3,
        extra_pieces=EXTRA_PIECES,
        byte_fallback=False,
        dummy_prefix=True,
        character_coverage=1.0,
    )


def pretraining_batches(
    settings: MiniatureSettings, tokenizer: Tokenizer, batch: int
) -> tuple[list[Batch], dict[str, int]]:
    """Makes the batches of both phases in order, and counts their tokens by class.

    Documents end with EOS and do not attend to each other, which small models learn
    from faster.
    """
    second = int(settings.pretrain_tokens * settings.second_phase)
    parts, counts = [], dict.fromkeys(text.CLASS_WEIGHTS, 0)
    for phase, budget in ((1, settings.pretrain_tokens - second), (2, second)):
        rng = stream(settings, f"documents-{phase}")
        tokens: list[int] = []
        while len(tokens) < budget:
            for name, document in text.sample_labelled_documents(rng, 2_000, phase):
                found = [*tokenizer.encode(document), tokenizer.eos_id]
                counts[name] += len(found)
                tokens += found
        size = budget // LENGTH * LENGTH
        parts.append(np.array(tokens[:size], np.int32).reshape(-1, LENGTH))
    rows = np.concatenate(parts)
    return [
        batches.from_documents(rows[start : start + batch], tokenizer.eos_id)
        for start in range(0, len(rows) - batch + 1, batch)
    ], counts


def evaluation_tasks(settings: MiniatureSettings) -> list[Task]:
    """Returns `eval_tasks` held-out tasks a family, and each held-out fact once."""
    rng = stream(settings, "evaluation")
    found: list[Task] = []
    for family in ("math", "code", "instruction"):
        found += [
            tasks.sample_task(family, rng, "test") for _ in range(settings.eval_tasks)
        ]
    return found + list(fact_tasks.all_tasks("test"))


def annotated(
    rng: random.Random, answered: Sequence[Answered]
) -> list[AttributeLabels]:
    """Returns HelpSteer2-like labels of responses."""
    return [
        AttributeLabels(
            Conversation.of(task.prompt, response),
            annotator.annotate(task, response, rng),
        )
        for task, response in answered
    ]


def teacher_responses(
    rng: random.Random,
    prompts: int,
    split: str,
    weights: Mapping[str, float] | None = None,
) -> list[Answered]:
    """Returns two responses a prompt by teachers of all kinds and strengths."""
    found = []
    for task in tasks.sample_tasks(rng, split, prompts, weights):
        for _ in range(2):
            if rng.random() < 0.15:
                response = teachers.weak_answer(task, rng)
            else:
                errors = rng.choice(("random", "random", "systematic"))
                strength = rng.choice((0.3, 1.0, 1.0, 2.0))
                response = ScriptedTeacher(errors, strength).answer(task, rng)
            found.append((task, response))
    return found


def generator_responses(
    generator: Generator, found: Sequence[Task], samples: int, seed: int
) -> list[list[str]]:
    """Samples a generator at temperature 1: [N][K] texts."""
    prompts = [Conversation.of(task.prompt) for task in found]
    responses = generators.sample(
        generator, prompts, samples=samples, temperature=1.0, seed=seed
    )
    return [[response.text for response in row] for row in responses]


def teacher_generator(teacher: ScriptedTeacher, found: Sequence[Task]) -> Generator:
    """Wraps the scripted teacher as a generator for these tasks in order."""

    def answer(request: Request, rng: random.Random) -> str:
        index, _, _ = request.id.partition("/")
        return teacher.answer(found[int(index)], rng)

    return ScriptedGenerator(f"teacher-{teacher.errors}", answer)


def demonstrations(
    settings: MiniatureSettings,
    weights: Mapping[str, float],
    count: int,
    name: str,
    scorer: LoadedModel | None,
    directory: Path,
) -> tuple[list[Answered], dict[str, Any]]:
    """Returns teacher answers, the better ones of them by the reward model.

    As in the report (section 3.2.2) an answer has to reach a threshold, here that of
    the best `keep` of its family. Of a prompt's answers that do, one is drawn: the
    best of them would be the reward model's favourite words time and again.
    Ground truth is only read for the statistics, never for the choice. Without a
    scorer the first answer is taken and nothing is dropped: the control row.

    Returns:
      `count` rows, fewer if fewer have an answer that passes, and by family how many of
      a prompt's answers are right, of all of them and of those that pass.
    """
    rng = stream(settings, name)
    prompts = math.ceil(count / PROMPTS_KEPT) if scorer else count
    found = tasks.sample_tasks(rng, "train", prompts, weights)
    teacher = scripted_teacher(settings)
    generator = teacher_generator(teacher, found)
    texts = generator_responses(
        generator, found, settings.teacher_samples, rng.randrange(2**31)
    )
    passed = np.ones((len(found), settings.teacher_samples), bool)
    thresholds: dict[str, float] = {}
    if scorer is None:
        passed[:, 1:] = False
    else:
        rewards = score(scorer, found, texts)
        families = np.repeat([task.family for task in found], rewards.shape[1])
        top = filters.keep_top_share(rewards.ravel(), list(families), settings.keep)
        passed, thresholds = top.keep.reshape(rewards.shape), top.thresholds
    rows = [
        (task, rng.choice([text for text, ok in zip(row, good, strict=True) if ok]))
        for task, row, good in zip(found, texts, passed, strict=True)
        if good.any()
    ][:count]
    _write_journal(directory / f"{name}.jsonl", name, generator.name, rows)
    found_statistics = {
        family: {
            **_accuracy(found, texts, passed, family),
            "rows": sum(task.family == family for task, _ in rows),
            "threshold": thresholds.get(family),
        }
        for family in weights
    }
    return rows, found_statistics


def score(
    scorer: LoadedModel, found: Sequence[Task], texts: Sequence[Sequence[str]]
) -> np.ndarray:
    """Aggregates rewards [N, K] with the published weights of the 340B model."""
    flat = [
        Conversation.of(task.prompt, answer)
        for task, row in zip(found, texts, strict=True)
        for answer in row
    ]
    attributes = policy.attributes(scorer, flat).astype(np.float64)
    return losses.aggregate(attributes, FILTER_WEIGHTS).reshape(len(found), -1)


def save_demonstrations(path: Path, rows: Sequence[Answered]) -> None:
    """Writes [prompt, answer] rows."""
    sealed.write(path, {"rows": [[task.prompt, answer] for task, answer in rows]})


def load_demonstrations(path: Path) -> list[tuple[str, str]]:
    """Reads (prompt, answer) rows."""
    return [(prompt, answer) for prompt, answer in sealed.read(path)["rows"]]


def scripted_teacher(settings: MiniatureSettings) -> ScriptedTeacher:
    """Returns the teacher that the settings name."""
    return ScriptedTeacher(cast(teachers.Errors, settings.teacher))


def general_examples(
    settings: MiniatureSettings,
    tokenizer: Tokenizer,
    rows: Sequence[tuple[str, str]],
    code_rows: Sequence[tuple[str, str]],
) -> Examples:
    """Makes the general SFT blend: demonstrations, code replay, facts, documents."""
    rng, count = stream(settings, "general-blend"), len(rows)
    grounded = closed_book.grounded_fact_rows(rng, int(settings.grounded_share * count))
    found = sft_examples(
        tokenizer, [*rows, *((row.prompt, row.answer) for row in grounded)]
    )
    code = sft_examples(tokenizer, code_rows)
    found = found.with_share(code, settings.code_share, settings.seed)
    documents = closed_book.replay_documents(rng, int(settings.replay_share * count))
    groups = []
    for document in documents:
        tokens = [*tokenizer.encode(document), tokenizer.eos_id]
        groups.append([(tokens, [0] + [1] * (len(tokens) - 1))])
    return dataclasses.replace(
        found,
        groups=found.groups + groups,
        prompts=found.prompts + documents,
        values=np.zeros((len(found) + len(groups), 0), np.float32),
        counts=found.counts | {"documents": len(groups)},
    )


def sft_examples(tokenizer: Tokenizer, rows: Sequence[tuple[str, str]]) -> Examples:
    """Makes the examples of (prompt, answer) rows."""
    return examples.of_records(
        [Conversation.of(*row) for row in rows],
        examples.demonstrations(tokenizer, NEMOTRON),
        name="demonstrations",
        length=LENGTH,
    )


def _accuracy(
    found: Sequence[Task],
    texts: Sequence[Sequence[str]],
    passed: np.ndarray,
    family: str,
) -> dict[str, Any]:
    """Computes the mean share of right answers a prompt, of all and of those kept."""
    raw, kept = [], []
    for task, row, good in zip(found, texts, passed, strict=True):
        if task.family == family:
            right = np.array([task.grade(text).correct for text in row])
            raw.append(right.mean())
            if good.any():
                kept.append(right[good].mean())
    values = {"raw": raw, "kept": kept}
    return {
        name: statistics.mean(v).to_json() if v else None for name, v in values.items()
    }


def _write_journal(
    path: Path, stage: str, model: str, rows: Sequence[Answered]
) -> None:
    with Journal(path) as journal:
        unique: dict[str, JournalRow] = {}
        for task, answer in rows:
            content = {"prompt": task.prompt, "response": answer}
            row = JournalRow(stage=stage, content=content, model=model)
            if row.id not in journal:
                unique[row.id] = row
        journal.append(unique.values())
