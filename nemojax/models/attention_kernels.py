"""Causal attention within segments, one interface, the fastest form that can run.

`blocks` is plain jax and runs everywhere; `cudnn` is flash attention on NVIDIA GPUs;
`splash` is the Pallas kernel for TPUs. None of them keeps a tensor of S x S numbers a
head. Where there are no segment ids a row is one segment. A kernel says what it lacks
in a case; nothing else decides which one is taken. Shapes as in `attention.py`.
"""

import dataclasses
import functools
import logging
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax

from nemojax.errors import UserError
from nemojax.models import attention
from nemojax.parallel.layout import AUTO

# (queries_BSHK, keys_BSGK, values_BSGK, segment_ids_BS or None) -> outputs_BSHK
CausalAttention = Callable[
    [jax.Array, jax.Array, jax.Array, jax.Array | None], jax.Array
]
# Queries that see all keys at one time.
BLOCK = 512
_LANES = 128
_LOG = logging.getLogger(__name__)


def blocks(
    q_BSHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BS: jax.Array | None,
    *,
    block: int = BLOCK,
) -> jax.Array:
    """Computes attention by blocks of queries; backwards makes the scores again."""
    S = q_BSHK.shape[1]
    if segment_ids_BS is None:
        segment_ids_BS = jnp.ones((1, S), jnp.int32)
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
    q_BSHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BS: jax.Array | None,
) -> jax.Array:
    """Calls cuDNN's flash attention; head width a multiple of 8 and at most 256."""
    same = None
    if segment_ids_BS is not None:  # becomes numbers [B, 1, S, S], which cuDNN reads
        same = segment_ids_BS[:, None, :, None] == segment_ids_BS[:, None, None, :]
    return jax.nn.dot_product_attention(
        q_BSHK, k_BSGK, v_BSGK, mask=same, is_causal=True, implementation="cudnn"
    )


def splash(
    q_BSHK: jax.Array,
    k_BSGK: jax.Array,
    v_BSGK: jax.Array,
    segment_ids_BS: jax.Array | None,
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
    ids = segment_ids_BS
    if ids is not None:
        ids = kernel.SegmentIds(ids, ids)
    out: Any = run(q, k, v, ids)
    return out.swapaxes(1, 2)[..., :K].astype(v_BSGK.dtype)


@dataclasses.dataclass(frozen=True)
class Case:
    """Attention of one shape on one device, as far as it decides which kernels can run.

    Attributes:
      platform: platform of the device: "cpu", "gpu", "cuda" or "tpu".
      dtype: name of the dtype of queries, keys and values.
      width: numbers of a head.
      length: tokens of a row.
      capability: compute capability of an NVIDIA GPU, such as (9, 0); others: (0, 0).
      pipeline: order of the passes, "gpipe" or "1f1b".
    """

    platform: str
    dtype: str
    width: int
    length: int
    capability: tuple[int, int] = (0, 0)
    pipeline: str = "gpipe"


def _cudnn_lacks(case: Case) -> str:
    """Says what cuDNN's attention with a mask needs that a case does not have."""
    widest = 256 if case.capability >= (9, 0) else 128
    if case.capability < (8, 0):
        return "an NVIDIA GPU of compute capability 8.0 or higher"
    if case.dtype not in ("bfloat16", "float16"):
        return f"bfloat16 or float16, not {case.dtype}"
    if case.width % 8 or case.width > widest:
        return f"heads of a multiple of 8 numbers up to {widest}, not {case.width}"
    if case.length % 2:
        return f"rows of an even number of tokens, not {case.length}"
    return ""


def _splash_lacks(case: Case) -> str:
    """Says what the Pallas kernel needs that a case does not have."""
    if case.length % _LANES:
        return f"rows of a multiple of {_LANES} tokens, not {case.length}"
    if case.pipeline == "1f1b":
        # Which needs an attention whose result says along which axes it differs.
        return "pipeline='gpipe'"
    return ""


@dataclasses.dataclass(frozen=True)
class Kernel:
    """One form of attention, and where it can run.

    Attributes:
      name: name in `attention=`.
      run: the function.
      platforms: platforms that it is for; none: all.
      lacks: says what it needs that a case of these does not have; "": nothing.
      varying: whether its result says along which mesh axes it differs.
      primitive: name of the jax primitive that computes its output and what its
        backward pass needs beside that; "": it has none.
    """

    name: str
    run: CausalAttention
    platforms: tuple[str, ...] = ()
    lacks: Callable[[Case], str] = lambda case: ""
    varying: bool = True
    primitive: str = ""

    def missing(self, case: Case) -> str:
        """Returns what the kernel needs to run in a case; "": nothing."""
        if self.platforms and case.platform not in self.platforms:
            return f"a device of the kind {self.platforms[0]}, not {case.platform}"
        return self.lacks(case)


# The faster ones first; the last can always run.
KERNELS = (
    Kernel(
        "cudnn",
        cudnn,
        ("gpu", "cuda"),
        _cudnn_lacks,
        primitive="dot_product_attention_fwd_wrapper",
    ),
    # A Pallas kernel does not say along which axes its result differs.
    Kernel("splash", splash, ("tpu",), _splash_lacks, varying=False),
    Kernel("blocks", blocks),
)


def fastest(case: Case) -> Kernel:
    """Returns the fastest kernel that can run."""
    return next(k for k in KERNELS if not k.missing(case))


def choose(name: str, case: Case) -> Kernel:
    """Returns the kernel of that name; "auto": the fastest that can run.

    Why a faster one for the device cannot run is logged, once.

    Raises:
      UserError: an unknown name, or a kernel that cannot run; says what it needs.
    """
    if name == AUTO:
        found = fastest(case)
        faster = KERNELS[: KERNELS.index(found)]
        lacking = [
            f"{k.name} needs {k.missing(case)}"
            for k in faster
            if case.platform in k.platforms
        ]
        if found.platforms or lacking:
            _note(found.name, tuple(lacking))
        return found
    found = next((k for k in KERNELS if k.name == name), None)
    if found is None:
        known = ", ".join(sorted(k.name for k in KERNELS))
        raise UserError(f"unknown attention {name!r}; one of {known}")
    if missing := found.missing(case):
        raise UserError(
            f"attention={name!r} needs {missing}: use attention='auto', which takes "
            "the fastest that can run"
        )
    return found


@functools.lru_cache(maxsize=64)
def _note(name: str, lacking: tuple[str, ...]) -> None:
    """Logs a choice the first time that it is made."""
    _LOG.info("%s", "; ".join([f"attention: {name}", *lacking]))
