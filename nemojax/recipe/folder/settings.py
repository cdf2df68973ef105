"""Every number of the recipe on real data files, in one place."""

import dataclasses
from typing import Any

from nemojax.models import presets
from nemojax.models.config import ModelConfig
from nemojax.recipe.miniature.trainer import Phase
from nemojax.training.objectives import PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig


@dataclasses.dataclass(frozen=True)
class Settings:
    """The sizes of the model, of the data and of the stages; defaults are the full run.

    Attributes:
      seed: of the initial weights and of all orders; the held-out rows do not depend
        on it.
      vocab_size: of the tokenizer.
      tokenizer_bytes: pretraining text that the tokenizer learns from.
      d_model, num_layers: of the model; its MLP is 4 times as wide as `d_model`.
      length: tokens of a row; longer examples are left out, and counted. No multiple
        of 128, whose rows fall on the same cache lines.
      long_pair: tokens of a response with its prompt above which a preference pair
        loses the oldest turns of its dialogue.
      rows: rows of a batch; even, for two devices.
      preference_rows: rows of a batch of preference pairs.
      pretrain_tokens: of pretraining.
      validations: how often the validation text is measured along pretraining.
      validation_bytes: of each class of text.
      held_out_share: of the prompts of the fine-tuning sets.
      preference_held_out_share: of the prompts of the preference sets.
      held_out_rows, held_out_pairs: rows of a set that are measured at most.
      max_pairs: pairs that a preference stage trains on at most.
      max_rows_per_file: fine-tuning rows taken from one file at most, so that no file
        drowns the others.
      max_malformed_share: of the rows of one kind; more stops the run.
      code_share: rows of the code stage in the general stage (report: 2 %).
      reward_epochs, code_epochs, general_epochs, dpo_epochs, rpo_epochs: passes.
      rpo_rounds: each round refers to the policy that the one before left.
    """

    seed: int = 0
    vocab_size: int = 4096
    tokenizer_bytes: int = 4_000_000
    d_model: int = 192
    num_layers: int = 4
    length: int = 376
    long_pair: int = 160
    rows: int = 8
    preference_rows: int = 24
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
        """The model, with the tokenizer's vocabulary rounded up to a multiple of 64."""
        return dataclasses.replace(
            presets.small(-(-vocab_size // 64) * 64),
            d_model=self.d_model,
            num_layers=self.num_layers,
            num_heads=max(1, self.d_model // 64),
            num_kv_heads=1,
            head_dim=64,
            d_ff=4 * self.d_model,
        )

    def pretrain(self) -> Phase:
        """Pretraining: cosine, as the report's."""
        optimizer = OptimizerConfig(3e-3, warmup_steps=50, beta2=0.98)
        return self._phase("pretrain", optimizer, 1)

    def reward(self) -> Phase:
        """Bradley-Terry reward model."""
        return self._phase("reward model", _alignment(5e-4), self.reward_epochs)

    def code_sft(self) -> Phase:
        """Code SFT, before the general one."""
        return self._phase("code SFT", _alignment(1e-3), self.code_epochs)

    def general_sft(self) -> Phase:
        """General SFT."""
        return self._phase("general SFT", _alignment(1e-3), self.general_epochs)

    def dpo(self) -> tuple[Phase, PreferenceConfig]:
        """DPO with the SFT term; beta within the report's range."""
        phase = self._phase("DPO", _preference(3e-4), self.dpo_epochs)
        phase = dataclasses.replace(phase, rows=self.preference_rows)
        return phase, PreferenceConfig("dpo", beta=3e-3, sft_weight=3e-4)

    def rpo(self, name: str) -> tuple[Phase, PreferenceConfig]:
        """One round of RPO; beta within the report's range, eta = 1."""
        phase = self._phase(name, _preference(3e-4), self.rpo_epochs)
        phase = dataclasses.replace(phase, rows=self.preference_rows)
        return phase, PreferenceConfig("rpo", beta=3e-3, eta=1.0, sft_weight=3e-4)

    def configuration(self) -> dict[str, Any]:
        """All numbers, those of the phases and of the model included, as JSON."""
        phases: dict[str, Any] = {
            name: dataclasses.asdict(getattr(self, name)())
            for name in ("pretrain", "reward", "code_sft", "general_sft")
        }
        for name, (phase, loss) in (("dpo", self.dpo()), ("rpo", self.rpo("RPO"))):
            phases[name] = {
                **dataclasses.asdict(phase),
                "loss": dataclasses.asdict(loss),
            }
        model = dataclasses.asdict(self.model(self.vocab_size))
        return {**dataclasses.asdict(self), "model": model, **phases}

    def _phase(self, name: str, optimizer: OptimizerConfig, epochs: int) -> Phase:
        return Phase(name, optimizer, self.rows, self.length, epochs, 200)


def quick(seed: int = 0) -> Settings:
    """Every stage, small: shows that it works, not how well."""
    return Settings(
        seed=seed,
        tokenizer_bytes=1_000_000,
        d_model=128,
        num_layers=2,
        length=248,
        long_pair=120,
        pretrain_tokens=250_000,
        validations=3,
        validation_bytes=15_000,
        held_out_rows=50,
        held_out_pairs=120,
        max_pairs=300,
        max_rows_per_file=200,
    )


def _alignment(peak_lr: float) -> OptimizerConfig:
    return OptimizerConfig(peak_lr, warmup_steps=10, beta2=0.98, weight_decay=0.01)


def _preference(peak_lr: float) -> OptimizerConfig:
    """A constant rate, as the report's, without weight decay."""
    return OptimizerConfig(
        peak_lr, "constant", warmup_steps=10, beta2=0.98, weight_decay=0.0
    )
