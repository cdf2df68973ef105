"""Distance of a changed model from its original: KL divergence, perplexity."""

import functools
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nemojax.errors import UserError
from nemojax.models import forward
from nemojax.models.config import ModelConfig
from nemojax.parallel.layout import Layout


class Fidelity(NamedTuple):
    """Means over the tokens of a text that have a token before them.

    Attributes:
      tokens: number of tokens.
      kl: KL(reference || changed) of the distributions of the next token, nats.
      same: share of tokens where both find the same token likeliest.
      reference_perplexity, perplexity: exp of the mean negative log-prob.
    """

    tokens: int
    kl: float
    same: float
    reference_perplexity: float
    perplexity: float

    @property
    def change(self) -> float:
        """Change of the perplexity, relative to the reference's."""
        return self.perplexity / self.reference_perplexity - 1


def rows_of(texts: Iterable[Sequence[int]], length: int) -> tuple[np.ndarray, ...]:
    """Concatenates texts into rows: tokens and segment ids, int32 [N, length].

    The last row is filled up with segment 0.

    Raises:
      UserError: there are no two tokens of a text.
    """
    lists = [(number, tokens) for number, tokens in enumerate(texts, 1)]
    if all(len(tokens) < 2 for _, tokens in lists):
        raise UserError("there is no text of two tokens")
    tokens = np.concatenate([tokens for _, tokens in lists]).astype(np.int32)
    segments = np.repeat(
        [number for number, _ in lists], [len(tokens) for _, tokens in lists]
    ).astype(np.int32)
    padding = (0, -len(tokens) % length)
    return tuple(np.pad(a, padding).reshape(-1, length) for a in (tokens, segments))


def compare(
    config: ModelConfig,
    reference: Any,
    changed: Any,
    tokens_NS: np.ndarray,
    segments_NS: np.ndarray,
    *,
    mesh: Mesh,
    rows: int,
) -> Fidelity:
    """Compares two parameter trees of a model on text.

    The logits of a call, [rows, S, V] in float32, exist twice.

    Args:
      config: sizes.
      reference: parameters of `models.forward.init` or `models.quantized.quantize`.
      changed: likewise.
      tokens_NS: tokens of `rows_of`.
      segments_NS: segments of `rows_of`.
      mesh: devices to run on.
      rows: rows of a call.
    """
    padding = ((0, -len(tokens_NS) % rows), (0, 0))
    tokens, segments = (np.pad(a, padding) for a in (tokens_NS, segments_NS))
    sums = np.zeros(5)
    for start in range(0, len(tokens), rows):
        part = slice(start, start + rows)
        found = _sums(config, mesh, reference, changed, tokens[part], segments[part])
        sums += np.array(found, np.float64)
    count = sums[0]
    kl, same, reference_loss, loss = sums[1:] / count
    perplexities = np.exp(reference_loss), np.exp(loss)
    return Fidelity(int(count), float(kl), float(same), *map(float, perplexities))


@functools.partial(jax.jit, static_argnums=(0, 1))
def _sums(config, mesh, reference, changed, tokens, segments):
    """Sums over tokens: their number, KL, agreement, negative log-probs of both."""

    def log_probs(params):
        logits = forward.logits(
            config, params, tokens, segment_ids=segments, layout=Layout(mesh)
        )
        return jax.nn.log_softmax(logits[:, :-1])

    p, q = log_probs(reference), log_probs(changed)
    after = tokens[:, 1:, None]
    counted = (segments[:, 1:] == segments[:, :-1]) & (segments[:, 1:] > 0)
    found = (
        jnp.ones_like(counted),
        jnp.sum(jnp.exp(p) * (p - q), axis=-1),
        p.argmax(-1) == q.argmax(-1),
        -jnp.take_along_axis(p, after, axis=-1)[..., 0],
        -jnp.take_along_axis(q, after, axis=-1)[..., 0],
    )
    return tuple(jnp.sum(jnp.where(counted, one, 0.0)) for one in found)
