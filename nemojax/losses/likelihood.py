"""Next-token cross-entropy, and the log-probs of whole responses."""

import jax
import jax.numpy as jnp

from nemojax.losses.loss import Loss, select


def language_model(token_log_probs_BS: jax.Array, loss_mask_BS: jax.Array) -> Loss:
    """Computes -log p of each target, for pretraining and supervised fine-tuning.

    Args:
      token_log_probs_BS: log p(token_t | tokens before t) at index t.
      loss_mask_BS: weight of each target; where it is 0 the log-prob is not looked at.

    Returns:
      A loss with a value for each token.
    """
    mask_BS = loss_mask_BS.astype(jnp.float32)
    loss_BS = -select(token_log_probs_BS, mask_BS)
    return Loss(loss_BS, mask_BS, {"loss": loss_BS})


def sequence_log_probs(
    token_log_probs_BS: jax.Array,
    loss_mask_BS: jax.Array,
    sequence_ids_BS: jax.Array,
    num_sequences: int,
) -> jax.Array:
    """Returns float32[N]: the sum of target log-probs of each sequence.

    Sums, since the report's KL coefficients and SFT weights of DPO and RPO are for
    sums. A sequence without targets has 0.

    Args:
      token_log_probs_BS: log p(token_t | tokens before t) at index t.
      loss_mask_BS: weight of each target; where it is 0 the log-prob is not looked at.
      sequence_ids_BS: int32; the sequence of each token, `num_sequences` for padding.
      num_sequences: N.
    """
    mask_BS = loss_mask_BS.astype(jnp.float32)
    log_probs_BS = select(token_log_probs_BS, mask_BS)
    return _sums(log_probs_BS * mask_BS, sequence_ids_BS, num_sequences)


def _sums(values_BS, sequence_ids_BS, num_sequences: int) -> jax.Array:
    sums_N = jax.ops.segment_sum(
        values_BS.reshape(-1),
        sequence_ids_BS.reshape(-1),
        num_segments=num_sequences + 1,
    )
    return sums_N[:num_sequences]


def sequence_targets(
    loss_mask_BS: jax.Array, sequence_ids_BS: jax.Array, num_sequences: int
) -> jax.Array:
    """Returns float32[N]: the targets of each sequence, such as a response's tokens."""
    return _sums(loss_mask_BS.astype(jnp.float32), sequence_ids_BS, num_sequences)
