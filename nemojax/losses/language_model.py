"""Next-token cross-entropy, for pretraining and supervised fine-tuning."""

import jax
import jax.numpy as jnp

Metrics = dict[str, tuple[jax.Array, jax.Array]]


def loss(
    token_log_probs_BS: jax.Array, loss_mask_BS: jax.Array
) -> tuple[jax.Array, jax.Array, Metrics]:
    """Returns the sum of -log p(token) over the targets, and their number.

    The mean over all targets of a global batch is the sum of sums over the sum of
    weights, however the batch is split; a mean of means would depend on the split.

    Args:
      token_log_probs_BS: log p(token_t | tokens before t) at index t.
      loss_mask_BS: weight of each target; where it is 0 the log-prob is not looked at.

    Returns:
      Loss sum, weight (both float32 []) and metrics, pairs (sum, weight) too.
    """
    mask_BS = loss_mask_BS.astype(jnp.float32)
    log_probs_BS = jnp.where(mask_BS > 0, token_log_probs_BS.astype(jnp.float32), 0.0)
    loss_sum = -jnp.sum(log_probs_BS * mask_BS)
    weight = jnp.sum(mask_BS)
    return loss_sum, weight, {"loss": (loss_sum, weight)}
