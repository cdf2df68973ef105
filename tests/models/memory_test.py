"""The fused head never holds the logits: measured in a process of its own."""

import subprocess
import sys

import jax
import jax.numpy as jnp
import pytest

from nemojax.models import forward
from nemojax.models.config import ModelConfig

SCRIPT = """
import resource
import jax, jax.numpy as jnp
from nemojax.models import forward
from nemojax.models.config import ModelConfig

VOCAB, TOKENS = {vocab}, {tokens}
config = ModelConfig(
    vocab_size=VOCAB, num_layers=1, d_model=512, num_heads=4, num_kv_heads=2,
    head_dim=128, d_ff=1024, compute_dtype="float32",
)
params = jax.jit(lambda key: forward.init(config, key))(jax.random.key(0))
tokens = jax.random.randint(jax.random.key(1), (TOKENS // 128, 128), 0, VOCAB)
loss = lambda params: forward.token_log_probs(config, params, tokens).sum()
jax.block_until_ready(params)
status = open("/proc/self/status").read()
before = int(status.split("VmRSS:")[1].split()[0]) * 1024
grads = jax.block_until_ready(jax.jit(jax.grad(loss))(params))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
size = sum(leaf.nbytes for leaf in jax.tree.leaves(grads))
print(peak - before - size)
"""


def measured(vocab, tokens):
    """Bytes at the peak above the parameters and the gradients."""
    script = SCRIPT.format(vocab=vocab, tokens=tokens)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_vocabulary_of_256_000_at_4_096_tokens_stays_under_3_gib():
    """The logits alone would be 3.9 GiB, and as much again backwards."""
    assert measured(256_000, 4_096) < 3 * 2**30


@pytest.mark.parametrize("vocab", [64_000, 256_000])
def test_temporaries_do_not_grow_with_tokens_times_vocabulary(vocab):
    """A thousand tokens more cost the compiled step a few chunks, not their logits."""
    config = ModelConfig(
        vocab_size=vocab,
        num_layers=1,
        d_model=64,
        num_heads=2,
        num_kv_heads=2,
        head_dim=32,
        d_ff=64,
        compute_dtype="float32",
    )
    params = forward.shapes(config)

    def temporaries(tokens):
        rows = jax.ShapeDtypeStruct((tokens // 64, 64), jnp.int32)

        def loss(params, rows):
            return forward.token_log_probs(config, params, rows).sum()

        step = jax.jit(jax.grad(loss)).lower(params, rows).compile()
        return step.memory_analysis().temp_size_in_bytes

    chunks = 1024 * config.vocab_chunk * 4
    assert temporaries(2_048) - temporaries(1_024) < 4 * chunks < 1024 * vocab * 4
