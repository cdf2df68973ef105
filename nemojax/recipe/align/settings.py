"""Settings that decide the result of a stage of alignment, and the published values."""

import dataclasses
import functools
import hashlib
import json
import types
from typing import Any

from nemojax.errors import UserError
from nemojax.losses import PAIRWISE
from nemojax.models.lora import LoraConfig
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceConfig, PreferenceLoss
from nemojax.training.optimizer import ADAMW, OptimizerConfig

SFT, REGRESSION, BRADLEY_TERRY, PREFERENCE = (
    "sft",
    "regression",
    "bradley_terry",
    "preference",
)
OBJECTIVES = (SFT, REGRESSION, BRADLEY_TERRY, PREFERENCE)


@dataclasses.dataclass(frozen=True)
class StageSettings:
    """A stage, beside its model and its data.

    Attributes:
      objective: "sft", "regression", "bradley_terry" or "preference".
      learning_rate: learning rate, counted in steps.
      optimizer: constants of AdamW.
      batch: examples of a step: dialogues, responses or pairs.
      epochs: passes over the examples.
      length: tokens of a row; longer examples are left out.
      seed: seed of the orders, a reward head and adapters.
      pack: whether examples share rows.
      preference: loss of the objective "preference".
      pairwise: loss of "bradley_terry": "plain"; "margin": chosen is to win by the
        margin of a pair; "scaled": a pair counts as much as its margin.
      lora: adapters are trained instead of the model; None: the model is.
      attributes: attributes of a reward head.
      validate_every: steps between measures on held-out examples; 0: at the end alone.
      keep_best: whether the parameters with the lowest held-out loss are kept, or
        those of the last step.
    """

    objective: str
    learning_rate: LearningRate
    optimizer: OptimizerConfig = ADAMW
    batch: int = 128
    epochs: int = 1
    length: int = 4096
    seed: int = 0
    pack: bool = True
    preference: PreferenceLoss | None = None
    pairwise: str = "plain"
    lora: LoraConfig | None = None
    attributes: int = 5
    validate_every: int = 0
    keep_best: bool = False

    def __post_init__(self):
        if self.objective not in OBJECTIVES:
            known = ", ".join(OBJECTIVES)
            raise UserError(f"objective {self.objective!r} is none of {known}")
        if (self.objective == PREFERENCE) != (self.preference is not None):
            raise UserError("the objective 'preference' needs a preference loss")
        if self.pairwise not in PAIRWISE:
            known = ", ".join(PAIRWISE)
            raise UserError(f"pairwise {self.pairwise!r} is none of {known}")
        for name in ("batch", "epochs", "length", "attributes"):
            if getattr(self, name) < 1:
                raise UserError(f"{name}={getattr(self, name)} must be positive")

    def to_json(self) -> dict[str, Any]:
        """Returns the settings for the configuration of a work folder."""
        return json.loads(json.dumps(dataclasses.asdict(self), default=_described))


def _described(loss: Any) -> Any:
    """Describes a loss by what it does: code, options, numbers that it closes over.

    Other functions and globals that it uses are not looked at.
    """
    if isinstance(loss, functools.partial):
        return [_described(loss.func), repr(loss.args), repr(loss.keywords)]
    code = getattr(loss, "__code__", None)
    if code is None:
        return f"{type(loss).__module__}.{type(loss).__qualname__}"
    cells = [cell.cell_contents for cell in loss.__closure__ or ()]
    numbers = [cell for cell in cells if isinstance(cell, int | float | str)]
    known = repr((_instructions(code), loss.__defaults__, numbers))
    return f"{loss.__qualname__} {hashlib.sha256(known.encode()).hexdigest()}"


def _instructions(code: types.CodeType) -> tuple[Any, ...]:
    constants = [
        _instructions(one) if isinstance(one, types.CodeType) else one
        for one in code.co_consts
    ]
    return code.co_code, code.co_names, constants


# NeMo-Aligner's optimizer and warm-up, since the report names none.
_POLICY = OptimizerConfig(beta2=0.98, weight_decay=0.01)
_OTHERS = OptimizerConfig(beta2=0.98)


def _constant(rate: float) -> LearningRate:
    return LearningRate(rate, final_fraction=1.0, warmup=10)


# Losses on pairs with their published coefficients: those of the 340B report, then of
# each paper (IPO and APO give none: the report's, and TRL's).
PREFERENCES = {
    "dpo": PreferenceConfig("dpo", beta=9.5e-4, sft_weight=1e-4),
    "rpo": PreferenceConfig("rpo", beta=3e-2, eta=1.0, sft_weight=1e-5),
    "ipo": PreferenceConfig("ipo", beta=9.5e-4, sft_weight=1e-4),
    "simpo": PreferenceConfig("simpo", beta=2.0, gamma=1.0),
    "orpo": PreferenceConfig("orpo", beta=0.1, sft_weight=1.0, sft_average=True),
    "apo_zero": PreferenceConfig("apo_zero", beta=0.1),
    "apo_down": PreferenceConfig("apo_down", beta=0.1),
    "dpo_norm": PreferenceConfig("dpo_norm", beta=5.0),
    "llama3_dpo": PreferenceConfig("dpo", beta=0.1, sft_weight=0.2, sft_average=True),
}

# What the report tells of its stages (sections 3.1 and 3.3, HelpSteer2 section 3).
# Where it gives a range the value is the middle of it, on a logarithmic scale.
PRESETS = {
    "code_sft": StageSettings(SFT, _constant(3e-7), _POLICY, batch=128, epochs=1),
    "general_sft": StageSettings(SFT, _constant(2.2e-7), _POLICY, batch=128, epochs=3),
    "reward": StageSettings(
        REGRESSION, _constant(7e-7), _OTHERS, batch=128, epochs=2, keep_best=True
    ),
    "reward_70b": StageSettings(
        REGRESSION, _constant(2e-6), _OTHERS, batch=128, epochs=2, keep_best=True
    ),
    "bradley_terry": StageSettings(
        BRADLEY_TERRY, _constant(5e-6), _OTHERS, batch=512, epochs=1
    ),
    "dpo": StageSettings(
        PREFERENCE,
        _constant(9.5e-8),
        _OTHERS,
        batch=256,
        preference=PREFERENCES["dpo"],
    ),
    "rpo": StageSettings(
        PREFERENCE,
        _constant(3e-7),
        _OTHERS,
        batch=256,
        preference=PREFERENCES["rpo"],
    ),
}
