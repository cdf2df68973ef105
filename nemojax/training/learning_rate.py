"""The learning rate of every stage: linear warm-up, then a cosine or a constant."""

import dataclasses
import math

from nemojax.errors import UserError


@dataclasses.dataclass(frozen=True)
class LearningRate:
    """Linear warm-up from 0, then half a cosine, or a constant (Megatron-LM's rule).

    Lengths are counted in steps, in pretraining in samples.

    Attributes:
      peak: Rate after the warm-up.
      final_fraction: Fraction of the peak at which the cosine ends; 1 is a constant.
      warmup: Length of the warm-up.
      decay: Where the cosine ends; 0 is the end of the run.

    Raises:
      UserError: a rate that is not positive, or a fraction outside of [0, 1].
    """

    peak: float
    final_fraction: float = 0.1
    warmup: int = 0
    decay: int = 0

    def __post_init__(self):
        if not self.peak > 0:
            raise UserError(f"peak={self.peak} must be positive")
        if not 0 <= self.final_fraction <= 1:
            raise UserError(
                f"final_fraction={self.final_fraction} is outside of [0, 1]"
            )
        if self.decay and self.decay <= self.warmup:
            raise UserError("the warm-up is longer than the decay")

    def at(self, done: int, total: int) -> float:
        """Computes the rate of the step that `done` of `total` went before."""
        if done < self.warmup:
            return self.peak * done / self.warmup
        end = self.decay or total
        progress = min(1.0, (done - self.warmup) / max(1, end - self.warmup))
        cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
        floor = self.final_fraction
        return self.peak * (floor + (1.0 - floor) * cosine)
