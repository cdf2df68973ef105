"""A trained model as the later stages see it: something that answers, or scores."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import numpy as np
from jax.sharding import Mesh

from nemojax.data.records import Conversation
from nemojax.data.text import nemotron_template
from nemojax.data.text.chat_template import ChatTemplate
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.generation.generators import Request, Response
from nemojax.inference.dense.engine import Engine
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

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """See `Generator.generate`; those of one temperature are answered at once."""
        by_temperature: dict[float, list[Request]] = {}
        for request in requests:
            by_temperature.setdefault(request.temperature, []).append(request)
        for temperature, group in by_temperature.items():
            prompts = [
                self.template.encode_prompt(self.tokenizer, request.prompt)
                for request in group
            ]
            seeds = [request.sampling_seed for request in group]
            samples = self._engine.sample(prompts, temperature=temperature, seeds=seeds)
            for request, sample in zip(group, samples, strict=True):
                text = nemotron_template.response_text(
                    self.tokenizer, self._with_text(sample.tokens)
                )
                reason = "stop" if sample.finish_reason == "stop" else "length"
                yield Response(request.id, text, reason, len(sample.tokens))

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
