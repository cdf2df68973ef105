"""Every kernel is the plain attention, within segments, forwards and backwards."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nemojax.models import attention, attention_kernels

SHAPE = {"heads": 4, "kv_heads": 2, "width": 24}


def case(length):
    rng = np.random.default_rng(length)

    def array(heads):
        shape = (2, length, heads, SHAPE["width"])
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    q, k, v = array(4), array(2), array(2)
    segments = np.sort(rng.integers(0, 4, (2, length)), axis=1)
    return q, k, v, jnp.asarray(segments, jnp.int32)


def plain(q, k, v, segments):
    return attention.attention(q, k, v, attention.causal_mask(segments))


KERNELS = {
    "blocks": (functools.partial(attention_kernels.blocks, block=16), 40),
    "blocks, even": (functools.partial(attention_kernels.blocks, block=16), 48),
    "one block": (attention_kernels.blocks, 40),
    "splash": (functools.partial(attention_kernels.splash, interpret=True), 256),
}


@pytest.mark.parametrize("name", KERNELS)
def test_outputs_and_gradients_are_those_of_plain_attention(name):
    kernel, length = KERNELS[name]
    *arrays, segments = case(length)
    weights = np.random.default_rng(1).normal(size=arrays[0].shape)

    def loss(function, arrays):
        out = function(*arrays, segments)
        return (out * weights).sum(), out

    gradient = jax.value_and_grad(loss, argnums=1, has_aux=True)
    (_, expected), expected_gradients = gradient(plain, arrays)
    (_, found), gradients = gradient(kernel, arrays)
    np.testing.assert_allclose(found, expected, atol=2e-5)
    for ours, theirs in zip(gradients, expected_gradients, strict=True):
        scale = np.abs(theirs).max()
        np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5)


def test_blocks_keep_no_tensor_of_all_pairs():
    """Twice the length takes about twice the temporaries, not four times."""

    def temporaries(length):
        q, k, v, segments = case(length)

        def loss(*arrays):
            return attention_kernels.blocks(*arrays, segments, block=64)

        step = jax.jit(jax.grad(lambda *a: loss(*a).sum(), argnums=(0, 1, 2)))
        compiled = step.lower(q, k, v).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporaries(2048) < 2.5 * temporaries(1024)


def test_the_platform_chooses_and_a_name_overrides():
    choose = attention_kernels.choose
    assert choose("auto", "cpu") is attention_kernels.blocks
    assert choose("auto", "gpu") is attention_kernels.cudnn
    assert choose("auto", "tpu") is attention_kernels.splash
    assert choose("auto", "tpu", "1f1b") is attention_kernels.blocks
    assert choose("blocks", "tpu") is attention_kernels.blocks
    with pytest.raises(ValueError, match="'flash'; one of blocks, cudnn, splash"):
        choose("flash", "cpu")
    with pytest.raises(ValueError, match="use attention='blocks' or pipeline='gpipe'"):
        choose("splash", "tpu", "1f1b")


def test_splash_names_the_lengths_that_it_takes():
    with pytest.raises(ValueError, match="multiple of 128, got 40"):
        attention_kernels.splash(*case(40), interpret=True)
