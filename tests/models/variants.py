"""Small models in all the ways in which Nemotrons and Llamas differ.

Run with transformers installed, it writes testdata/hugging_face_logits.npz anew:

    python -m tests.models.variants
"""

import pathlib
import zlib

import numpy as np

GOLDENS = pathlib.Path(__file__).parent / "testdata" / "hugging_face_logits.npz"
NEMOTRON = {
    "model_type": "nemotron",
    "vocab_size": 62,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 12,
    "partial_rotary_factor": 0.5,
    "hidden_act": "relu2",
    "norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LLAMA = {
    "model_type": "llama",
    "vocab_size": 62,
    "hidden_size": 32,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "hidden_act": "silu",
    "rms_norm_eps": 1e-5,
    "max_position_embeddings": 64,
    "tie_word_embeddings": False,
}
LLAMA31_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500_000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}
VARIANTS = {
    "nemotron": NEMOTRON,
    "nemotron-mha": NEMOTRON | {"num_key_value_heads": 4},
    "nemotron-one-kv-head": NEMOTRON | {"num_key_value_heads": 1},
    "nemotron-quarter-rotary": NEMOTRON
    | {"partial_rotary_factor": 0.25, "head_dim": 16},
    "nemotron-whole-rotary": NEMOTRON | {"partial_rotary_factor": 1.0},
    "nemotron-square": NEMOTRON | {"head_dim": 8},
    "nemotron-epsilon": NEMOTRON | {"norm_eps": 1e-2},
    "nemotron-tied": NEMOTRON | {"tie_word_embeddings": True},
    "llama": LLAMA,
    "llama-mha": LLAMA | {"num_key_value_heads": 4},
    "llama-wide-heads": LLAMA | {"head_dim": 16},
    "llama-epsilon": LLAMA | {"rms_norm_eps": 1e-2},
    "llama-theta": LLAMA
    | {"rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0}},
    "llama-31": LLAMA
    | {
        "rope_parameters": LLAMA31_ROPE,
        "max_position_embeddings": 131_072,
        "head_dim": 16,
    },
    "llama-tied": LLAMA | {"tie_word_embeddings": True},
}
TOKENS = np.array([[3, 14, 15, 9, 26, 5], [35, 8, 9, 7, 61, 0]])


def weight(variant: str, name: str, shape: tuple[int, ...]) -> np.ndarray:
    """The value of a tensor, float32; norms and biases are not trivial."""
    if name == "lm_head.weight" and VARIANTS[variant]["tie_word_embeddings"]:
        name = "model.embed_tokens.weight"
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    values = rng.normal(0, 0.1, shape).astype(np.float32)
    is_scale = "norm" in name and VARIANTS[variant]["model_type"] == "llama"
    return values + np.float32(1) if is_scale else values


def reference(variant: str, dtype: str = "float32"):
    """The model of transformers with these weights."""
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**VARIANTS[variant])
    model = transformers.AutoModelForCausalLM.from_config(
        config, dtype=getattr(torch, dtype), attn_implementation="eager"
    )
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            value = weight(variant, name, tuple(parameter.shape))
            parameter.copy_(torch.from_numpy(value))
    return model.eval()


def main() -> None:
    """Writes the logits of all variants."""
    import torch

    with torch.no_grad():
        found = {
            variant: reference(variant)(torch.from_numpy(TOKENS)).logits.numpy()
            for variant in VARIANTS
        }
    np.savez_compressed(GOLDENS, **found)
    print(f"{len(found)} models: {GOLDENS}")


if __name__ == "__main__":
    main()
