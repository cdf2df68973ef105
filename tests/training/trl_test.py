"""Preference losses are those of TRL's trainers, step for step, where TRL is installed.

The same weights, texts, order, AdamW, weight decay and clipping, in float32. TRL gets
our tokenizer as the files that we write, and renders and tokenizes the pairs itself.
"""

import functools
import itertools

import jax
import numpy as np
import pytest

from nemojax.data.batching.example_batches import ExampleBatches
from nemojax.data.records import Conversation, Message, PreferencePair
from nemojax.data.text import tokenizer as tokenizer_lib
from nemojax.data.text.nemotron_template import NEMOTRON
from nemojax.interop import tokenizer_files
from nemojax.training import objectives, step
from nemojax.training.objectives import KTOBatch, PreferenceBatch, PreferenceConfig
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
    """(model, loss) -> {metric: values [STEPS]}; all chosen rewards are 1, others 0."""
    rewards = np.tile(np.array([1, 0], np.float32), PAIRS)
    valid = np.ones(PAIRS, np.float32)

    @functools.cache
    def train(name, loss):
        config, params = huggingface.load(saved(name))
        objective = objectives.preference_objective(config, loss)
        batches = (
            PreferenceBatch(*found, rewards, 0 * valid, valid)
            for found in packed(config, params, groups)
        )
        return trained(params, objective, batches)

    return train


def trained(params, objective, batches):
    """{metric: values [STEPS]}"""
    adam = make_optimizer(ADAM)
    train_step = step.make_train_step(objective, adam)
    state = step.init_state(params, adam)
    rows = []
    for batch in batches:
        state, metrics = train_step(state, batch, RATE)
        rows.append(metrics)
    assert len(rows) == STEPS
    return {name: np.array([row[name] for row in rows]) for name in rows[0]}


def packed(config, params, groups):
    """Yields text, sequence ids and the reference's log-probs of each step."""
    reference = jax.jit(
        lambda text, ids: objectives.sequence_log_probs(
            config, params, text, ids, 2 * PAIRS
        )
    )
    examples = ExampleBatches(groups, batch=PAIRS, length=256, seed=None)
    for found in itertools.chain(*map(examples.parts, range(len(examples)))):
        text, ids = found.batch, found.sequence_ids
        yield text, ids, reference(text, ids)


def turn(role, text):
    return {"role": role, "content": text}


def turns(prompt):
    return [turn(message.role, message.content) for message in prompt.messages]


def theirs(path, pairs, output, **options):
    """TRL's DPO trainer after the steps."""
    rows = [
        {
            "prompt": turns(pair.prompt),
            "chosen": [turn("assistant", pair.chosen)],
            "rejected": [turn("assistant", pair.rejected)],
        }
        for pair in pairs
    ]
    return run(trl.DPOTrainer, trl.DPOConfig, path, rows, output, **options)


def run(trainer, config, path, rows, output, **options):
    settings = config(
        output_dir=str(output),
        max_steps=STEPS,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        adam_beta1=ADAM.beta1,
        adam_beta2=ADAM.beta2,
        adam_epsilon=ADAM.epsilon,
        weight_decay=ADAM.weight_decay,
        max_grad_norm=ADAM.clip_norm,
        train_sampling_strategy="sequential",
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        **({"beta": BETA} | options),
    )
    trained = trainer(
        transformers.AutoModelForCausalLM.from_pretrained(path),
        args=settings,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=transformers.AutoTokenizer.from_pretrained(path),
    )
    trained.train()
    return trained


def tokens_of(trainer):
    """What TRL has made of the pairs, as `groups`."""
    return [
        [
            (row["prompt_ids"] + ids, [0] * len(row["prompt_ids"]) + [1] * len(ids))
            for ids in (row["chosen_ids"], row["rejected_ids"])
        ]
        for row in trainer.train_dataset
    ]


def assert_same(found, trainer, metrics=METRICS, entropy=0.0):
    """Compares the metrics of all steps to 1e-4 + 5e-5 of their size."""
    rows = [row for row in trainer.state.log_history if "loss" in row]
    assert len(rows) == STEPS
    for theirs_name, name in metrics.items():
        values = found[name] + (entropy if name == "loss" else 0.0)
        expected = [row[theirs_name] for row in rows]
        # Gradient norms reach 20, and torch adds up in another order.
        np.testing.assert_allclose(values, expected, rtol=5e-5, atol=1e-4, err_msg=name)


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
    found = ours(name, PreferenceConfig("dpo", beta=BETA))
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
    found = ours("nemotron", PreferenceConfig("rpo", beta=BETA, eta=1.0))
    assert_same(found, trainer, entropy=entropy)
    assert found["loss"][-3:].mean() < found["loss"][0] / 2


# Of a loss on means TRL logs the rewards of sums.
LOSS = {"loss": "loss", "grad_norm": "grad_norm"}


@pytest.mark.parametrize(
    ("loss", "options", "metrics"),
    [
        (PreferenceConfig("apo_zero", beta=BETA), {"loss_type": "apo_zero"}, METRICS),
        (PreferenceConfig("apo_down", beta=BETA), {"loss_type": "apo_down"}, METRICS),
        (PreferenceConfig("dpo_norm", beta=5.0), {"loss_type": "sigmoid_norm"}, LOSS),
        (
            PreferenceConfig("dpo", beta=BETA, sft_weight=0.2, sft_average=True),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.2]},
            METRICS,
        ),
    ],
    ids=["apo_zero", "apo_down", "dpo_norm", "llama3_dpo"],
)
def test_relatives_of_dpo(saved, pairs, ours, tmp_path, loss, options, metrics):
    """A pair at a time, since TRL's SFT term is a mean over the tokens of all pairs."""
    trainer = theirs(
        saved("nemotron"),
        pairs,
        tmp_path,
        beta=loss.beta,
        per_device_train_batch_size=1,
        gradient_accumulation_steps=PAIRS,
        **options,
    )
    found = ours("nemotron", loss)
    assert_same(found, trainer, metrics)
    assert found["loss"][-1] < found["loss"][0] - 0.1


def test_kto(saved, tokenizer, pairs, tmp_path):
    """A step has four responses; each is also put behind the next one's prompt."""
    rows = [
        (pair.prompt, pair.chosen if k % 3 else pair.rejected, bool(k % 3))
        for k, pair in enumerate(pairs)
    ]
    steps = [rows[k : k + PAIRS] for k in range(0, len(rows), PAIRS)]
    groups = [
        [
            NEMOTRON.encode_response(tokenizer, prompt, text)
            for text in (found[j][1], found[j - 1][1])
        ]
        for found in steps
        for j, (prompt, _, _) in enumerate(found)
    ]
    config, params = huggingface.load(saved("nemotron"))
    found = trained(
        params,
        objectives.kto_objective(
            config, beta=BETA, desirable_weight=1.5, undesirable_weight=0.5
        ),
        (
            KTOBatch(*batch, np.array([row[2] for row in step]), np.ones(PAIRS))
            for step, batch in zip(steps, packed(config, params, groups), strict=True)
        ),
    )
    trainer = run(
        trl.KTOTrainer,
        trl.KTOConfig,
        saved("nemotron"),
        [
            {
                "prompt": turns(prompt),
                "completion": [turn("assistant", text)],
                "label": label,
            }
            for prompt, text, label in rows
        ],
        tmp_path,
        per_device_train_batch_size=PAIRS,
        desirable_weight=1.5,
        undesirable_weight=0.5,
    )
    assert_same(found, trainer, LOSS | {"kl": "kl_baseline"})
    assert (found["kl_baseline"] > 0.1).any() and (found["kl_baseline"] == 0).any()
    assert found["loss"][-3:].mean() < found["loss"][0]
