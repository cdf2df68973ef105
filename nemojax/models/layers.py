"""The decoder's Flax Linen modules, written with local (per-device) sizes.

Inside a `shard_map` over `data, pipe, tensor` each module sees its shard of the
parameters and of the activations; outside of one, where `init` runs, every axis has
size 1 and the same code builds the global parameters. The residual stream is split
over `tensor` along the sequence: a layer gathers it before its matrices and scatters
the sum after them, twice.
"""

from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.ad_checkpoint import checkpoint_name

from nemojax.errors import UserError
from nemojax.models import attention
from nemojax.models.config import ModelConfig
from nemojax.parallel import collectives

# What an attached adapter of a kernel is called: [in, rank] and [rank, out].
LORA_SUFFIXES = ("_lora_a", "_lora_b")
# What the scales of a quantised kernel are called: [out], see `models.quantized`.
SCALE_SUFFIX = "_scale"
# Kernels of a module with the same input, in the order in which they may be `joined`.
SAME_INPUT = (("query", "key", "value"), ("up", "gate"))


def local_size(config_name: str, size: int) -> int:
    """Divides `size` over the tensor axis.

    Raises:
      UserError: the axis does not divide it.
    """
    shards = collectives.axis_size("tensor")
    if size % shards:
        raise UserError(f"{config_name}={size} does not divide over tensor={shards}")
    return size // shards


def apply(module: nn.Module, params: Any, *args: Any, **kwargs: Any) -> Any:
    """Calls a module with its parameters; our modules change no variables."""
    return module.apply({"params": params}, *args, **kwargs)


def linear(
    module: nn.Module, name: str, init: Any, shape: tuple[int, int], x: jax.Array
) -> jax.Array:
    """Computes `x @ kernel`, plus the low-rank term of an adapter (`lora.attach`).

    A quantised kernel has scales beside it: `(x @ codes) * scale`, where XLA widens the
    codes inside of the product.

    Args:
      module: owns the kernel.
      name: name of the kernel.
      init: initializer of the kernel.
      shape: local [in, out].
      x: [..., in]; the product is in its dtype.
    """
    kernel = module.param(name, init, shape, jnp.float32)
    # With one row dimension the kernel's gradient is one plain matrix product; over
    # two, XLA's CPU compiler first copies the incoming gradient transposed.
    leading, x = x.shape[:-1], x.reshape(-1, shape[0])
    y = matmul(module, name, kernel, x)
    down, up = (f"{name}{suffix}" for suffix in LORA_SUFFIXES)
    if module.has_variable("params", down):
        low = x @ module.get_variable("params", down).astype(x.dtype)
        y += low @ module.get_variable("params", up).astype(x.dtype)
    return y.reshape(*leading, shape[1])


def linears(
    module: nn.Module, init: Any, sizes: dict[str, int], x: jax.Array
) -> list[jax.Array]:
    """Computes `linear` of kernels with one input; of `joined` ones in one product.

    Args:
      module: owns the kernels.
      init: initializer of the kernels.
      sizes: name of each kernel -> its local out.
      x: [..., in].
    """
    width, all_of_them = x.shape[-1], joined(sizes)
    if not module.has_variable("params", all_of_them):
        return [
            linear(module, name, init, (width, size), x) for name, size in sizes.items()
        ]
    y = linear(module, all_of_them, init, (width, sum(sizes.values())), x)
    return jnp.split(y, np.cumsum([*sizes.values()])[:-1], axis=-1)


def joined(names: Iterable[str]) -> str:
    """Returns what one kernel with the columns of all of these is called."""
    return "_".join(names)


def matmul(module: nn.Module, name: str, kernel: jax.Array, x: jax.Array) -> jax.Array:
    """Computes `x @ kernel` in the dtype of x [N, in]; the kernel may be quantised."""
    scale = scales(module, name)
    if scale is None:
        return x @ kernel.astype(x.dtype)
    y = jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=jnp.float32)
    return (y * scale).astype(x.dtype)


def scales(module: nn.Module, name: str) -> jax.Array | None:
    """Returns float32 [out] of a quantised kernel, None of a plain one."""
    scale = name + SCALE_SUFFIX
    if not module.has_variable("params", scale):
        return None
    return module.get_variable("params", scale)


class LayerNorm1P(nn.Module):
    """LayerNorm with bias whose stored weight is the scale minus one.

    Statistics in float32, result in the input's dtype. Storing gamma - 1 means that
    weight decay pulls the scale towards one and that zeros are the right start.
    """

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last dimension of x."""
        width = x.shape[-1]
        weight = self.param("weight", nn.initializers.zeros, (width,), jnp.float32)
        bias = self.param("bias", nn.initializers.zeros, (width,), jnp.float32)
        x32 = x.astype(jnp.float32)
        centred = x32 - x32.mean(-1, keepdims=True)
        variance = jnp.square(centred).mean(-1, keepdims=True)
        normed = centred * jax.lax.rsqrt(variance + self.epsilon)
        return (normed * (1.0 + weight.astype(jnp.float32)) + bias).astype(x.dtype)


class RMSNorm(nn.Module):
    """`x / rms(x)`, computed in float32, times a weight in the input's dtype."""

    epsilon: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Normalises the last dimension of x."""
        width = x.shape[-1]
        weight = self.param("weight", nn.initializers.ones, (width,), jnp.float32)
        x32 = x.astype(jnp.float32)
        mean_square = jnp.square(x32).mean(-1, keepdims=True)
        normed = x32 * jax.lax.rsqrt(mean_square + self.epsilon)
        return normed.astype(x.dtype) * weight.astype(x.dtype)


def make_norm(config: ModelConfig, name: str | None = None) -> nn.Module:
    """Makes the normalisation that the config names."""
    norms = {"layernorm1p": LayerNorm1P, "rmsnorm": RMSNorm}
    return norms[config.norm](config.norm_epsilon, name=name)


class Attention(nn.Module):
    """Grouped-query attention with rotary positions; `attend` holds the mask or cache.

    Call: `(x_BSD, positions_BS, attend) -> (y_BSD, what attend handed back)`, with
    `x_BSD` gathered over the sequence and `y_BSD` a partial sum over `tensor`.
    """

    config: ModelConfig

    @nn.compact
    def __call__(
        self, x_BSD: jax.Array, positions_BS: jax.Array, attend: attention.Attend
    ) -> tuple[jax.Array, Any]:
        """Attends; returns the output and what `attend` returned beside it."""
        c = self.config
        heads = local_size("num_heads", c.num_heads)
        kv_heads = local_size("num_kv_heads", c.num_kv_heads)
        plain = nn.initializers.normal(c.init_std)
        scaled = nn.initializers.normal(c.init_std / (2 * c.num_layers) ** 0.5)
        frequencies = attention.rotary_frequencies(
            c.rotary_dim, c.rope_theta, c.rope_scaling
        )

        counts = {"query": heads, "key": kv_heads, "value": kv_heads}
        sizes = {name: count * c.head_dim for name, count in counts.items()}
        q, k, v = (
            y.reshape(*y.shape[:2], -1, c.head_dim)
            for y in linears(self, plain, sizes, x_BSD)
        )
        q, k = (attention.rotary(y, positions_BS, frequencies) for y in (q, k))
        q, k, v = (checkpoint_name(y, "qkv") for y in (q, k, v))
        mixed, handed_back = attend(q, k, v)
        mixed = checkpoint_name(mixed, "attention")
        mixed = mixed.reshape(*mixed.shape[:2], heads * c.head_dim)
        shape = (heads * c.head_dim, c.d_model)
        return linear(self, "output", scaled, shape, mixed), handed_back


class Mlp(nn.Module):
    """`down(relu(up(x)) ** 2)`, or `down(silu(gate(x)) * up(x))`, without bias.

    The result is a partial sum over `tensor`.
    """

    config: ModelConfig

    @nn.compact
    def __call__(self, x_BSD: jax.Array) -> jax.Array:
        """Applies the MLP to each token."""
        c = self.config
        d_ff = local_size("d_ff", c.d_ff)
        plain = nn.initializers.normal(c.init_std)
        scaled = nn.initializers.normal(c.init_std / (2 * c.num_layers) ** 0.5)
        names = ("up", "gate") if c.activation == "swiglu" else ("up",)
        products = linears(self, plain, dict.fromkeys(names, d_ff), x_BSD)
        hidden, *gate = (checkpoint_name(y, "mlp_preactivation") for y in products)
        if gate:
            hidden *= jax.nn.silu(gate[0])
        else:
            hidden = jnp.square(jax.nn.relu(hidden))
        return linear(self, "down", scaled, (d_ff, c.d_model), hidden)


class DecoderLayer(nn.Module):
    """One pre-norm layer on the residual stream.

    Attributes:
      config: sizes.
      sequence_parallel: the residual stream is split over `tensor` along the
        sequence (training); otherwise it is whole on every device (decoding).
    """

    config: ModelConfig
    sequence_parallel: bool = True

    def _gather(self, x: jax.Array) -> jax.Array:
        return collectives.all_gather(x, "tensor", 1) if self.sequence_parallel else x

    def _reduce(self, x: jax.Array) -> jax.Array:
        if self.sequence_parallel:
            return collectives.reduce_scatter(x, "tensor", 1)
        return collectives.all_reduce(x, "tensor")

    @nn.compact
    def __call__(
        self, x_BSD: jax.Array, positions_BS: jax.Array, attend: attention.Attend
    ) -> tuple[jax.Array, Any]:
        """Applies attention and MLP; returns also what `attend` returned."""
        y = self._gather(make_norm(self.config, "attention_norm")(x_BSD))
        y, handed_back = Attention(self.config, name="attention")(
            y, positions_BS, attend
        )
        x_BSD = checkpoint_name(x_BSD + self._reduce(y), "residual")
        y = self._gather(make_norm(self.config, "mlp_norm")(x_BSD))
        y = Mlp(self.config, name="mlp")(y)
        return x_BSD + self._reduce(y), handed_back
