"""AdamW and the learning-rate schedules."""

import dataclasses
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

SCHEDULES = ("cosine", "constant")
# 1-D parameters: norms and biases. Their stacked form [L, D] is still 1-D in kind.
_NOT_DECAYED = ("weight", "bias")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW with linear warm-up, then a cosine or a constant.

    Attributes:
      peak_lr: learning rate after the warm-up.
      schedule: one of `SCHEDULES`.
      warmup_steps: steps of linear warm-up from 0.
      final_fraction: the cosine ends at this fraction of the peak.
      beta1, beta2, epsilon: Adam's constants.
      weight_decay: decoupled; not applied to norms and biases.
      clip_norm: global gradient norm above which gradients are scaled down.
      average_decay: also keep a running mean of the parameters that forgets with this
        factor a step (Polyak averaging); 0: none.
    """

    peak_lr: float
    schedule: str = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0
    average_decay: float = 0.0

    def __post_init__(self):
        if self.schedule not in SCHEDULES:
            raise ValueError(f"unknown schedule {self.schedule!r}; one of {SCHEDULES}")
        if not self.peak_lr > 0:
            raise ValueError(f"peak_lr must be positive, got {self.peak_lr}")


def learning_rate(config: OptimizerConfig, step: int, total_steps: int) -> float:
    """Learning rate of step `step` (0-based) of `total_steps`."""
    warm = min(1.0, (step + 1) / (config.warmup_steps + 1))
    if config.schedule == "constant" or step < config.warmup_steps:
        return config.peak_lr * warm
    decay_steps = max(1, total_steps - config.warmup_steps)
    progress = min(1.0, (step - config.warmup_steps) / decay_steps)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    floor = config.final_fraction
    return config.peak_lr * (floor + (1.0 - floor) * cosine)


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """The update direction; the train step multiplies it by the learning rate.

    The learning rate is an argument of the step and not a part of the optimizer, so
    that every stage with one batch shape shares one compiled step.
    """
    parts = [
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=_decay_mask),
    ]
    if config.average_decay:
        parts.append(_averaging(config.average_decay))
    return optax.chain(*parts)


class Average(NamedTuple):
    """The running mean of the parameters before each step, float32."""

    params: Any


def _averaging(decay: float) -> optax.GradientTransformation:
    def init(params):
        return Average(jax.tree.map(lambda p: p.astype(jnp.float32), params))

    def update(updates, state, params=None):
        mean = jax.tree.map(
            lambda old, new: decay * old + (1.0 - decay) * new, state.params, params
        )
        return updates, Average(mean)

    return optax.GradientTransformation(init, update)


def average(opt_state: Any) -> Any:
    """The running mean in an optimizer's state; None if it keeps none."""
    found = [part for part in opt_state if isinstance(part, Average)]
    return found[0].params if found else None


def _decay_mask(params: Any) -> Any:
    def decayed(path, _):
        return path[-1].key not in _NOT_DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)
