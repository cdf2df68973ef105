"""Generation from text to text: lists of prompts, stop strings, whole outputs."""

import dataclasses
from collections.abc import Generator, Iterator, Sequence

from nemojax.data.records import Conversation
from nemojax.errors import UserError
from nemojax.inference.engine import config as configs
from nemojax.inference.engine.engine import Engine
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.text.output_text import OutputText, TextDelta
from nemojax.interop.loading import LoadedModel

_SLOTS = 32


@dataclasses.dataclass(frozen=True)
class TextRequest:
    """A prompt in tokens with what decides the text of its output.

    Attributes:
      prompt: tokens.
      sampling: sampling settings of the output.
      stops: strings before which the text ends.
      closing: text before a stop token that is the template's, not the output's.
      continues: whether the output goes on with the text of the prompt; else it is a
        text of its own, which some tokenizers begin without a space.
    """

    prompt: list[int]
    sampling: Sampling
    stops: Sequence[str] = ()
    closing: str = ""
    continues: bool = False


@dataclasses.dataclass(frozen=True)
class TextResponse:
    """The whole output of one prompt.

    Attributes:
      text: without control tokens, stop token and what follows a stop string.
      finish_reason: "stop" or "length".
      tokens: ids; a stop token is the last.
      log_probs: log-probs of each token in the model's own distribution.
    """

    text: str
    finish_reason: str
    tokens: list[int]
    log_probs: list[float]


def generate(
    model: LoadedModel,
    prompts: Sequence[str | Conversation],
    sampling: Sampling | None = None,
    *,
    stops: Sequence[str] = (),
    engine: Engine | None = None,
) -> list[TextResponse]:
    """Generates one output for each prompt, in the order of the prompts.

    Args:
      model: a language model; conversations need its chat template.
      prompts: texts to continue, or conversations that end with a user turn.
      sampling: sampling settings for all prompts; prompt i has the seed `sampling.seed
        + i`. The model's stop tokens are added.
      stops: strings before which an output ends.
      engine: engine of the model; by default one is made for this call.

    Raises:
      UserError: a conversation that does not fit the template, or without one; a
        prompt that is empty or too long for the engine. Names the prompt's index.
    """
    sampling = sampling or Sampling()
    requests = []
    for index, prompt in enumerate(prompts):
        own = dataclasses.replace(sampling, seed=sampling.seed + index)
        try:
            requests.append(text_request(model, prompt, own, stops))
        except ValueError as error:
            raise UserError(f"prompt {index}: {error}") from error
    if not requests:
        return []
    if engine is None:
        data = model.mesh.shape["data"]
        slots = -(-min(_SLOTS, len(requests)) // data) * data
        longest = max(len(request.prompt) for request in requests)
        length = longest + sampling.max_tokens
        sizes = configs.serving(slots, length, data=data)
        engine = Engine.from_model(model, sizes)
    found = dict(complete(engine, model, requests))
    return [
        TextResponse(
            one.text, one.finish_reason or "", one.scores.tokens, one.scores.log_probs
        )
        for one in (found[index] for index in range(len(requests)))
    ]


def text_request(
    model: LoadedModel,
    prompt: str | Conversation,
    sampling: Sampling,
    stops: Sequence[str] = (),
) -> TextRequest:
    """Encodes a text to continue, or a conversation to answer.

    Args:
      model: encodes; its stop tokens are added to those of `sampling`.
      prompt: a text, or a conversation that ends with a user turn.
      sampling: sampling settings of the output.
      stops: strings before which the output ends.

    Raises:
      UserError: it does not fit the template or cannot be encoded, or a stop string is
        empty.
    """
    stops = (stops,) if isinstance(stops, str) else stops
    if not all(stops):
        raise UserError("a stop string is empty: leave it out")
    if isinstance(prompt, str):
        tokens = [*model.tokenizer.prefix, *model.tokenizer.encode(prompt)]
        ids, closing = model.stop_ids, ""
    elif model.template is None:
        raise UserError(f"{model.name!r} has no chat template for a conversation")
    else:
        tokens = model.template.encode_prompt(model.tokenizer, prompt)
        ids, closing = model.turn_stop_ids, model.turn_closing
    ids = tuple(dict.fromkeys((*sampling.stop_ids, *ids)))
    sampling = dataclasses.replace(sampling, stop_ids=ids)
    return TextRequest(tokens, sampling, stops, closing, isinstance(prompt, str))


def stream(
    engine: Engine, model: LoadedModel, requests: Sequence[TextRequest]
) -> Generator[tuple[int, TextDelta], None, None]:
    """Yields (index of the request, its new text) until all outputs have ended.

    Outputs that have not ended are cancelled when the iteration is closed.

    Raises:
      UserError: see `Engine.check`; the message names the request's index.
    """
    texts = [
        OutputText(
            model, one.stops, one.closing, before=one.prompt if one.continues else ()
        )
        for one in requests
    ]
    ended: set[int] = set()
    deltas = engine.stream(
        [one.prompt for one in requests], [one.sampling for one in requests]
    )
    try:
        for index, delta in deltas:
            if index in ended:  # by a stop string
                continue
            text = texts[index].take(delta)
            if text.finish_reason:
                ended.add(index)
                engine.cancel(delta.request)
            yield index, text
    finally:
        deltas.close()


def complete(
    engine: Engine, model: LoadedModel, requests: Sequence[TextRequest]
) -> Iterator[tuple[int, TextDelta]]:
    """Yields (index of the request, its whole output) as outputs end.

    Raises:
      UserError: see `stream`.
    """
    whole = [TextDelta() for _ in requests]
    for index, delta in stream(engine, model, requests):
        whole[index].extend(delta)
        if delta.finish_reason:
            yield index, whole[index]
