"""Every number of the recipe on a data folder, in one place."""

import dataclasses
from typing import Any

from nemojax.models import presets
from nemojax.models.config import ModelConfig
from nemojax.recipe.align.settings import (
    BRADLEY_TERRY,
    PREFERENCE,
    SFT,
    StageSettings,
)
from nemojax.recipe.pretrain.pretraining import PretrainSettings
from nemojax.training.learning_rate import LearningRate
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig
from nemojax.training.schedule import Schedule


@dataclasses.dataclass(frozen=True)
class FolderSettings:
    """Sizes of the model, of the data and of the stages; defaults are the full run.

    Attributes:
      seed: Seed of the initial weights and of all orders; the held-out rows do not
        depend on it.
      vocab_size: Pieces of the tokenizer.
      tokenizer_bytes: Bytes of pretraining text that the tokenizer learns from.
      d_model: Width of the model; its MLP is 4 times as wide.
      num_layers: Layers of the model.
      length: Tokens of a row; longer examples are left out, and counted. No multiple
        of 128, whose rows fall on the same cache lines.
      batch: Samples or examples of a step.
      pretrain_tokens: Tokens of pretraining.
      validations: Number of times the validation text is measured along pretraining.
      validation_bytes: Bytes of each class of text that are measured.
      held_out_share: Share of the prompts of the fine-tuning sets.
      preference_held_out_share: Share of the prompts of the preference sets.
      held_out_rows: Rows of a fine-tuning set that are measured at most.
      held_out_pairs: Pairs of a preference set that are measured at most.
      max_pairs: Pairs that a preference stage trains on at most.
      max_rows_per_file: Fine-tuning rows taken from one file at most, so that no file
        drowns the others.
      max_malformed_share: Share of malformed rows of one kind that stops the run.
      code_share: Share of the general stage's rows that are of the code stage (the
        report's is 2 %).
      reward_epochs, code_epochs, general_epochs, dpo_epochs, rpo_epochs: Passes.
      rpo_rounds: Rounds of RPO; each refers to the policy that the one before left.
    """

    seed: int = 0
    vocab_size: int = 4096
    tokenizer_bytes: int = 4_000_000
    d_model: int = 192
    num_layers: int = 4
    length: int = 376
    batch: int = 16
    pretrain_tokens: int = 2_400_000
    validations: int = 6
    validation_bytes: int = 60_000
    held_out_share: float = 0.1
    preference_held_out_share: float = 0.25
    held_out_rows: int = 250
    held_out_pairs: int = 1000
    max_pairs: int = 10_000
    max_rows_per_file: int = 2000
    max_malformed_share: float = 0.05
    code_share: float = 0.02
    reward_epochs: int = 1
    code_epochs: int = 1
    general_epochs: int = 1
    dpo_epochs: int = 2
    rpo_epochs: int = 1
    rpo_rounds: int = 1

    def model(self, vocab_size: int) -> ModelConfig:
        """Returns the model; the vocabulary is rounded up to a multiple of 64."""
        return dataclasses.replace(
            presets.small(-(-vocab_size // 64) * 64),
            d_model=self.d_model,
            num_layers=self.num_layers,
            num_heads=max(1, self.d_model // 64),
            num_kv_heads=1,
            head_dim=64,
            d_ff=4 * self.d_model,
        )

    def pretrain(self, vocab_size: int) -> PretrainSettings:
        """Returns pretraining: a cosine, as the report's."""
        batch = max(1, self.batch // 2)
        samples = max(batch, self.pretrain_tokens // self.length)
        rate = LearningRate(3e-3, warmup=min(50 * batch, samples // 4))
        steps = -(-samples // batch)
        return PretrainSettings(
            self.model(vocab_size),
            Schedule(samples, batch, rate),
            OptimizerConfig(beta2=0.98),
            self.length,
            self.seed,
            validate_every=max(1, steps // self.validations),
        )

    def stages(self) -> dict[str, StageSettings]:
        """Returns the stages of alignment; beta is within the report's range, eta 1."""
        warm = LearningRate(1e-3, warmup=10)
        adam = OptimizerConfig(beta2=0.98, weight_decay=0.01)
        constant = LearningRate(3e-4, 1.0, warmup=10)
        plain = OptimizerConfig(beta2=0.98, weight_decay=0.0)
        common: dict[str, Any] = {
            "batch": self.batch,
            "length": self.length,
            "seed": self.seed,
        }
        losses: dict[str, Any] = {"beta": 3e-3, "sft_weight": 3e-4}
        found = {
            "reward_model": StageSettings(
                BRADLEY_TERRY, LearningRate(5e-4, warmup=10), adam, attributes=1,
                epochs=self.reward_epochs, **common,
            ),
            "code_sft": StageSettings(
                SFT, warm, adam, epochs=self.code_epochs, **common
            ),
            "general_sft": StageSettings(
                SFT, warm, adam, epochs=self.general_epochs, **common
            ),
            "dpo": StageSettings(
                PREFERENCE, constant, plain, epochs=self.dpo_epochs,
                preference=PreferenceConfig("dpo", **losses), **common,
            ),
        }  # fmt: skip
        rpo = StageSettings(
            PREFERENCE, constant, plain, epochs=self.rpo_epochs,
            preference=PreferenceConfig("rpo", **losses), **common,
        )  # fmt: skip
        return found | {f"rpo_{index + 1}": rpo for index in range(self.rpo_rounds)}

    def configuration(self) -> dict[str, Any]:
        """Returns all numbers, those of the stages and of the model too, as JSON."""
        stages = {name: stage.to_json() for name, stage in self.stages().items()}
        pretrain = self.pretrain(self.vocab_size).to_json()
        return {**dataclasses.asdict(self), "pretrain": pretrain, **stages}


def quick(seed: int = 0) -> FolderSettings:
    """Returns every stage, small: it shows that all works, not how well."""
    return FolderSettings(
        seed=seed,
        tokenizer_bytes=1_000_000,
        d_model=128,
        num_layers=2,
        length=248,
        pretrain_tokens=250_000,
        validations=3,
        validation_bytes=15_000,
        held_out_rows=50,
        held_out_pairs=120,
        max_pairs=300,
        max_rows_per_file=200,
    )
