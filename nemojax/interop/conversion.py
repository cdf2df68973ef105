"""Weights between Hugging Face or NeMo checkpoints and model folders."""

import os
import pathlib
from types import ModuleType

import jax

from nemojax.interop import (
    adapters,
    archives,
    find,
    huggingface,
    model_folder,
    nemo,
    tokenizer_files,
)
from nemojax.io.progress import Progress

_Path = str | os.PathLike[str]


def from_hugging_face(source: _Path, out: _Path, adapter: _Path | None = None) -> int:
    """Writes a model folder of a Hugging Face checkpoint, a parameter at a time.

    Args:
      source: the checkpoint.
      out: the folder, which appears when all of it is written.
      adapter: folder of PEFT's LoRA adapters, which are merged; None: none.

    Returns:
      The number of parameters.

    Raises:
      UserError: there is no such checkpoint, or it is none of Nemotron or Llama.
    """
    source = pathlib.Path(source)
    files = tokenizer_files.find(source)
    return _to_folder(source, out, huggingface, files, adapter)


def from_nemo(source: _Path, out: _Path) -> int:
    """Writes a model folder of a `.nemo` file, or its unpacked directory.

    Arguments, result and errors are as for `from_hugging_face`.
    """
    with archives.opened(pathlib.Path(source)) as directory:
        return _to_folder(directory, out, nemo, nemo.tokenizer_files(directory))


def to_hugging_face(source: _Path, out: _Path, vocab_size: int | None = None) -> int:
    """Writes a Hugging Face checkpoint of a model folder, a tensor at a time.

    Args:
      source: the model folder, or the folder of the run that made it.
      out: the checkpoint, which appears when all of it is written.
      vocab_size: rows of the embeddings to write; None: all.

    Returns:
      The number of parameters.

    Raises:
      UserError: there is no such model.
    """
    source = find.find_model(source)
    config, params = model_folder.read_config(source), model_folder.stored(source)
    files = tokenizer_files.find(source)
    huggingface.save(
        out,
        config,
        params,
        tokenizer_files.own(files),
        files={k: v for k, v in files.items() if k != tokenizer_files.ORIGINAL},
        fields=tokenizer_files.token_ids(files),
        vocab_size=vocab_size,
        progress=Progress("tensors").show,
    )
    return sum(leaf.size for leaf in jax.tree.leaves(params))


def _to_folder(
    directory: pathlib.Path,
    out: _Path,
    reader: ModuleType,
    files: dict,
    adapter: _Path | None = None,
) -> int:
    total = 0
    config = reader.read_config(directory)
    leaves = reader.leaves(directory, progress=Progress("parameters").show)
    if adapter is not None:
        config, leaves = adapters.merged(adapter, config, leaves)

    def counted():
        nonlocal total
        for path, leaf in leaves:
            total += leaf.size
            yield path, leaf
            del leaf  # or it would stay in memory beside the next

    model_folder.write(out, config, counted(), files)
    return total
