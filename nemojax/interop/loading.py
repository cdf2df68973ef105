"""Loads a checkpoint with its tokenizer, chat template and stop tokens."""

import contextlib
import dataclasses
import functools
import os
import pathlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from jax.sharding import Mesh

from nemojax.data.text import template_files
from nemojax.data.text.chat_template import ChatTemplate, TextTokenizer
from nemojax.data.text.jinja_template import JinjaTemplate
from nemojax.data.text.llama_templates import Llama2Template, Llama3Template
from nemojax.data.text.nemotron_template import (
    NEMOTRON,
    NEMOTRON_REWARD,
    TURN_START,
)
from nemojax.data.text.tokenizer import Tokenizer
from nemojax.errors import UserError
from nemojax.interop import find, huggingface, model_folder, tokenizer_files
from nemojax.io import folders
from nemojax.models import partition, quantized, trees
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout

TEMPLATES: dict[str, ChatTemplate] = {
    "nemotron": NEMOTRON,
    "nemotron_reward": NEMOTRON_REWARD,
    "llama2": Llama2Template(),
    "llama3": Llama3Template(),
}
AUTO, NONE = "auto", "none"
# Those of templates that end a turn with a token of its own; only what there is counts.
_TURN_ENDS = (
    TURN_START,
    "<|eot_id|>",
    "<|im_end|>",
    "<|end_of_text|>",
    "<|endoftext|>",
)


class AnyTokenizer(TextTokenizer, Protocol):
    """A `data.text.tokenizer.Tokenizer` or `hf_tokenizer.HuggingFaceTokenizer`.

    Attributes:
      vocab_size: ids that it knows.
      fingerprint: fingerprint of the tokenizer's file.
      bos_id, eos_id: ids that begin and end a text; ValueError if there is none.
      prefix: ids that begin every text that is completed.
      controls: names of the control tokens.
    """

    vocab_size: int
    fingerprint: str

    @property
    def bos_id(self) -> int:
        """Id that begins a text."""
        ...

    @property
    def eos_id(self) -> int:
        """Id that ends a text."""
        ...

    @property
    def prefix(self) -> tuple[int, ...]:
        """Ids that begin every text."""
        ...

    @property
    def controls(self) -> tuple[str, ...]:
        """Names of all control tokens."""
        ...

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids."""
        ...

    def token_bytes(self, token_id: int, *, first: bool = False) -> bytes:
        """Returns the bytes that an id writes, within or `first` in a text."""
        ...

    def piece_text(self, token_id: int) -> str:
        """Returns what an id writes inside of a text, of a control token its name."""
        ...


@dataclasses.dataclass(frozen=True)
class LoadedModel:
    """A checkpoint in memory: parameters, tokenizer, template, stop tokens.

    Attributes:
      name: name of the model's folder.
      config, params: the model; a reward model has a `reward_head`.
      layout: layout of the parameters.
      tokenizer: tokenizer of the model.
      template: template that makes tokens of conversations; None: it is no chat model.
      stop_ids: tokens that end a text.
      turn_stop_ids: tokens that end an answer in a conversation.
      files: files of the tokenizer, by name, for models that are made of this one.
      path: folder that it was read from; "" where it was made in memory.
    """

    name: str
    config: ModelConfig
    params: Any
    layout: Layout
    tokenizer: AnyTokenizer
    template: ChatTemplate | None
    stop_ids: tuple[int, ...]
    turn_stop_ids: tuple[int, ...]
    files: Mapping[str, pathlib.Path]
    path: str = ""

    @property
    def mesh(self) -> Mesh:
        """Mesh of the layout."""
        return self.layout.mesh

    @property
    def is_reward_model(self) -> bool:
        """True for a model that gives attribute values."""
        return "reward_head" in self.params

    @property
    def turn_closing(self) -> str:
        """Text between an answer and the token that ends it."""
        return self.template.turn_closing if self.template else ""

    def decode(self, ids: Iterable[int]) -> str:
        """Returns the text of ids; those beyond the tokenizer's write nothing."""
        return self.tokenizer.decode(i for i in ids if i < self.tokenizer.vocab_size)

    def token_bytes(self, token: int, *, first: bool = False) -> bytes:
        """Returns the bytes that an id writes, within or `first` in a text."""
        if token < self.tokenizer.vocab_size:
            return self.tokenizer.token_bytes(token, first=first)
        return b""

    @functools.cached_property
    def token_names(self) -> Sequence[str]:
        """Names of all ids, no two alike: what they write, else bytes or a number."""
        names: dict[str, int] = {}
        # Bytes that a token for their text follows in the vocabulary stay bytes.
        for token in reversed(range(self.tokenizer.vocab_size)):
            text = self.tokenizer.piece_text(token)
            as_bytes = "".join(f"<0x{byte:02X}>" for byte in self.token_bytes(token))
            name = next(n for n in (text, as_bytes, f"<{token}>") if n not in names)
            names[name] = token
        known = range(self.tokenizer.vocab_size, self.config.vocab_size)
        return (*reversed(names), *(f"<{token}>" for token in known))


def load(
    directory: str | os.PathLike[str],
    layout: Layout | None = None,
    *,
    template: str = AUTO,
    dtype: str | None = None,
    name: str | None = None,
    quantize: str | None = None,
    verify: bool = True,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> LoadedModel:
    """Reads a model folder, or a Hugging Face checkpoint of Nemotron or Llama.

    Args:
      directory: folder of the model, or of the run that made it, see `find.find_model`.
      layout: layout of the parameters, split by all its axes and ZeRO; default: one
        device. Each device reads its own part.
      template: "auto" takes the checkpoint's own; "none"; a name of `TEMPLATES`; or a
        file with a Jinja template.
      dtype: dtype of the computation; default: the config's.
      name: name of the model; default: that of the directory.
      quantize: a name of `models.quantized.KINDS`: kernels are quantised as they are
        read, so that only one is there in full at a time; default: they are not.
      verify: whether a model folder is compared with its checksums before.
      progress: called with leaves done and all leaves.

    Raises:
      UserError: it is no model, or something of it is missing or damaged.
    """
    name = name or pathlib.Path(directory).resolve().name
    directory = find.find_model(directory)
    layout = layout or Layout()
    if quantize is not None:
        quantized.check(quantize)
    ours = (directory / model_folder.MODEL).exists()
    if ours and verify:
        model_folder.verify(directory)
    tokenizer = load_tokenizer(directory, template)
    config = read_config(directory)
    if ours:
        partition.check(config, layout)
        leaves = model_folder.leaves(directory, layout, verified=True)
    else:
        leaves = huggingface.leaves(directory, layout, progress=progress)
    if quantize is not None:
        leaves = quantized.leaves(leaves, quantize, consume=True)
    params = trees.build(leaves)
    if dtype:
        config = dataclasses.replace(config, compute_dtype=dtype)
    if tokenizer.vocab_size > config.vocab_size:
        raise UserError(
            f"{directory}: the tokenizer has {tokenizer.vocab_size} pieces, "
            f"the model {config.vocab_size}"
        )
    stops = stop_ids(directory, tokenizer, config.vocab_size)
    turn_ends = (tokenizer.control(p) for p in _TURN_ENDS if p in tokenizer.controls)
    return LoadedModel(
        name,
        config,
        params,
        layout,
        tokenizer,
        load_template(directory, template, tokenizer),
        stops,
        tuple(dict.fromkeys((*stops, *turn_ends))),
        tokenizer_files.find(directory),
        str(directory.absolute()),
    )


def read_config(directory: pathlib.Path) -> ModelConfig:
    """Reads what a model is, without its weights.

    Args:
      directory: folder of the model itself, as `find.find_model` returns it.

    Raises:
      UserError: the description is missing, or says what cannot be.
    """
    ours = (directory / model_folder.MODEL).exists()
    return (model_folder if ours else huggingface).read_config(directory)


def load_tokenizer(directory: str | pathlib.Path, template: str = AUTO) -> AnyTokenizer:
    """Reads the tokenizer of a checkpoint: SentencePiece where there is one of ours.

    Args:
      directory: folder of the checkpoint.
      template: template as in `load`, which may say what a control token is.

    Raises:
      UserError: there is none, it cannot be read, or it is not the one that the model
        was written with.
    """
    tokenizer = _read_tokenizer(pathlib.Path(directory), template)
    known = model_folder.tokenizer_fingerprints(directory)
    if known and tokenizer.fingerprint not in known:
        raise UserError(
            f"{directory}: the tokenizer there is not the model's: its SHA-256 is "
            f"{tokenizer.fingerprint[:16]}..., {model_folder.MODEL} has "
            f"{', '.join(f'{one[:16]}...' for one in known)}: put that one there"
        )
    return tokenizer


def _read_tokenizer(directory: pathlib.Path, template: str) -> AnyTokenizer:
    files = tokenizer_files.find(directory)
    if tokenizer_files.MODEL in files:
        try:
            return Tokenizer.load(files[tokenizer_files.MODEL])
        except ValueError:
            if tokenizer_files.FAST not in files:
                raise
    if tokenizer_files.FAST in files:
        from nemojax.data.text.hf_tokenizer import HuggingFaceTokenizer

        file = pathlib.Path(template)
        named = template not in (AUTO, NONE, *TEMPLATES) and file.is_file()
        source = folders.read_text(file) if named else ""
        try:
            return HuggingFaceTokenizer.load(directory, source)
        except UserError as error:
            if str(directory) in str(error):
                raise
            raise UserError(f"{files[tokenizer_files.FAST]}: {error}") from error
    raise UserError(
        f"{directory}: no tokenizer: put {tokenizer_files.MODEL} or "
        f"{tokenizer_files.FAST} there"
    )


def stop_ids(
    directory: pathlib.Path, tokenizer: AnyTokenizer, vocab_size: int
) -> tuple[int, ...]:
    """Returns the ids that end a text: the tokenizer's, and those the files name.

    Raises:
      UserError: a file names something that is no id below `vocab_size`.
    """
    found: list[int] = []
    with contextlib.suppress(ValueError):  # a tokenizer.json need not name it
        found.append(tokenizer.eos_id)
    files = tokenizer_files.find(directory)
    for name in (tokenizer_files.GENERATION, tokenizer_files.ORIGINAL):
        if name in files:
            found += tokenizer_files.ids(files[name], "eos_token_id", vocab_size)
    return tuple(dict.fromkeys(found))


def load_template(
    directory: str | pathlib.Path, wanted: str, tokenizer: AnyTokenizer
) -> ChatTemplate | None:
    """Returns the chat template of a checkpoint, or the one that is wanted.

    Raises:
      UserError: there is no such template.
    """
    directory = pathlib.Path(directory)
    if wanted == NONE:
        return None
    if wanted in TEMPLATES:
        return TEMPLATES[wanted]
    jinja = functools.partial(_jinja, directory, tokenizer)
    if wanted != AUTO:
        try:
            return jinja(pathlib.Path(wanted).read_text())
        except OSError as error:
            raise UserError(
                f"template {wanted!r}: {error.strerror}; there are "
                f"{', '.join((AUTO, NONE, *TEMPLATES))}, or give a file"
            ) from error
    found = template_files.read(directory)
    # The template that is built in says the same, and takes no process to run.
    ours = tokenizer_files.CHAT_TEMPLATES
    own = found.get(template_files.DEFAULT, ours[0])
    if TURN_START in tokenizer.controls and own in ours:
        return NEMOTRON
    if found and template_files.DEFAULT not in found:
        raise UserError(
            f"{directory}: no chat template there is named "
            f"{template_files.DEFAULT!r}; there are {', '.join(sorted(found))}: write "
            "one into a file, and name it with --template"
        )
    return jinja(own, found.get(template_files.TOOL_USE)) if found else None


def _jinja(
    directory: pathlib.Path,
    tokenizer: AnyTokenizer,
    source: str,
    tool_source: str | None = None,
) -> JinjaTemplate:
    variables = {}
    for name in ("special_tokens_map.json", tokenizer_files.CONFIG):
        for role, value in _json(directory / name).items():
            value = value.get("content") if isinstance(value, dict) else value
            if role.endswith("_token") and isinstance(value, str):
                variables[role] = value
    return JinjaTemplate(
        source, tokenizer.controls, variables=variables, tool_source=tool_source
    )


def _json(path: pathlib.Path) -> dict[str, Any]:
    """Reads a JSON object; empty where there is no file."""
    return folders.read_json(path) if path.exists() else {}
