"""Model configurations, presets, Flax modules and forward functions.

config = models.presets.get("minitron_4b")
params = models.init(config, jax.random.key(0))
log_probs = models.token_log_probs(config, params, tokens)
"""

from nemojax.models import presets
from nemojax.models.config import ModelConfig
from nemojax.models.forward import (
    init,
    logits,
    param_count,
    rewards,
    shapes,
    token_log_probs,
)
