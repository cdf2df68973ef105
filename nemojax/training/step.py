"""The one train step: any objective, micro-batches, one global division."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

# (params, batch) -> (loss_sum, weight, {name: (sum, weight)})
Objective = Callable[[Any, Any], tuple[jax.Array, jax.Array, dict[str, Any]]]


class TrainState(NamedTuple):
    """State of a run: parameters, optimizer state, steps done (int32)."""

    params: Any
    opt_state: Any
    step: jax.Array


class Passes(NamedTuple):
    """A batch that a train step takes in several passes, one after the other.

    Attributes:
      parts: a batch whose leaves have one more leading dim, of the passes.
    """

    parts: Any


def init_state(
    params, optimizer: optax.GradientTransformation, *, consume: bool = False
) -> TrainState:
    """Makes the state before the first step.

    Args:
      params: parameters to begin with.
      optimizer: optimizer as `make_optimizer` makes it.
      consume: whether the state takes the arrays of `params`, which steps donate, or
        copies of them.
    """
    if not consume:
        params = jax.tree.map(jnp.copy, params)
    opt_state = jax.jit(optimizer.init)(params)
    return TrainState(params, opt_state, jnp.zeros((), jnp.int32))


def make_train_step(
    objective: Objective,
    optimizer: optax.GradientTransformation,
    *,
    combine: Callable[[Any, Any], Any] | None = None,
):
    """Compiles `(state, batch, learning_rate, limit=None) -> (state, metrics)`.

    The objective gives sums and weights. They are added over the whole batch and
    divided once, so that the result does not depend on passes, micro-batches, packing
    or padding. Of a batch that is `Passes` the gradients of the parts are added up in
    float32. The state is donated.

    A step whose loss or gradient is not finite, or whose gradient's norm is above
    `limit`, is not applied: parameters and moments stay, on every device, and only the
    count of steps, which is the place in the data, goes on.

    Args:
      objective: the loss of a batch.
      optimizer: optimizer as `make_optimizer` makes it.
      combine: `(trained, frozen) -> params`, such as the attaching of adapters. The
        state then holds the trained part alone, and the step takes the frozen part,
        which has no gradients and no optimizer state, as its argument `frozen`.

    Returns:
      The compiled step. Metrics: `loss`, `grad_norm` (before clipping), `weight`,
      `skipped` (0 or 1) and the objective's own, all scalars on the device.
    """

    def sums(params, batch, frozen):
        params = combine(params, frozen) if combine else params
        loss_sum, weight, metrics = objective(params, batch)
        metrics = {"loss": (loss_sum, weight), **metrics}
        return loss_sum, (weight, metrics)

    gradient = jax.value_and_grad(sums, has_aux=True)

    def accumulated(params, batch, frozen):
        if not isinstance(batch, Passes):
            return gradient(params, batch, frozen)
        part = jax.tree.map(lambda leaf: leaf[0], batch.parts)
        shapes = jax.eval_shape(gradient, params, part, frozen)
        zeros = jax.tree.map(lambda shape: jnp.zeros(shape.shape, shape.dtype), shapes)

        def add(total, part):
            return jax.tree.map(jnp.add, total, gradient(params, part, frozen)), None

        return jax.lax.scan(add, zeros, batch.parts)[0]

    def train_step(state: TrainState, batch, learning_rate, frozen=None, limit=None):
        (loss_sum, (weight, metrics)), grads = accumulated(state.params, batch, frozen)
        scale = 1.0 / jnp.maximum(weight, 1e-9)
        grads = jax.tree.map(lambda g: g.astype(jnp.float32) * scale, grads)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = jax.tree.map(lambda p, u: p - learning_rate * u, state.params, updates)
        norm = optax.tree.norm(grads)
        good = jnp.isfinite(loss_sum) & jnp.isfinite(norm)
        if limit is not None:
            good &= norm <= limit
        params, opt_state = jax.tree.map(
            lambda new, old: jnp.where(good, new, old),
            (params, opt_state),
            (state.params, state.opt_state),
        )
        scalars = {
            name: total / jnp.maximum(count, 1e-9)
            for name, (total, count) in metrics.items()
        }
        scalars |= {"grad_norm": norm, "weight": weight, "skipped": ~good}
        return TrainState(params, opt_state, state.step + 1), scalars

    return jax.jit(train_step, donate_argnums=0)
