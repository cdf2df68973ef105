"""The model is Hugging Face's Nemotron, weight for weight; runs where torch is."""

import jax
import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quick_compile")

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def nemotron(config):
    """A random Nemotron with our tiny sizes, whose norms and biases are not trivial."""
    torch.manual_seed(0)
    model = transformers.NemotronForCausalLM(
        transformers.NemotronConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.d_model,
            intermediate_size=config.d_ff,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            partial_rotary_factor=config.rotary_fraction,
            norm_eps=config.norm_epsilon,
            hidden_act="relu2",
            max_position_embeddings=64,
            tie_word_embeddings=False,
            attn_implementation="eager",
        )
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.normal_(0, 0.2)
    return model.eval()


def our_params(state, num_layers):
    """Our tree from a Nemotron state dict: linear layers are stored transposed."""

    def stack(name, transpose=False):
        layers = [state[f"model.layers.{i}.{name}"] for i in range(num_layers)]
        return np.stack([layer.T if transpose else layer for layer in layers])

    def norm(name):
        return {"weight": stack(f"{name}.weight"), "bias": stack(f"{name}.bias")}

    return {
        "embedding": {"table": state["model.embed_tokens.weight"]},
        "layers": {
            "attention_norm": norm("input_layernorm"),
            "attention": {
                ours: stack(f"self_attn.{theirs}_proj.weight", transpose=True)
                for ours, theirs in zip(
                    ("query", "key", "value", "output"), "qkvo", strict=True
                )
            },
            "mlp_norm": norm("post_attention_layernorm"),
            "mlp": {
                name: stack(f"mlp.{name}_proj.weight", transpose=True)
                for name in ("up", "down")
            },
        },
        "final_norm": {
            "weight": state["model.norm.weight"],
            "bias": state["model.norm.bias"],
        },
        "lm_head": {"kernel": state["lm_head.weight"]},
    }


def test_logits_are_those_of_hugging_face(config, params, tokens, outputs, nemotron):
    state = {name: value.numpy() for name, value in nemotron.state_dict().items()}
    ours = our_params(state, config.num_layers)
    wanted = {name: params[name] for name in params if name != "reward_head"}
    assert jax.tree.map(np.shape, ours) == jax.tree.map(np.shape, wanted)
    with torch.no_grad():
        expected = nemotron(torch.tensor(tokens, dtype=torch.long)).logits.numpy()
    ours["reward_head"] = params["reward_head"]
    logits, _, _ = outputs(config, ours, tokens)
    scale = np.abs(expected).max()
    np.testing.assert_allclose(logits / scale, expected / scale, atol=1e-5)
