"""Parts before and after the layers: embedding, LM head, reward head."""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from nemojax.models import layers
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives


def local_rows(config: ModelConfig) -> int:
    """Returns the rows of a vocabulary table on this device, padding included."""
    return -(-config.vocab_size // collectives.axis_size("tensor"))


def _own_rows(config: ModelConfig, rows: int) -> jax.Array | int:
    """Counts this device's `rows` of the vocabulary that are not padding."""
    before = collectives.axis_index("tensor") * rows
    return jnp.clip(config.vocab_size - before, 0, rows)


class Embedding(nn.Module):
    """Vocabulary-parallel input embedding.

    Call: `tokens_BS -> partial sums [B, S, D]` in the compute dtype; each device
    contributes the rows that it holds.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, tokens_BS: jax.Array) -> jax.Array:
        """Embeds tokens [B, S]."""
        c = self.config
        rows = local_rows(c)
        shape = (rows, c.d_model)
        init = nn.initializers.normal(c.init_std)
        table = self.param("table", init, shape, jnp.float32)
        local = tokens_BS - collectives.axis_index("tensor") * rows
        inside = (local >= 0) & (local < rows)
        vectors = jnp.take(table, jnp.clip(local, 0, rows - 1), axis=0)
        return jnp.where(inside[..., None], vectors, 0).astype(c.compute_dtype)


class LanguageModelHead(nn.Module):
    """Vocabulary-parallel LM head."""

    config: ModelConfig

    def setup(self):
        """Makes the table of this device's rows."""
        c = self.config
        rows = local_rows(c)
        init = nn.initializers.normal(c.init_std)
        self.kernel = self.param("kernel", init, (rows, c.d_model), jnp.float32)

    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        """Computes this device's logits, float32 [B, S, V / tensor]."""
        kernel = self.kernel.astype(x_BSD.dtype)
        logits = jnp.einsum(
            "bsd,vd->bsv", x_BSD, kernel, preferred_element_type=jnp.float32
        )
        scale = layers.scales(self, "kernel")
        if scale is not None:
            logits *= scale
        rows = kernel.shape[0]
        if rows * collectives.axis_size("tensor") == self.config.vocab_size:
            return logits
        return jnp.where(jnp.arange(rows) < _own_rows(self.config, rows), logits, -1e30)


def share(params: Any, over: tuple[str, ...]) -> Any:
    """Returns the rows of this device's LM head (kernel and scales) that it works on.

    These are all its rows, or, of a vocabulary that is split over `pipe` too, the part
    of its stage.
    """
    if "pipe" not in over:
        return params
    _, start, count = _window(len(params["kernel"]), over)
    return jax.tree.map(
        lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, count), params
    )


def _window(rows: int, over: tuple[str, ...]):
    """Returns a share's first row, and the first row and size of the slice with it.

    The last slices begin early, since a slice does not reach over the end.
    """
    if "pipe" not in over:
        return 0, 0, rows
    count = -(-rows // collectives.axis_size("pipe"))
    begin = collectives.axis_index("pipe") * count
    return begin, jnp.minimum(begin, rows - count), count


def log_probs(
    config: ModelConfig,
    kernel_RD: jax.Array,
    x_ND: jax.Array,
    targets_N: jax.Array,
    over: tuple[str, ...] = ("tensor",),
    scale_R: jax.Array | None = None,
) -> jax.Array:
    """Computes log softmax(x @ kernel.T) of targets, without [N, V] logits.

    The vocabulary is walked in chunks with a running log-sum-exp, and each chunk's
    logits are computed again in the backward pass, so that memory grows with
    N * vocab_chunk and not with N * V.

    Args:
      config: sizes.
      kernel_RD: this device's share of the LM head's rows, as `share` gives it.
      x_ND: hidden states, the same on all devices of `over`.
      targets_N: int32 ids.
      over: the mesh axes that the vocabulary is split over.
      scale_R: float32, of the rows of a quantised kernel.

    Returns:
      float32 [N], the same on all devices of `over`.
    """
    rows = local_rows(config)
    own = _own_rows(config, rows)
    begin, first, count = _window(rows, over)
    chunk = min(config.vocab_chunk, count)
    chunks = -(-count // chunk)
    padding = chunks * chunk - count
    kernel = jnp.pad(kernel_RD, ((0, padding), (0, 0)))
    if scale_R is None:  # a quantised kernel is widened chunk by chunk
        kernel = kernel.astype(x_ND.dtype)
    else:
        scale_R = jnp.pad(scale_R, (0, padding)).reshape(chunks, chunk)
    kernel = kernel.reshape(chunks, chunk, config.d_model)
    local = targets_N - collectives.axis_index("tensor") * rows

    def walk(carry, share):
        peak_N, total_N, picked_N = carry
        kernel_CD, scale_C, start = share
        logits = _logits(x_ND, kernel_CD.astype(x_ND.dtype))
        if scale_C is not None:
            logits *= scale_C
        column = start + jnp.arange(chunk)
        # Not those of the share before, of the padding, and of the chunk's padding.
        counted = (column >= begin) & (column < own) & (column < first + count)
        logits = jnp.where(counted, logits, -1e30)
        highest = jax.lax.stop_gradient(logits.max(-1))
        new_peak = jnp.maximum(peak_N, highest)
        total_N = total_N * jnp.exp(peak_N - new_peak)
        total_N += jnp.exp(logits - new_peak[:, None]).sum(-1)
        # A target of the next shard can equal a column of the padding.
        hit = (column == local[:, None]) & counted
        picked_N += jnp.where(hit, logits, 0.0).sum(-1)
        return (new_peak, total_N, picked_N), None

    # Zeros that depend on x and the kernel carry the right device-varying type.
    zero_N = (x_ND[:, 0] * kernel[0, 0, 0].astype(x_ND.dtype)).astype(jnp.float32) * 0.0
    start = (jax.lax.stop_gradient(zero_N) - 1e30, zero_N, zero_N)
    starts = first + jnp.arange(chunks) * chunk
    shares = (kernel, scale_R, starts)
    if chunks == 1:
        one = jax.tree.map(lambda leaf: leaf[0], shares)
        (peak_N, total_N, picked_N), _ = walk(start, one)
    else:
        (peak_N, total_N, picked_N), _ = jax.lax.scan(
            jax.checkpoint(walk), start, shares
        )
    highest_N = collectives.all_reduce_max(jax.lax.stop_gradient(peak_N), over)
    total_N = total_N * jnp.exp(peak_N - highest_N)
    total_N = collectives.all_reduce(total_N, over)
    picked_N = collectives.all_reduce(picked_N, over)
    return picked_N - highest_N - jnp.log(total_N)


@jax.custom_vjp
def _logits(x_ND: jax.Array, kernel_CD: jax.Array) -> jax.Array:
    """Computes x @ kernel.T in float32, backwards in the dtype of x and kernel.

    Derived by jax, the products of the backward pass would have float32 operands: the
    gradient of float32 logits, and x and kernel widened for it. On GPUs these take more
    than twice the time. Rounded to bfloat16, each element of the gradient is off by
    2**-8 of it at most, as in every other product of the step.
    """
    return jnp.einsum("nd,cd->nc", x_ND, kernel_CD, preferred_element_type=jnp.float32)


def _logits_forward(x_ND, kernel_CD):
    return _logits(x_ND, kernel_CD), (x_ND, kernel_CD)


def _logits_backward(kept, cotangent_NC):
    _, transposed = jax.vjp(lambda x_ND, kernel_CD: x_ND @ kernel_CD.T, *kept)
    return transposed(cotangent_NC.astype(kept[0].dtype))


_logits.defvjp(_logits_forward, _logits_backward)


class RewardHead(nn.Module):
    """Linear head with bias on a hidden state: one float32 value per attribute.

    Attributes:
      d_model: width of the hidden state.
      num_attributes: outputs; five in the report (section 3.1).
    """

    d_model: int
    num_attributes: int = 5

    @nn.compact
    def __call__(self, x_ND: jax.Array) -> jax.Array:
        """Computes attribute values, float32 [N, attributes]."""
        shape = (self.d_model, self.num_attributes)
        kernel = self.param("kernel", nn.initializers.zeros, shape, jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, shape[1:], jnp.float32)
        return x_ND.astype(jnp.float32) @ kernel + bias
