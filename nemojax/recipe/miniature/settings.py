"""Every number of the miniature recipe, in one place."""

import dataclasses
import functools
from typing import Any

from nemojax.models import presets
from nemojax.models.config import ModelConfig
from nemojax.recipe.align.settings import PREFERENCE, REGRESSION, SFT, StageSettings
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig

# Tokens of a row, of one to four examples. Attention over 240 made a token half as
# dear again. No multiple of 128: rows of that length fall on the same cache lines.
LENGTH = 120
_PREFERENCE: dict[str, Any] = {"beta": 0.3, "sft_weight": 0.3}
# Scalar reward for training policies: no pay for complexity where longer is not better.
POLICY_WEIGHTS = (0.65, 0.8, 0.45, 0.0, -0.1)
# A fact is learnt by heart, not by rule: the reward model must see each one often.
REWARD_WEIGHTS = {"math": 0.3, "code": 0.2, "instruction": 0.25, "facts": 0.25}
SFT_WEIGHTS = {"math": 0.48, "instruction": 0.48, "facts": 0.04}
# More of what General SFT leaves to be learnt.
PREFERENCE_WEIGHTS = {"math": 0.2, "code": 0.35, "instruction": 0.4, "facts": 0.05}


@dataclasses.dataclass(frozen=True)
class MiniatureSettings:
    """The sizes of the data and of the stages; defaults are the full run.

    Attributes:
      seed: seed of everything random, evaluation tasks included.
      teacher: kind of errors of the scripted teacher.
      controls: also train the control rows (unfiltered teacher, no preference loss).
      vocab_size: vocabulary of the tokenizer.
      pretrain_tokens: tokens of both phases together.
      second_phase: share of the tokens in the phase with questions and answers.
      reward_prompts: teacher prompts that are annotated, two responses each.
      policy_reward_prompts: prompts whose answers by the SFT policy are annotated.
      reward_held_out: held-out prompts that measure a reward model.
      code_rows, general_rows: rows kept for the two SFT stages.
      teacher_samples: answers of the teacher to each prompt.
      keep: share of a family's answers that the reward model lets through.
      replay_share: pretraining documents per SFT row in the general stage.
      grounded_share: questions made from documents per SFT row.
      code_share: rows of the code stage replayed in the general stage (report: 2 %).
      preference_prompts, preference_samples: sizes for DPO and each RPO round.
      pairs_per_prompt: preference pairs taken from one prompt at most.
      rpo_rounds: three in the report.
      eval_tasks: held-out tasks of each family.
    """

    seed: int = 0
    teacher: str = "random"
    controls: bool = False
    vocab_size: int = 704
    pretrain_tokens: int = 2_800_000
    second_phase: float = 0.35
    reward_prompts: int = 4000
    policy_reward_prompts: int = 1500
    reward_held_out: int = 1000
    code_rows: int = 2400
    general_rows: int = 6000
    teacher_samples: int = 4
    keep: float = 0.5
    replay_share: float = 0.3
    grounded_share: float = 0.05
    code_share: float = 0.02
    preference_prompts: int = 2000
    preference_samples: int = 4
    pairs_per_prompt: int = 2
    rpo_rounds: int = 3
    eval_tasks: int = 1000

    def model(self, vocab_size: int) -> ModelConfig:
        """Returns the model; its vocabulary is rounded up to a multiple of 64."""
        return presets.miniature(-(-vocab_size // 64) * 64)

    def stages(self) -> dict[str, StageSettings]:
        """Returns the stages of alignment, by the kind of data that they take."""
        adam = OptimizerConfig(beta2=0.98, weight_decay=0.01)
        sft = functools.partial(
            StageSettings, SFT, LearningRate(2e-3, warmup=10), adam, batch=23
        )
        # One epoch at a constant rate, without weight decay.
        prefer = functools.partial(
            StageSettings, PREFERENCE, LearningRate(1e-4, 1.0, warmup=5),
            OptimizerConfig(beta2=0.98, weight_decay=0.0), batch=16,
        )  # fmt: skip
        found = {
            # Two epochs, as HelpSteer2.
            "reward": StageSettings(
                REGRESSION, LearningRate(1e-3, warmup=20), adam, batch=23, epochs=2
            ),
            "code_sft": sft(batch=12),
            "general_sft": sft(epochs=3),
            "dpo": prefer(preference=PreferenceConfig("dpo", **_PREFERENCE)),
            "rpo": prefer(preference=PreferenceConfig("rpo", **_PREFERENCE)),
        }
        return {
            name: dataclasses.replace(stage, length=LENGTH, seed=self.seed)
            for name, stage in found.items()
        }


def quick(seed: int = 0, teacher: str = "random") -> MiniatureSettings:
    """Returns small settings of every stage, which show that it works, not how well."""
    return MiniatureSettings(
        seed=seed,
        teacher=teacher,
        pretrain_tokens=400_000,
        reward_prompts=400,
        policy_reward_prompts=150,
        reward_held_out=300,
        code_rows=300,
        general_rows=900,
        preference_prompts=100,
        eval_tasks=100,
    )
