"""A trained model as the later stages see it: something that answers, or scores."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nemojax.data.records import Conversation
from nemojax.data.text import nemotron_template
from nemojax.data.text.chat_template import ChatTemplate
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.generation.generators import PolicyGenerator, Response
from nemojax.inference.dense.engine import Engine, Sample
from nemojax.inference.scoring import scoring
from nemojax.models.config import ModelConfig


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model that answers conversations.

    Attributes:
      name: recorded beside what it generates.
      config, params, mesh: the model and where it runs.
      tokenizer, template: how conversations become tokens.
      max_prompt_tokens, max_new_tokens: limits of a request.
    """

    name: str
    config: ModelConfig
    params: Any
    mesh: Mesh
    tokenizer: Tokenizer
    template: ChatTemplate
    max_prompt_tokens: int = 64
    max_new_tokens: int = 56

    @functools.cached_property
    def _engine(self) -> Engine:
        return Engine(
            self.config,
            self.params,
            self.mesh,
            nemotron_template.stop_id(self.tokenizer),
            max_prompt_tokens=self.max_prompt_tokens,
            max_new_tokens=self.max_new_tokens,
        )

    @property
    def generator(self) -> PolicyGenerator:
        """This policy as a generator of synthetic data."""
        return PolicyGenerator(self.name, self.respond)

    def respond(
        self, conversations: Sequence[Conversation], temperature: float, seed: int
    ) -> list[Response]:
        """One answer to each conversation, each with a random stream of its own."""
        prompts = [
            self.template.encode_prompt(self.tokenizer, conversation)
            for conversation in conversations
        ]
        return [
            Response(
                nemotron_template.response_text(
                    self.tokenizer, self._with_text(sample.tokens)
                ),
                "stop" if sample.finish_reason == "stop" else "length",
                len(sample.tokens),
            )
            for sample in self.sample(prompts, temperature, seed)
        ]

    def complete(
        self, prompts: Sequence[Sequence[int]], stop_id: int
    ) -> list[list[int]]:
        """Greedy continuations of token prompts up to `stop_id` (without it)."""
        engine = dataclasses.replace(self._engine, stop_id=stop_id)
        samples = engine.sample(prompts, temperature=0.0, seeds=[0] * len(prompts))
        return [self._with_text(sample.tokens) for sample in samples]

    def _with_text(self, tokens: Sequence[int]) -> list[int]:
        """Without the ids that round the model's vocabulary up: no text is theirs."""
        return [token for token in tokens if token < self.tokenizer.vocab_size]

    def sample(
        self, prompts: Sequence[Sequence[int]], temperature: float, seed: int
    ) -> list[Sample]:
        """Continuations of token prompts, up to the template's stop token."""
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts), np.uint32)
        return self._engine.sample(
            prompts, temperature=temperature, seeds=[int(value) for value in seeds]
        )


@dataclasses.dataclass(frozen=True)
class RewardScorer:
    """A reward model that scores conversations.

    Attributes:
      config, params, mesh: the model, with a reward head.
      tokenizer, template: how conversations become tokens.
      rows, length: shape of a packed batch; longer conversations are refused.
    """

    config: ModelConfig
    params: Any
    mesh: Mesh
    tokenizer: Tokenizer
    template: ChatTemplate
    rows: int = 32
    length: int = 120

    def attributes(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """float32 [N, K] values, read at the trailing control token.

        Raises:
          ValueError: a conversation longer than `length` tokens; names its index.
        """
        tokens = [
            self.template.encode_for_reward(self.tokenizer, conversation)
            for conversation in conversations
        ]
        for index, sequence in enumerate(tokens):
            if len(sequence) > self.length:
                raise ValueError(
                    f"conversation {index} has {len(sequence)} tokens, "
                    f"the scorer takes {self.length}"
                )
        return scoring.score_rewards(
            self.config,
            self.params,
            tokens,
            mesh=self.mesh,
            rows=self.rows,
            length=self.length,
        )
