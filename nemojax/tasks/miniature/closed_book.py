"""Rows that keep known facts alive while a model is aligned."""

import dataclasses
import random

from nemojax.tasks.miniature import english, fact_tasks, text, world


@dataclasses.dataclass(frozen=True)
class GroundedRow:
    """A question made from a document, with the answer the document gives.

    Attributes:
      document: pretraining text that states the fact.
      task: the question, on the training side.
      prompt: the question alone, to be answered from memory.
      answer: the true answer.
    """

    document: str
    task: fact_tasks.FactTask
    prompt: str
    answer: str


def grounded_fact_rows(rng: random.Random, n: int) -> list[GroundedRow]:
    """Returns ``n`` closed Q&A rows about facts that training may ask for."""
    rows = []
    for _ in range(n):
        task = fact_tasks.sample(rng, "train")
        document = english.fact_statement(rng, task.country, task.attribute)
        rows.append(GroundedRow(document, task, task.prompt, task.answer))
    return rows


def replay_documents(rng: random.Random, n: int, fact_share: float = 0.5) -> list[str]:
    """Returns ``n`` plain pretraining documents to be mixed into later training.

    Args:
      rng: the source of randomness.
      n: the number of documents.
      fact_share: the share that states facts about countries (of all of them, as in
        pretraining); the rest is text of the second phase.
    """
    documents = []
    for _ in range(n):
        if rng.random() < fact_share:
            country = rng.choice(world.COUNTRIES)
            attribute = rng.choice(tuple(world.ATTRIBUTES))
            documents.append(english.fact_statement(rng, country, attribute))
        else:
            documents += text.sample_documents(rng, 1, phase=2)
    return documents
