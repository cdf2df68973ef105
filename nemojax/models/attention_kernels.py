"""Causal attention within segments, one interface, the fastest form of each platform.

`blocks` is plain jax and runs everywhere; `cudnn` is flash attention on NVIDIA GPUs;
`splash` is the Pallas kernel for TPUs. None of them keeps a tensor of S x S numbers a
head. Shapes as in `attention.py`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.errors import UserError
from nemojax.models import attention
from nemojax.parallel.layout import AUTO

# (queries_BSHK, keys_BSGK, values_BSGK, segment_ids_BS) -> outputs_BSHK
CausalAttention = Callable[[jax.Array, jax.Array, jax.Array, jax.Array], jax.Array]
# Queries that see all keys at one time.
BLOCK = 512
_LANES = 128


def blocks(
    q_BSHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BS: jax.Array,
    *,
    block: int = BLOCK,
) -> jax.Array:
    """Computes attention by blocks of queries; backwards makes the scores again."""
    S = q_BSHK.shape[1]
    if block >= S:
        mask = attention.causal_mask(segment_ids_BS)
        return attention.attention(q_BSHK, k_BSGK, v_BSGK, mask)
    count = -(-S // block)
    missing = count * block - S
    q_BSHK = jnp.pad(q_BSHK, ((0, 0), (0, missing), (0, 0), (0, 0)))
    query_ids_BS = jnp.pad(segment_ids_BS, ((0, 0), (0, missing)))

    @jax.checkpoint
    def one(start):
        q = lax.dynamic_slice_in_dim(q_BSHK, start, block, 1)
        ids = lax.dynamic_slice_in_dim(query_ids_BS, start, block, 1)
        before = (start + jnp.arange(block))[:, None] >= jnp.arange(S)
        mask = before & (ids[:, :, None] == segment_ids_BS[:, None, :])
        return attention.attention(q, k_BSGK, v_BSGK, mask)

    out = lax.map(one, jnp.arange(count) * block)
    out = out.swapaxes(0, 1).reshape(q_BSHK.shape[0], -1, *q_BSHK.shape[2:])
    return out[:, :S]


def cudnn(
    q_BSHK: jax.Array, k_BSGK: jax.Array, v_BSGK: jax.Array, segment_ids_BS: jax.Array
) -> jax.Array:
    """Calls cuDNN's flash attention; head width a multiple of 8 and at most 256."""
    same = segment_ids_BS[:, None, :, None] == segment_ids_BS[:, None, None, :]
    return jax.nn.dot_product_attention(
        q_BSHK, k_BSGK, v_BSGK, mask=same, is_causal=True, implementation="cudnn"
    )


def splash(
    q_BSHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BS: jax.Array,
    *,
    interpret: bool = False,
) -> jax.Array:
    """Calls Pallas splash attention; heads are padded to a multiple of 128 numbers.

    Raises:
      UserError: S is no multiple of 128.
    """
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernel,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_mask as masks,
    )

    S, H, K = q_BSHK.shape[1:]
    if S % _LANES:
        raise UserError(f"splash attention needs rows of a multiple of 128, got {S}")
    wider = ((0, 0), (0, 0), (0, 0), (0, -K % _LANES))
    q, k, v = (
        jnp.pad(x, wider).swapaxes(1, 2)
        for x in (q_BSHK * jnp.asarray(K**-0.5, q_BSHK.dtype), k_BSGK, v_BSGK)
    )
    block = next(size for size in (512, 256, 128) if S % size == 0)
    sizes = kernel.BlockSizes(
        **dict.fromkeys(
            (
                "block_q",
                "block_kv",
                "block_kv_compute",
                "block_q_dkv",
                "block_kv_dkv",
                "block_kv_dkv_compute",
                "block_q_dq",
                "block_kv_dq",
            ),
            block,
        )
    )
    make = functools.partial(
        kernel.make_splash_mha,
        mask=masks.MultiHeadMask([masks.CausalMask((S, S))] * H),
        head_shards=1,
        q_seq_shards=1,
        block_sizes=sizes,
        interpret=interpret,
    )
    run = jax.vmap(make())
    ids = kernel.SegmentIds(segment_ids_BS, segment_ids_BS)
    out: Any = run(q, k, v, ids)
    return out.swapaxes(1, 2)[..., :K].astype(v_BSGK.dtype)


KERNELS: dict[str, CausalAttention] = {
    "blocks": blocks,
    "cudnn": cudnn,
    "splash": splash,
}
_BY_PLATFORM = {"gpu": "cudnn", "cuda": "cudnn", "tpu": "splash"}


def choose(name: str, platform: str, pipeline: str = "gpipe") -> CausalAttention:
    """Returns the kernel of that name; "auto": the one for a platform and pipeline.

    Raises:
      UserError: an unknown name, or splash in 1F1B, which needs an attention whose
        result says along which axes it differs.
    """
    one_f_one_b = pipeline == "1f1b"
    if name == AUTO:
        name = _BY_PLATFORM.get(platform, "blocks")
        name = "blocks" if name == "splash" and one_f_one_b else name
    if name not in KERNELS:
        raise UserError(f"unknown attention {name!r}; one of {', '.join(KERNELS)}")
    if name == "splash" and one_f_one_b:
        raise UserError(
            "attention='splash' does not go with pipeline='1f1b': use "
            "attention='blocks' or pipeline='gpipe'"
        )
    return KERNELS[name]
