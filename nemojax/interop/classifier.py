"""Reward models as sequence classifiers of transformers, whose head has no bias.

The bias c of a head W goes into the bias of the last LayerNorm1P: with
b' = b + pinv(W) c is W b' = W b + c. What was there before stands in
`reward_head.json`, beside the SHA-256 of the tensors that it was made into, so that
reading gives the model back bit for bit. RMSNorm has no bias: there the file is the
only place of c.
"""

import hashlib
import pathlib
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from nemojax.data import records
from nemojax.errors import UserError
from nemojax.interop import weights
from nemojax.io import folders
from nemojax.models.trees import Path

FILE = "reward_head.json"
SCORE, NORM_BIAS = "score.weight", "model.norm.bias"
HEAD_BIAS_PATH, NORM_BIAS_PATH = ("reward_head", "bias"), ("final_norm", "bias")
_DTYPES = {str(dtype): dtype for dtype in weights.DTYPES}


def fields(kind: str, outputs: int) -> dict[str, Any]:
    """Returns what the `config.json` of a classifier has of its own."""
    names = records.attribute_names(outputs)
    return {
        "architectures": [f"{kind.capitalize()}ForSequenceClassification"],
        "num_labels": outputs,
        "id2label": {str(index): name for index, name in enumerate(names)},
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": "regression",
    }


def check_padding(fields: dict[str, Any]) -> None:
    """Takes a padding id out of a `config.json` that is the end of texts, too.

    transformers reads the scores at the last token that is not padding.
    """
    ends = fields.get("eos_token_id")
    ends = ends if isinstance(ends, list) else [ends]
    if fields.get("pad_token_id") in (None, *ends):
        fields.pop("pad_token_id", None)
        warnings.warn(
            "the tokenizer has no padding of its own: without a pad_token_id in "
            "config.json transformers scores one conversation at a time",
            stacklevel=3,
        )


def fold(
    head: Mapping[str, np.ndarray], norm_bias: np.ndarray | None
) -> tuple[np.ndarray | None, dict[str, Any]]:
    """Puts the bias of a reward head into the bias of the norm before it.

    Args:
      head: kernel [d_model, outputs] and bias [outputs] of the head.
      norm_bias: [d_model] of the last norm; None: it has none.

    Returns:
      The new bias of the norm, and the content of `FILE`.
    """
    kept = {"bias": _described(head["bias"])}
    score = np.asarray(head["kernel"]).T
    hashes = {SCORE: _sha256(score)}
    bias = np.asarray(head["bias"], np.float64)
    if norm_bias is None:
        if bias.any():
            warnings.warn(
                f"a norm without a bias has no place for that of the reward head: add "
                f"the bias of {FILE} to the scores that transformers gives",
                stacklevel=2,
            )
    else:
        kept["final_norm_bias"] = _described(norm_bias)
        if bias.any():
            matrix = score.astype(np.float64)
            shift = np.linalg.pinv(matrix) @ bias
            if not np.allclose(matrix @ shift, bias, rtol=1e-6, atol=1e-6):
                raise UserError(
                    "the reward head has outputs that depend on each other: its bias "
                    "has no place in a sequence classifier"
                )
            norm_bias = (norm_bias.astype(np.float64) + shift).astype(np.float32)
        hashes[NORM_BIAS] = _sha256(norm_bias)
    return norm_bias, {"sha256": hashes, **kept}


def unfold(directory: pathlib.Path, reader: weights.Reader) -> dict[Path, np.ndarray]:
    """Returns the biases of the head and of the last norm, by path.

    They are those of `FILE` where its hashes are those of the tensors; else the head
    has none (0), as in a classifier that others trained.

    Raises:
      UserError: the file is damaged.
    """
    score = reader.read(SCORE)
    plain = {HEAD_BIAS_PATH: np.zeros(len(score), score.dtype)}
    path = directory / FILE
    if not path.exists():
        return plain
    kept = folders.read_json(path)
    try:
        hashes = dict(kept["sha256"])
        found = {HEAD_BIAS_PATH: _array(kept["bias"], len(score))}
        if NORM_BIAS in hashes:
            width = score.shape[1]
            found[NORM_BIAS_PATH] = _array(kept["final_norm_bias"], width)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: not what stands beside a reward model") from error
    same = all(
        name in reader.shapes and _sha256(reader.read(name)) == value
        for name, value in hashes.items()
    )
    return found if same else plain


def _described(value: np.ndarray) -> dict[str, Any]:
    return {"dtype": str(value.dtype), "values": value.astype(np.float64).tolist()}


def _array(described: Mapping[str, Any], size: int) -> np.ndarray:
    value = np.asarray(described["values"], np.float64)
    if value.shape != (size,):
        raise ValueError(f"{value.shape} values, not {size}")
    return value.astype(_DTYPES[described["dtype"]])


def _sha256(value: np.ndarray) -> str:
    return hashlib.sha256(np.ascontiguousarray(value).view(np.uint8).data).hexdigest()
