"""Scoring of conversations with a model: rewards, or log-probs of last responses."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemojax.data.records import Conversation, attribute_names
from nemojax.errors import UserError
from nemojax.inference.scoring import scoring
from nemojax.inference.scoring.buckets import TokenSequence
from nemojax.interop.loading import LoadedModel
from nemojax.io.files import DataError
from nemojax.parallel import fingerprint

REWARDS, LOG_PROBS, AUTO = "rewards", "log_probs", "auto"


@dataclasses.dataclass(frozen=True)
class ScorerConfig:
    """Settings that scores depend on, beside model and data.

    Attributes:
      kind: "rewards" or "log_probs".
      max_length: tokens of the longest row; longer ones are rejected, never cut.
      part_rows: rows of the input in a part.
      template: name of the chat template.
    """

    kind: str
    max_length: int = 4096
    part_rows: int = 8192
    template: str = "auto"


class Scorer:
    """Scores conversations with one model."""

    def __init__(
        self, model: LoadedModel, settings: ScorerConfig, batch_tokens: int = 0
    ):
        """Checks that the model can score.

        Args:
          model: the model.
          settings: `kind` may be "auto": rewards of a reward model, else log-probs.
          batch_tokens: slots of a batch; 0: by the kind of device. Decides the
            speed, not the scores.

        Raises:
          DataError: the model is no reward model or has no chat template.
        """
        kind = settings.kind
        if kind == AUTO:
            kind = REWARDS if model.is_reward_model else LOG_PROBS
        self.settings = dataclasses.replace(settings, kind=kind)
        self.model = model
        self.buckets = scoring.choose_buckets(
            model.mesh, settings.max_length, batch_tokens
        )
        if kind == REWARDS and not model.is_reward_model:
            raise DataError(f"{model.name} has no reward head: use --kind={LOG_PROBS}")
        if model.template is None:
            raise DataError(f"{model.name} has no chat template: name one: --template")
        try:
            self.encode(Conversation.of("a", "b"))
        except ValueError as error:
            raise DataError(
                f"{model.name}: the chat template does not fit its tokenizer "
                f"({error}): name another: --template"
            ) from error

    @property
    def value_names(self) -> tuple[str, ...]:
        """Names of the values: attributes, or "log_prob"."""
        if self.settings.kind == LOG_PROBS:
            return ("log_prob",)
        count = self.model.params["reward_head"]["bias"].shape[0]
        return attribute_names(count)

    def configuration(self) -> dict[str, Any]:
        """Returns all that its scores depend on, as JSON."""
        return {
            **dataclasses.asdict(self.settings),
            "parameters_sha256": fingerprint.parameters_sha256(self.model.params),
            "model": dataclasses.asdict(self.model.config),
            "tokenizer": self.model.tokenizer.fingerprint,
            # Of a Jinja template; the name says all of the others.
            "template_source": getattr(self.model.template, "source", ""),
        }

    def encode(self, conversation: Conversation) -> TokenSequence:
        """Encodes a conversation as tokens int32 [S] and loss mask bool [S].

        Raises:
          UserError: the conversation does not end with an answer to a prompt, or the
            log-prob of an answer with a label is asked for.
        """
        template, tokenizer = self.model.template, self.model.tokenizer
        assert template is not None
        if self.settings.kind == REWARDS:
            tokens = template.encode_for_reward(tokenizer, conversation)
            mask = [0] * len(tokens)
        else:
            prompt, response = conversation.prompt, conversation.last_response
            if conversation.messages[-1].label:
                raise UserError("log-prob of a response to a label")
            tokens, mask = template.encode_response(tokenizer, prompt, response)
        return np.array(tokens, np.int32), np.array(mask, bool)

    def begin(self, sequences: Sequence[TokenSequence]) -> scoring.Pending:
        """Starts computing the values, float32 [N] or [N, K]."""
        begin = {REWARDS: scoring.begin_rewards, LOG_PROBS: scoring.begin_log_probs}
        model = self.model
        return begin[self.settings.kind](
            model.config,
            model.params,
            sequences,
            mesh=model.mesh,
            buckets=self.buckets,
        )

    def values(self, conversations: Sequence[Conversation]) -> np.ndarray:
        """Scores conversations; waits for the values, float32 [N] or [N, K].

        Raises:
          UserError: see `encode`, or more than `max_length` tokens; the message names
            the index.
        """
        sequences = []
        for index, conversation in enumerate(conversations):
            try:
                sequences.append(self.encode(conversation))
            except ValueError as error:
                raise UserError(f"conversation {index}: {error}") from error
        return self.begin(sequences).result()

    def score(self, values: Any, mask: np.ndarray) -> dict[str, Any]:
        """Formats the values of one conversation with seven digits, as float32 has."""
        rounded = [float(f"{value:.7g}") for value in np.atleast_1d(values)]
        if self.settings.kind == LOG_PROBS:
            return {"log_prob": rounded[0], "tokens": int(mask.sum())}
        return {"rewards": dict(zip(self.value_names, rounded, strict=True))}
