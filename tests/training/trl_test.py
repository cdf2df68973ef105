"""DPO and RPO are those of TRL's trainer, step for step; runs where TRL is installed.

The same weights, texts, order, AdamW, weight decay and clipping, in float32. TRL gets
our tokenizer as the files that we write, and renders and tokenizes the pairs itself.
"""

import functools

import jax
import numpy as np
import pytest

from nemojax.data.batching import packing
from nemojax.data.records import Conversation, Message, PreferencePair
from nemojax.data.text import tokenizer as tokenizer_lib
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.interop import tokenizer_files
from nemojax.training import objectives, step
from nemojax.training.objectives import PreferenceBatch, PreferenceConfig
from nemojax.training.optimizer import OptimizerConfig, make_optimizer

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
datasets = pytest.importorskip("datasets")
trl = pytest.importorskip("trl")
huggingface = pytest.importorskip("nemojax.interop.huggingface")

pytestmark = pytest.mark.usefixtures("quick_compile", "one_thread")

STEPS, PAIRS = 20, 4  # pairs of a step
BETA = 0.1
# Clips most of the gradients, and learns the pairs in these steps.
RATE = 1e-3
ADAM = OptimizerConfig()
VOCABULARY = 310
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 160,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
}
TEXT = "a hundred small words of which no two lists are the same , or nearly"
# TRL's name of a metric, and ours.
METRICS = {
    "loss": "loss",
    "grad_norm": "grad_norm",
    "rewards/chosen": "implicit_reward_chosen",
    "rewards/rejected": "implicit_reward_rejected",
    "rewards/margins": "implicit_reward_gap",
    "rewards/accuracies": "accuracy",
}


@pytest.fixture(scope="module")
def one_thread():
    """Threads of torch that wait for each other take many times as long."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def pairs():
    """Those of all steps in their order: twenty, again and again.

    Lengths differ inside of a pair and between pairs. Every third prompt has an
    assistant turn of its own, which is no target.
    """
    rng = np.random.default_rng(0)

    def text(most):
        return " ".join(rng.choice(TEXT.split(), rng.integers(1, most)))

    found = []
    for k in range(20):
        messages = [Message("user", text(12))]
        if k % 3 == 0:
            messages += [Message("assistant", text(6)), Message("user", text(4))]
        found.append(PreferencePair(Conversation(tuple(messages)), text(16), text(16)))
    return found * (STEPS * PAIRS // len(found))


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizer_lib.train([TEXT] * 20, vocab_size=VOCABULARY)


@pytest.fixture(scope="module")
def groups(tokenizer, pairs):
    """(tokens, loss mask) of both responses of each pair."""
    return [
        [
            NEMOTRON.encode_response(tokenizer, pair.prompt, text)
            for text in (pair.chosen, pair.rejected)
        ]
        for pair in pairs
    ]


@pytest.fixture(scope="module")
def saved(tmp_path_factory, tokenizer):
    """name -> folder of a model with random weights, and of the tokenizer."""

    @functools.cache
    def save(name):
        path = tmp_path_factory.mktemp(name)
        config = transformers.AutoConfig.for_model(name, **SIZES)
        torch.manual_seed(0)
        transformers.AutoModelForCausalLM.from_config(config).save_pretrained(path)
        tokenizer_files.write(path, tokenizer)
        return path

    return save


@pytest.fixture(scope="module")
def ours(saved, groups):
    """(model, loss) -> {metric: values [STEPS]}."""

    @functools.cache
    def train(name, loss):
        config, params = huggingface.load(saved(name))
        adam = make_optimizer(ADAM)
        preference = PreferenceConfig(loss, beta=BETA, eta=1.0)
        objective = objectives.preference_objective(config, preference)
        train_step = step.make_train_step(objective, adam)
        state = step.init_state(params, adam)
        rows = []
        for batch in batches(config, params, groups):
            state, metrics = train_step(state, batch, RATE)
            rows.append(metrics)
        assert len(rows) == STEPS
        return {
            name: np.array([row[name] for row in rows]) for name in METRICS.values()
        }

    return train


def batches(config, params, groups):
    """Packed, with the reference's log-probs; all chosen rewards are 1, others 0."""
    reference = jax.jit(
        lambda text, ids: objectives.sequence_log_probs(
            config, params, text, ids, 2 * PAIRS
        )
    )
    rewards = np.tile(np.array([1, 0], np.float32), PAIRS)
    valid = np.ones(PAIRS, np.float32)
    for packed in packing.pack(groups, rows=4, length=256, max_sequences=2 * PAIRS):
        text, ids = packed.batch, packed.sequence_ids
        yield PreferenceBatch(
            text, ids, reference(text, ids), rewards, 0 * valid, valid
        )


def theirs(path, pairs, output, **options):
    """TRL's trainer after the steps."""

    def turn(role, text):
        return {"role": role, "content": text}

    rows = [
        {
            "prompt": [turn(m.role, m.content) for m in pair.prompt.messages],
            "chosen": [turn("assistant", pair.chosen)],
            "rejected": [turn("assistant", pair.rejected)],
        }
        for pair in pairs
    ]
    settings = trl.DPOConfig(
        output_dir=str(output),
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=ADAM.beta1,
        adam_beta2=ADAM.beta2,
        adam_epsilon=ADAM.epsilon,
        weight_decay=ADAM.weight_decay,
        max_grad_norm=ADAM.clip_norm,
        beta=BETA,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        **options,
    )
    trainer = trl.DPOTrainer(
        transformers.AutoModelForCausalLM.from_pretrained(path),
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(path),
    )
    trainer.train()
    return trainer


def tokens_of(trainer):
    """What TRL has made of the pairs, as `groups`."""
    return [
        [
            (row["prompt_ids"] + ids, [0] * len(row["prompt_ids"]) + [1] * len(ids))
            for ids in (row["chosen_ids"], row["rejected_ids"])
        ]
        for row in trainer.train_dataset
    ]


def assert_same(found, trainer, entropy=0.0):
    """All metrics of all steps to 1e-4; TRL's loss has an entropy on top of ours."""
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == STEPS
    for theirs_name, name in METRICS.items():
        values = found[name] + (entropy if name == "loss" else 0.0)
        expected = [row[theirs_name] for row in rows]
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-4, err_msg=name)


@pytest.mark.parametrize("cached", [False, True])
@pytest.mark.parametrize("name", ["nemotron", "llama"])
def test_dpo(saved, pairs, groups, ours, tmp_path, name, cached):
    """Whether TRL computes its reference in each step or before the first."""
    trainer = theirs(
        saved(name),
        pairs,
        tmp_path,
        per_device_train_batch_size=PAIRS,
        precompute_ref_log_probs=cached,
    )
    assert tokens_of(trainer) == groups
    found = ours(name, "dpo")
    assert_same(found, trainer)
    assert found["loss"][-3:].mean() < found["loss"][0] / 2


def test_rpo(saved, pairs, ours, tmp_path):
    """RPO is DPO with a soft label, the sigmoid of the reward gap, less its entropy.

    TRL smoothes labels so in "aot", whose sorting does nothing to one pair at a time.
    """
    right = 1 / (1 + np.exp(-1.0))
    trainer = theirs(
        saved("nemotron"),
        pairs,
        tmp_path,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=PAIRS,
        loss_type="aot",
        label_smoothing=1 - right,
    )
    entropy = -right * np.log(right) - (1 - right) * np.log(1 - right)
    found = ours("nemotron", "rpo")
    assert_same(found, trainer, entropy)
    assert found["loss"][-3:].mean() < found["loss"][0] / 2
