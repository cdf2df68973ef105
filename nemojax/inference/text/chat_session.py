"""One conversation with a model, message by message."""

import dataclasses
import time
from collections.abc import Generator, Sequence

from nemojax.data.records import Conversation, Message
from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text import generation
from nemojax.interop.loading import LoadedModel


class ChatSession:
    """A conversation; without a chat template the model continues the user's text.

    Attributes:
      model: model of the session.
      turns: the messages so far; the system message, if any, comes first.
      tokens, seconds: totals of all outputs.
    """

    def __init__(
        self,
        model: LoadedModel,
        sampling: Sampling,
        *,
        max_length: int = 4096,
        system: str = "",
        stop: Sequence[str] = (),
    ):
        """Begins an empty conversation.

        Args:
          model: model of the session.
          sampling: sampling settings of each output; the seed is the first one's, and
            counts up.
          max_length: tokens of the conversation.
          system: message before all others.
          stop: strings that end an output.
        """
        self.model, self._sampling, self._stop = model, sampling, tuple(stop)
        self._begin = [Message("system", system)] if system else []
        self.turns = list(self._begin)
        self.tokens, self.seconds = 0, 0.0
        self._engine = Engine.from_model(model, configs.serving(1, max_length))

    def restart(self) -> None:
        """Forgets the conversation."""
        self.turns = list(self._begin)

    def ask(self, text: str) -> Generator[str, None, None]:
        """Sends a message, and yields the text of the response as it comes.

        Text that came until the iteration is closed counts as the response.

        Raises:
          UserError: the conversation has become too long, or the text cannot be
            encoded.
        """
        asked = [*self.turns, Message("user", text)]
        chat = self.model.template is not None
        request = generation.text_request(
            self.model,
            Conversation(tuple(asked)) if chat else text,
            self._sampling,
            self._stop,
        )
        room = self._engine.room - len(request.prompt)
        if room < 1:
            raise UserError(
                f"the talk has {len(request.prompt)} tokens and leaves no room for an "
                f"answer: the context has {self._engine.room}"
            )
        most = min(room, self._sampling.max_tokens)
        sampling = dataclasses.replace(request.sampling, max_tokens=most)
        request = dataclasses.replace(request, sampling=sampling)
        seed = self._sampling.seed + 1
        self._sampling = dataclasses.replace(self._sampling, seed=seed)
        said, start = "", time.monotonic()
        deltas = generation.stream(self._engine, self.model, [request])
        try:
            for _, delta in deltas:
                self.tokens += len(delta.scores.tokens)
                said += delta.text
                yield delta.text
        finally:
            deltas.close()
            self.seconds += time.monotonic() - start
            if chat and said:
                self.turns = [*asked, Message("assistant", said)]
