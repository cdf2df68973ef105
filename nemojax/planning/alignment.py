"""Additions of a stage of alignment to a plan: objective, batch and parameters."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nemojax.data.batching.batches import Batch
from nemojax.errors import UserError
from nemojax.models import forward, lora
from nemojax.models.config import ModelConfig
from nemojax.models.lora import LoraConfig
from nemojax.parallel.layout import Layout
from nemojax.training import objectives
from nemojax.training.objectives import (
    PreferenceBatch,
    PreferenceConfig,
    RewardBatch,
)
from nemojax.training.programs import ByLayout

# By stage: the script that runs it.
SCRIPTS = {"sft": "sft", "reward": "train_reward", "dpo": "dpo", "rpo": "rpo"}
REFERENCES = CACHED, IN_STEP = "cached", "in_step"
# A pair fills a row: two sequences of half its length.
_IN_ROW = 2
_ATTRIBUTES = 5


@dataclasses.dataclass(frozen=True)
class Alignment:
    """A stage of alignment.

    Attributes:
      stage: One of `SCRIPTS`.
      reference: "cached": log-probs of the reference policy are read from the disk;
        "in_step": a second copy of the parameters computes them in each step.
      rank: Rank of adapters, which are trained instead of the model; 0 is the model.
      targets: Tokens of each of the `Layout.head_groups` that the LM head has room for;
        0 is all, which is the most that any data need.

    Raises:
      UserError: a value that there is not.
    """

    stage: str
    reference: str = CACHED
    rank: int = 0
    targets: int = 0

    def __post_init__(self):
        if self.stage not in SCRIPTS:
            raise UserError(f"stage={self.stage!r} is none of {', '.join(SCRIPTS)}")
        for name in ("rank", "targets"):
            if getattr(self, name) < 0:
                raise UserError(f"{name}={getattr(self, name)} must not be negative")

    @property
    def preference(self) -> bool:
        """True for a stage that learns from pairs, beside a reference policy."""
        return self.stage in ("dpo", "rpo")

    @property
    def in_step(self) -> bool:
        """True where the reference policy is on the devices too."""
        return self.preference and self.reference == IN_STEP

    @property
    def adapters(self) -> LoraConfig | None:
        """Adapters that are trained; None is the model."""
        return LoraConfig(self.rank) if self.rank else None

    def objective(self, config: ModelConfig) -> ByLayout:
        """Returns what the stage minimises."""
        if self.preference:
            loss = PreferenceConfig(self.stage, beta=0.01, sft_weight=1e-5)
            options = (("loss", loss),)
            return ByLayout(objectives.preference_objective, config, options)
        if self.stage == "reward":
            return ByLayout(objectives.reward_objective, config)
        return ByLayout(objectives.language_model_objective, config)

    def shapes(self, config: ModelConfig) -> Any:
        """Returns the shapes of the model, float32; a frozen one in its compute dtype.

        A reward model has a reward head in the place of the LM head.
        """
        attributes = _ATTRIBUTES if self.stage == "reward" else 0
        found = dict(forward.shapes(config, num_attributes=attributes))
        if attributes:
            found.pop("lm_head", None)
        dtype = config.compute_dtype if self.rank else "float32"
        return cast(found, dtype)

    def trained(self, config: ModelConfig, params: Any) -> Any:
        """Returns the shapes of what is trained, given those of the model."""
        low_rank = self.adapters
        if low_rank is None:
            return params
        return jax.eval_shape(
            lambda key: lora.init(low_rank, self.shapes(config), key),
            jax.random.key(0),
        )

    def batch(self, rows: int, length: int, layout: Layout) -> Any:
        """Returns a batch of zeros of so many full rows, as the objective takes it."""
        integers = np.zeros((rows, length), np.int32)
        text = Batch(integers, integers.astype(np.float32), integers, integers)
        if self.targets:
            shape = layout.head_groups(rows), self.targets
            text = text._replace(target_indices=np.zeros(shape, np.int32))
        size = rows * _IN_ROW
        numbers = np.zeros(size, np.float32)
        if self.preference:
            pairs = numbers[: size // 2]
            return PreferenceBatch(text, integers, numbers, numbers, pairs, pairs)
        if self.stage == "reward":
            labels = np.zeros((size, _ATTRIBUTES), np.float32)
            return RewardBatch(text, np.zeros(size, np.int32), labels)
        return text


def cast(shapes: Any, dtype: Any) -> Any:
    """Returns the same shapes in another dtype."""
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.dtype(dtype)), shapes
    )
