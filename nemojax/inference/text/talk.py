"""One conversation with a model, answer by answer."""

import dataclasses
import time
from collections.abc import Generator, Iterator, Sequence

from nemojax.data.records import Conversation, Message
from nemojax.errors import UserError
from nemojax.inference.engine import shapes
from nemojax.inference.engine.batching import BatchingEngine
from nemojax.inference.engine.sampling import MAX_STOP_IDS, Sampling
from nemojax.inference.text.answer_text import AnswerText
from nemojax.interop.loading import LoadedModel


class Talk:
    """Asks a model; without a chat template it goes on with what is said.

    Attributes:
      model: that answers.
      turns: what was said; the system message, if any, comes first.
      tokens, seconds: of all answers.
    """

    def __init__(
        self,
        model: LoadedModel,
        how: Sampling,
        *,
        max_length: int = 4096,
        system: str = "",
        stop: Sequence[str] = (),
    ):
        """Begins a talk.

        Args:
          model: that answers.
          how: of each answer; its seed is the first one's, and counts up.
          max_length: tokens of a talk.
          system: message before all others.
          stop: strings that end an answer.
        """
        self.model, self._how, self._stop = model, how, tuple(stop)
        self._begin = [Message("system", system)] if system else []
        self.turns = list(self._begin)
        self.tokens, self.seconds = 0, 0.0
        self._engine = BatchingEngine(
            model.config, model.params, model.mesh, shapes.serving(1, max_length)
        )

    def restart(self) -> None:
        """Forgets what was said."""
        self.turns = list(self._begin)

    def ask(self, text: str) -> Generator[str, None, None]:
        """Says something, and yields the answer as it comes.

        What came until the iteration is closed counts as the answer.

        Raises:
          UserError: the talk has become too long, or the text cannot be encoded.
        """
        asked = [*self.turns, Message("user", text)]
        prompt = self._prompt(asked)
        room = self._engine.room - len(prompt)
        if room < 1:
            raise UserError(
                f"the talk has {len(prompt)} tokens and leaves no room for an answer: "
                f"the context has {self._engine.room}"
            )
        model, chat = self.model, self.model.template is not None
        stop_ids = model.turn_stop_ids if chat else model.stop_ids
        how = dataclasses.replace(
            self._how,
            max_tokens=min(room, self._how.max_tokens),
            stop_ids=stop_ids[:MAX_STOP_IDS],
        )
        self._how = dataclasses.replace(self._how, seed=self._how.seed + 1)
        said = ""
        try:
            for piece in self._stream(prompt, how, model.turn_closing if chat else ""):
                said += piece
                yield piece
        finally:
            if chat and said:
                self.turns = [*asked, Message("assistant", said)]

    def _prompt(self, turns: list[Message]) -> list[int]:
        model = self.model
        if model.template is not None:
            conversation = Conversation(tuple(turns))
            return model.template.encode_prompt(model.tokenizer, conversation)
        return [*model.tokenizer.prefix, *model.tokenizer.encode(turns[-1].content)]

    def _stream(self, prompt: list[int], how: Sampling, closing: str) -> Iterator[str]:
        text, start = AnswerText(self.model, self._stop, closing), time.monotonic()
        (number,) = self._engine.submit(prompt, how)
        try:
            while self._engine.busy:
                for delta in self._engine.step():
                    piece = text.take(delta)
                    self.tokens += len(piece.scored.tokens)
                    yield piece.text
                    if piece.finish:
                        return
        finally:
            self._engine.cancel(number)
            while self._engine.busy:
                self._engine.step()
            self.seconds += time.monotonic() - start
