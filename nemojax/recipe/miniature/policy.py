"""A trained model as the later stages use it: it responds, or it scores."""

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from nemojax.data.records import Conversation
from nemojax.data.text import nemotron_template
from nemojax.generation.generators import Request, Response
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.outputs import Completion
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import scorer
from nemojax.inference.scoring.scorer import Scorer
from nemojax.interop.loading import LoadedModel


@dataclasses.dataclass(frozen=True)
class Policy:
    """A model that answers conversations: a generator of synthetic data.

    Attributes:
      model: The model, with its tokenizer.
      max_prompt_tokens: Tokens of a prompt.
      max_new_tokens: Tokens of a response.
    """

    model: LoadedModel
    max_prompt_tokens: int = 72
    max_new_tokens: int = 48

    @property
    def name(self) -> str:
        """The model's name, which is recorded beside what it generates."""
        return self.model.name

    @functools.cached_property
    def _engine(self) -> Engine:
        model = self.model
        sizes = configs.batch(
            self.max_prompt_tokens, self.max_new_tokens, data=model.mesh.shape["data"]
        )
        return Engine(model.config, model.params, model.mesh, sizes)

    def generate(self, requests: Iterable[Request]) -> Iterator[Response]:
        """Implements `Generator.generate`."""
        requests = list(requests)
        stop_id = self._stop_id
        prompts = [self._prompt(request.prompt) for request in requests]
        each = [
            Sampling(
                request.temperature,
                max_tokens=self.max_new_tokens,
                stop_ids=(stop_id,),
                seed=request.sampling_seed,
            )
            for request in requests
        ]
        found = self._engine.generate(prompts, each)
        for request, one in zip(requests, found, strict=True):
            tokens = self._with_text(one, stop_id)
            text = self.model.decode(tokens).removesuffix(self.model.turn_closing)
            reason = "stop" if one.finish_reason == "stop" else "length"
            count = len(one.tokens) - (reason == "stop")
            yield Response(request.id, text, reason, count)

    def answers(self, prompts: Sequence[str]) -> list[str]:
        """Generates greedy answers in the chat format."""
        requests = [
            Request(str(index), Conversation.of(prompt), temperature=0.0)
            for index, prompt in enumerate(prompts)
        ]
        return [response.text for response in self.generate(requests)]

    def complete(
        self, prompts: Sequence[Sequence[int]], stop_id: int
    ) -> list[list[int]]:
        """Generates greedy continuations of token prompts up to `stop_id`, without it.

        Ids that only round the model's vocabulary up are left out.
        """
        how = Sampling(0.0, max_tokens=self.max_new_tokens, stop_ids=(stop_id,))
        found = self._engine.generate(prompts, how)
        return [self._with_text(one, stop_id) for one in found]

    @property
    def _stop_id(self) -> int:
        return nemotron_template.stop_id(self.model.tokenizer)

    def _prompt(self, conversation: Conversation) -> list[int]:
        assert self.model.template is not None
        return self.model.template.encode_prompt(self.model.tokenizer, conversation)

    def _with_text(self, found: Completion, stop_id: int) -> list[int]:
        """Drops the stop token and the ids that round the vocabulary up."""
        tokens = found.tokens
        if tokens and tokens[-1] == stop_id:
            tokens = tokens[:-1]
        return [token for token in tokens if token < self.model.tokenizer.vocab_size]


def attributes(
    model: LoadedModel, conversations: Sequence[Conversation], length: int = 160
) -> np.ndarray:
    """Computes the attributes of conversations with a reward model.

    Args:
      model: model with a reward head.
      conversations: conversations that end with a response.
      length: tokens of the longest one.

    Returns:
      float32 [N, K].

    Raises:
      UserError: a conversation is longer; names its index.
    """
    settings = scorer.ScorerConfig(scorer.REWARDS, max_length=length)
    return Scorer(model, settings).values(conversations)
