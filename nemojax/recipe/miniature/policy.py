"""A trained model as the later stages use it: a policy, or a reward model."""

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
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.outputs import Completion
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import scorer
from nemojax.inference.scoring.scorer import Scorer
from nemojax.interop.loading import LoadedModel
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
        sizes = configs.batch(
            self.max_prompt_tokens, self.max_new_tokens, data=self.mesh.shape["data"]
        )
        return Engine(self.config, self.params, self.mesh, sizes)

    @property
    def generator(self) -> PolicyGenerator:
        """This policy as a generator of synthetic data."""
        return PolicyGenerator(self.name, self.respond)

    def respond(
        self, conversations: Sequence[Conversation], temperature: float, seed: int
    ) -> list[Response]:
        """Generates a response to each conversation, each with its own random stream.

        Args:
          conversations: that end with a user turn.
          temperature: 0 is greedy.
          seed: of all random streams.
        """
        prompts = [
            self.template.encode_prompt(self.tokenizer, conversation)
            for conversation in conversations
        ]
        stop_id = nemotron_template.stop_id(self.tokenizer)
        seeds = np.random.SeedSequence(seed).generate_state(len(prompts), np.uint32)
        found = []
        for one in self._sample(prompts, stop_id, temperature, seeds.tolist()):
            tokens = self._with_text(one.tokens, stop_id)
            text = nemotron_template.response_text(self.tokenizer, tokens)
            reason = "stop" if one.finish_reason == "stop" else "length"
            found.append(Response(text, reason, len(one.tokens) - (reason == "stop")))
        return found

    def complete(
        self, prompts: Sequence[Sequence[int]], stop_id: int
    ) -> list[list[int]]:
        """Generates greedy continuations of token prompts up to `stop_id`, without it.

        Ids that only round the model's vocabulary up are left out.
        """
        found = self._sample(prompts, stop_id, 0.0, [0] * len(prompts))
        return [self._with_text(one.tokens, stop_id) for one in found]

    def _sample(
        self,
        prompts: Sequence[Sequence[int]],
        stop_id: int,
        temperature: float,
        seeds: Sequence[int],
    ) -> list[Completion]:
        shared = Sampling(
            temperature, max_tokens=self.max_new_tokens, stop_ids=(stop_id,)
        )
        each = [dataclasses.replace(shared, seed=seed) for seed in seeds]
        return self._engine.generate(prompts, each)

    def _with_text(self, tokens: Sequence[int], stop_id: int) -> list[int]:
        """Drops the stop token and the ids that round the vocabulary up."""
        if tokens and tokens[-1] == stop_id:
            tokens = tokens[:-1]
        return [token for token in tokens if token < self.tokenizer.vocab_size]


@dataclasses.dataclass(frozen=True)
class RewardScorer:
    """A reward model that scores conversations.

    Attributes:
      config, params, mesh: the model, with a reward head.
      tokenizer, template: how conversations become tokens.
      length: tokens of the longest conversation; longer ones are refused.
    """

    config: ModelConfig
    params: Any
    mesh: Mesh
    tokenizer: Tokenizer
    template: ChatTemplate
    length: int = 120

    @functools.cached_property
    def _scorer(self) -> Scorer:
        model = LoadedModel(
            "reward model",
            self.config,
            self.params,
            self.mesh,
            self.tokenizer,
            self.template,
            (),
            (),
        )
        return Scorer(model, scorer.Settings(scorer.REWARDS, self.length))

    def attributes(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """Returns float32 [N, K] values, read at the trailing control token.

        Raises:
          ValueError: a conversation longer than `length` tokens; names its index.
        """
        return self._scorer.values(conversations)
