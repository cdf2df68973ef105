"""Using a trained model: it answers, it scores, it is converted."""

import os
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np

from nemojax.data.records import Conversation
from nemojax.errors import UserError
from nemojax.inference.engine.sampling import Sampling
from nemojax.inference.scoring import scorer
from nemojax.inference.text import generation
from nemojax.inference.text.generation import TextResponse
from nemojax.interop import conversion, loading
from nemojax.interop.loading import LoadedModel
from nemojax.parallel.layout import Layout, LayoutSpec

_Path = str | os.PathLike[str]
HUGGING_FACE, FOLDER = "hf", "folder"


def load(
    path: _Path,
    *,
    layout: LayoutSpec | Layout | None = None,
    template: str = loading.AUTO,
    dtype: str | None = None,
    quantize: str | None = None,
    verify: bool = True,
) -> LoadedModel:
    """Loads a model with its tokenizer and chat template.

    Args:
      path: a model folder, the folder of a run or of a stage, or a Hugging Face
        checkpoint of Nemotron or Llama.
      layout: layout of the parameters; default: one device.
      template: "auto": the model's own; "none"; a name of `loading.TEMPLATES`; or a
        file with a Jinja template.
      dtype: dtype of the computation; default: the model's.
      quantize: "fp8" or "int8": weights of one byte.
      verify: whether a model folder is compared with its checksums before.

    Raises:
      UserError: it is no model, or something of it is missing or damaged.
    """
    if isinstance(layout, LayoutSpec):
        layout = layout.layout()
    return loading.load(
        path, layout, template=template, dtype=dtype, quantize=quantize, verify=verify
    )


def generate(
    model: LoadedModel,
    prompts: str | Conversation | Sequence[str | Conversation],
    *,
    max_tokens: int = 256,
    temperature: float = 1.0,
    stops: Sequence[str] = (),
    **sampling: Any,
) -> list[TextResponse]:
    """Generates a response to each prompt.

    Args:
      model: a language model.
      prompts: one or several. A text is a user's turn where the model has a chat
        template, and else (or with `load(..., template="none")`) a text to continue.
      max_tokens: most tokens of a response.
      temperature: divides the logits; 0 is greedy.
      stops: strings before which a response ends.
      sampling: `seed`, `top_p`, `top_k`, `min_p` or `repetition_penalty`, see
        `Sampling`. Prompt i has the seed `seed + i`.

    Returns:
      For each prompt its `text`, `finish_reason`, `tokens` and `log_probs`.

    Raises:
      UserError: a prompt that is empty, too long or does not fit the template, or
        a setting out of its range.
    """
    if isinstance(prompts, str | Conversation):
        prompts = [prompts]
    if model.template is not None:
        prompts = [Conversation.of(p) if isinstance(p, str) else p for p in prompts]
    how = Sampling(temperature, max_tokens=max_tokens, **sampling)
    return generation.generate(model, prompts, how, stops=stops)


def score(
    model: LoadedModel, conversations: Sequence[Conversation], *, length: int = 4096
) -> np.ndarray:
    """Scores conversations that end with a response.

    Args:
      model: a reward model, or any other.
      conversations: N of them; `Conversation.of(prompt, response)` makes one.
      length: most tokens of a conversation.

    Returns:
      float32 [N, K], the attribute values of a reward model; of any other model
      float32 [N], the log-prob of the last response and the end of its turn.

    Raises:
      UserError: the model has no chat template, or a conversation does not fit it,
        ends without a response or is too long; names its index.
    """
    settings = scorer.ScorerConfig(scorer.AUTO, max_length=length)
    return scorer.Scorer(model, settings).values(conversations)


def convert(
    source: _Path, *, out: _Path, to: str, vocab_size: int | None = None
) -> pathlib.Path:
    """Converts weights between the formats of nemojax, Hugging Face and NeMo.

    Args:
      source: a model folder or the folder of a run (to "hf"); a Hugging Face
        checkpoint, a `.nemo` file or its unpacked directory (to "folder").
      out: output folder; it appears when all of it is there.
      to: "hf", a Hugging Face checkpoint, or "folder", a model folder.
      vocab_size: rows of the embeddings to write (to "hf"); None: all.

    Returns:
      The path of `out`.

    Raises:
      UserError: the source is none of these, or `to` is another word.
    """
    if to == HUGGING_FACE:
        conversion.to_hugging_face(source, out, vocab_size)
    elif to == FOLDER and (pathlib.Path(source) / "config.json").is_file():
        conversion.from_hugging_face(source, out)
    elif to == FOLDER:
        conversion.from_nemo(source, out)
    else:
        raise UserError(f"to={to!r} is neither {HUGGING_FACE!r} nor {FOLDER!r}")
    return pathlib.Path(out)
