"""A pretraining run counted in samples: batch ramp, learning rate, change of blend.

All is a function of the samples before a step, so that a run that was stopped, or that
goes on with another number of devices, does the same steps.
"""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any, NamedTuple

from nemojax.errors import UserError
from nemojax.training.learning_rate import LearningRate


class Phase(NamedTuple):
    """Steps of one batch size.

    Attributes:
      batch: sequences a step.
      first_step: number of the first step, from 0.
      first_sample: number of its first sample.
      steps: number of steps.
    """

    batch: int
    first_step: int
    first_sample: int
    steps: int


@dataclasses.dataclass(frozen=True)
class Schedule:
    """Learning rate, batch and blend of a run, by samples seen.

    Attributes:
      samples: sequences of the whole run.
      batch: sequences a step, at last.
      learning_rate: learning rate, counted in samples.
      ramp_start: sequences of the first step; 0: `batch`.
      ramp_increment: sequences by which the batch grows.
      ramp_samples: sequences of the ramp, divided evenly among the increments.
      switch_at: fraction of the peak learning rate at which the second blend begins;
        0: there is none.
    """

    samples: int
    batch: int
    learning_rate: LearningRate
    ramp_start: int = 0
    ramp_increment: int = 0
    ramp_samples: int = 0
    switch_at: float = 0.0

    def __post_init__(self):
        if self.batch < 1 or self.samples < self.batch:
            raise UserError(
                f"{self.samples} samples do not fill a batch of {self.batch}"
            )
        growth = self.batch - self.ramp_start
        if self.ramp_start and (
            self.ramp_increment < 1 or growth < 0 or growth % self.ramp_increment
        ):
            raise UserError(
                f"a batch of {self.ramp_start} does not grow to {self.batch} by "
                f"{self.ramp_increment} at a time"
            )
        if self.samples <= self.learning_rate.warmup:
            raise UserError("the warm-up is longer than the run")

    def batch_after(self, samples: int) -> int:
        """Returns the batch of the step that `samples` samples went before."""
        if not self.ramp_start or self.ramp_start == self.batch:
            return self.batch
        increments = (self.batch - self.ramp_start) // self.ramp_increment
        done = samples * increments // self.ramp_samples if self.ramp_samples else 1e9
        return int(min(self.batch, self.ramp_start + self.ramp_increment * done))

    @functools.cached_property
    def phases(self) -> tuple[Phase, ...]:
        """Phases of all steps; the last step reaches the samples of the run."""
        found, step, sample = [], 0, 0
        while sample < self.samples:
            batch = self.batch_after(sample)
            # The steps until the next size begins, or the run ends.
            low, high = 1, -(-(self.samples - sample) // batch)
            while low < high:
                middle = (low + high) // 2
                if self.batch_after(sample + middle * batch) > batch:
                    high = middle
                else:
                    low = middle + 1
            found.append(Phase(batch, step, sample, low))
            step, sample = step + low, sample + low * batch
        return tuple(found)

    @property
    def steps(self) -> int:
        """Number of steps of the whole run."""
        return sum(phase.steps for phase in self.phases)

    def at(self, step: int) -> tuple[int, int]:
        """Returns (samples before a step, its batch)."""
        for phase in reversed(self.phases):
            if step >= phase.first_step:
                before = (step - phase.first_step) * phase.batch
                return phase.first_sample + before, phase.batch
        raise UserError(f"step {step}")

    def rate_at(self, step: int) -> float:
        """Returns the learning rate of a step."""
        return self.learning_rate.at(self.at(step)[0], self.samples)

    @property
    def switch_step(self) -> int | None:
        """The first step with the second blend; None if there is none."""
        if not self.switch_at:
            return None
        low, high = 0, self.steps
        while low < high:
            middle = (low + high) // 2
            warm = self.at(middle)[0] >= self.learning_rate.warmup
            if (
                warm
                and self.rate_at(middle) <= self.switch_at * self.learning_rate.peak
            ):
                high = middle
            else:
                low = middle + 1
        return low if low < self.steps else None

    def of_steps(self, steps: int) -> "Schedule":
        """Shortens the schedule in proportion to so many steps of the last batch."""
        samples = steps * self.batch
        scale = samples / self.samples
        return dataclasses.replace(
            self,
            samples=samples,
            learning_rate=dataclasses.replace(
                self.learning_rate,
                warmup=int(self.learning_rate.warmup * scale),
                decay=int(self.learning_rate.decay * scale),
            ),
            ramp_samples=int(self.ramp_samples * scale),
        )


_RAMP_SAMPLES = 97_656_250  # 400e9 tokens in sequences of 4,096
_SAMPLES = 1_953_125_000  # 8e12 tokens


def _pretraining(peak: float) -> LearningRate:
    """Makes a schedule with numbers of NVIDIA's training script, not the report."""
    return LearningRate(peak, 0.1, warmup=3_906_252, decay=1_949_218_748)


PRESETS = {
    "nemotron4_340b_pretrain": Schedule(
        _SAMPLES, 2304, _pretraining(1e-4), 768, 768, _RAMP_SAMPLES
    ),
    "nemotron4_15b_pretrain": Schedule(
        _SAMPLES, 1152, _pretraining(4.5e-4), 384, 384, _RAMP_SAMPLES
    ),
    # 1e12 tokens from the learning rate at which pretraining ended, without warm-up, to
    # a hundredth of it; the second blend from a fifth on ("Reuse, Don't Retrain",
    # Parmar et al. 2024, rules 2 and 3; for 340B the report gives no numbers).
    "nemotron4_continued": Schedule(
        244_140_625, 2304, LearningRate(1e-5, 0.01), switch_at=0.2
    ),
}


def get(name: str) -> Schedule:
    """Returns the preset of that name.

    Raises:
      UserError: there is none; the message lists the valid names.
    """
    if name not in PRESETS:
        raise UserError(f"unknown schedule {name!r}; one of {', '.join(PRESETS)}")
    return PRESETS[name]


def chosen(
    preset: str | None,
    model: str,
    values: Schedule,
    given: Mapping[str, Any],
    rate: Mapping[str, Any],
    steps: int = 0,
) -> Schedule:
    """Returns the preset, or the model's own, or a default, with the given values.

    Args:
      preset: name of the preset; None: `{model}_pretrain` if there is one.
      model: name of a model.
      values: the default.
      given: fields that are asked for.
      rate: fields of the learning rate that are asked for.
      steps: length of the run, as so many steps of the last batch, in proportion; 0: as
        it is.

    Raises:
      UserError: no such preset, or values that do not go together.
    """
    own = f"{model}_pretrain"
    name = preset or (own if own in PRESETS else None)
    base = get(name) if name else values
    rates = dataclasses.replace(base.learning_rate, **rate)
    found = dataclasses.replace(base, **given, learning_rate=rates)
    return found.of_steps(steps) if steps else found
