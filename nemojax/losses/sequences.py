"""From token log-probs in packed rows to one log-prob a sequence."""

import jax
import jax.numpy as jnp


def sequence_log_probs(
    token_log_probs_BS: jax.Array,
    loss_mask_BS: jax.Array,
    sequence_ids_BS: jax.Array,
    num_sequences: int,
) -> jax.Array:
    """Returns float32[N]: the sum of target log-probs of each sequence.

    Sums, not means: the report's KL coefficients and SFT weights of DPO and RPO are
    for sums. A sequence without targets has 0.

    Args:
      token_log_probs_BS: log p(token_t | tokens before t) at index t.
      loss_mask_BS: weight of each target; where it is 0 the log-prob is not looked at.
      sequence_ids_BS: int32; the sequence of each token, `num_sequences` for padding.
      num_sequences: N.
    """
    mask_BS = loss_mask_BS.astype(jnp.float32)
    log_probs_BS = jnp.where(mask_BS > 0, token_log_probs_BS.astype(jnp.float32), 0.0)
    sums_N = jax.ops.segment_sum(
        (log_probs_BS * mask_BS).reshape(-1),
        sequence_ids_BS.reshape(-1),
        num_segments=num_sequences + 1,
    )
    return sums_N[:num_sequences]
