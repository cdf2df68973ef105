"""A reward model is a sequence classifier of transformers, and comes back as it was."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.data.records import ATTRIBUTES, Conversation
from nemojax.data.text import tokenizer as tokenizers
from nemojax.data.text.nemotron_template import NEMOTRON as TEMPLATE
from nemojax.interop import classifier, huggingface, weights
from nemojax.models import forward
from tests.interop.tiny import LLAMA, NEMOTRON, assert_same, random_params

TEXTS = ["the teacher teaches three texts, ==, 1 + 1 = 2\n"] * 20
FIELDS = {"bos_token_id": 2, "eos_token_id": 3, "pad_token_id": 0}
CONFIGS = {
    "nemotron": NEMOTRON,
    "llama": dataclasses.replace(LLAMA, rope_scaling=None),
}


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.train(TEXTS, vocab_size=40, byte_fallback=False)


def judge(config, dtype="float32", bias=True):
    """A reward model without an LM head, as training makes it."""
    params = dict(random_params(config, dtype, 5))
    del params["lm_head"]
    head = dict(params["reward_head"])
    if not bias:
        head["bias"] = jnp.zeros_like(head["bias"])
    trunk = {k: leaf for k, leaf in params.items() if k != "reward_head"}
    trunk = jax.tree.map(lambda leaf: leaf * 0.3, trunk)
    return {**trunk, "reward_head": head}


def conversations(count):
    """Of three lengths."""
    words = TEXTS[0].split()
    rng = np.random.default_rng(0)
    for index in range(count):
        text = " ".join(rng.choice(words, (3, 11, 29)[index % 3]))
        yield Conversation.of(text, words[index % len(words)], "the texts")


def our_scores(config, params, rows):
    width = max(map(len, rows))
    tokens, mask = (np.zeros((len(rows), width), np.int32) for _ in range(2))
    for row, ids in enumerate(rows):
        tokens[row, : len(ids)], mask[row, : len(ids)] = ids, 1
    values = jax.jit(forward.rewards, static_argnums=0)(
        config, params, tokens, segment_ids=mask
    )
    return np.asarray(values)[np.arange(len(rows)), mask.sum(1) - 1]


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_scores_of_transformers_are_ours(tmp_path, tokenizer, kind, side):
    """Of text, with no code of ours: template, padding, pooling and head are theirs."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    config = CONFIGS[kind]
    params = judge(config, bias=kind == "nemotron")
    path = tmp_path / "judge"
    huggingface.save(path, config, params, tokenizer)
    theirs = transformers.AutoTokenizer.from_pretrained(path, padding_side=side)
    model, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        path, output_loading_info=True
    )
    assert not any(info[key] for key in info), info
    assert list(model.config.id2label.values()) == list(ATTRIBUTES)
    talks = list(conversations(30))
    texts = [
        theirs.apply_chat_template(
            [{"role": m.role, "content": m.content} for m in talk.messages],
            tokenize=False,
        )
        for talk in talks
    ]
    batch = theirs(texts, add_special_tokens=False, padding=True, return_tensors="pt")
    with torch.no_grad():
        found = model(batch["input_ids"], batch["attention_mask"]).logits.numpy()
    rows = [TEMPLATE.encode_for_reward(tokenizer, talk) for talk in talks]
    expected = our_scores(config, params, rows)
    assert expected.std() > 0.1
    np.testing.assert_allclose(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("kind", CONFIGS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.filterwarnings("ignore:a norm without a bias")
def test_the_way_back_is_bit_for_bit(tmp_path, kind, dtype):
    params = judge(CONFIGS[kind], dtype)
    huggingface.save(tmp_path / "judge", CONFIGS[kind], params, fields=FIELDS)
    assert_same(huggingface.load(tmp_path / "judge")[1], params)


def test_a_bias_that_has_no_place_is_told_of(tmp_path):
    path = tmp_path / "judge"
    with pytest.warns(UserWarning, match="add the bias of reward_head.json"):
        huggingface.save(path, LLAMA, judge(LLAMA), fields=FIELDS)


def test_padding_that_ends_texts_is_left_out(tmp_path):
    fields = {"eos_token_id": [3, 5], "pad_token_id": 5}
    with pytest.warns(UserWarning, match="one conversation at a time"):
        huggingface.save(tmp_path / "judge", NEMOTRON, judge(NEMOTRON), fields=fields)
    text = (tmp_path / "judge" / "config.json").read_text()
    assert "pad_token_id" not in text


def test_what_others_trained_further_has_their_bias(tmp_path):
    """The file beside the weights is of other weights, and the head has no bias."""
    safetensors = pytest.importorskip("safetensors.numpy")
    path = tmp_path / "judge"
    params = judge(NEMOTRON)
    huggingface.save(path, NEMOTRON, params, fields=FIELDS)
    tensors = safetensors.load_file(path / weights.SINGLE)
    tensors[classifier.NORM_BIAS] += 0.5
    safetensors.save_file(tensors, path / weights.SINGLE)
    _, found = huggingface.load(path)
    assert not found["reward_head"]["bias"].any()
    np.testing.assert_array_equal(
        found["final_norm"]["bias"], tensors[classifier.NORM_BIAS]
    )


def test_outputs_that_depend_on_each_other_are_refused(tmp_path):
    params = judge(NEMOTRON)
    kernel = params["reward_head"]["kernel"]
    params["reward_head"]["kernel"] = kernel.at[:, 1].set(kernel[:, 0])
    with pytest.raises(ValueError, match="depend on each other"):
        huggingface.save(tmp_path / "judge", NEMOTRON, params)
    assert not (tmp_path / "judge").exists()


@pytest.mark.parametrize(
    "text", ["[]", "{}", '{"sha256": 1}', '{"sha256": {}, "bias": {"values": [1]}}']
)
def test_a_damaged_file_of_biases_is_refused(tmp_path, text):
    path = tmp_path / "judge"
    huggingface.save(path, NEMOTRON, judge(NEMOTRON), fields=FIELDS)
    (path / classifier.FILE).write_text(text)
    with pytest.raises(ValueError, match=r"reward_head\.json"):
        huggingface.load(path)
