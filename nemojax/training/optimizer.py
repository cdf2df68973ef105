"""AdamW, without a learning rate: that is an argument of each step."""

import dataclasses
from typing import Any

import jax
import optax

# 1-D parameters: norms and biases. Their stacked form [L, D] is still 1-D in kind.
_NOT_DECAYED = ("weight", "bias")


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """Constants of AdamW.

    Attributes:
      beta1: Decay of the mean of gradients.
      beta2: Decay of the mean of squared gradients.
      epsilon: Added to the root of that mean.
      weight_decay: Decoupled weight decay; not applied to norms and biases.
      clip_norm: Global gradient norm above which gradients are scaled down.
    """

    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8
    weight_decay: float = 0.1
    clip_norm: float = 1.0


ADAMW = OptimizerConfig()


def make_optimizer(config: OptimizerConfig) -> optax.GradientTransformation:
    """Makes the update direction; the train step multiplies it by the learning rate.

    The learning rate is an argument of the step and not a part of the optimizer, so
    that every stage with one batch shape shares one compiled step.
    """
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.scale_by_adam(config.beta1, config.beta2, config.epsilon),
        optax.add_decayed_weights(config.weight_decay, mask=_decay_mask),
    )


def _decay_mask(params: Any) -> Any:
    def decayed(path, _):
        return path[-1].key not in _NOT_DECAYED

    return jax.tree_util.tree_map_with_path(decayed, params)
