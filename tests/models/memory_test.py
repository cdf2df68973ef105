"""The fused head never holds the logits: measured in a process of its own."""

import subprocess
import sys

import pytest

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


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_memory_does_not_grow_with_tokens_times_vocabulary():
    """A thousand tokens more cost less than half of their logits."""
    logits = 1024 * 64_000 * 4
    assert measured(64_000, 2_048) - measured(64_000, 1_024) < logits / 2
