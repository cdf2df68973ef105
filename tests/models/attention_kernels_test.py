"""Every kernel is the plain attention, within segments, forwards and backwards."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo
from jax.ad_checkpoint import checkpoint_name

from nemojax.models import attention, attention_kernels, stages

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


@pytest.mark.parametrize("segmented", [True, False])
@pytest.mark.parametrize("name", KERNELS)
def test_outputs_and_gradients_are_those_of_plain_attention(name, segmented):
    kernel, length = KERNELS[name]
    *arrays, segments = case(length)
    if not segmented:
        segments = jnp.ones_like(segments)
    weights = np.random.default_rng(1).normal(size=arrays[0].shape)

    def loss(function, arrays):
        one_each = not segmented and function is not plain
        out = function(*arrays, None if one_each else segments)
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


@pytest.mark.parametrize(("remat", "calls"), [("selective", 1), ("full", 2)])
def test_what_cudnn_needs_backwards_is_kept_with_its_output(monkeypatch, remat, calls):
    """Calls in the gradient of a layer's attention; one segment a row needs no bias."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    kernel = next(k for k in attention_kernels.KERNELS if k.name == "cudnn")

    def layer(q, k, v, segments):
        return checkpoint_name(kernel.run(q, k, v, segments), "attention").sum()

    run = stages.remat(layer, remat, kernel)
    *arrays, segments = (x.astype(jnp.bfloat16) for x in case(40))
    for ids, biased in ((None, False), (segments, True)):
        gradient = str(jax.make_jaxpr(jax.grad(run, argnums=(0, 1, 2)))(*arrays, ids))
        assert gradient.count(f"{kernel.primitive}[") == calls
        found = re.findall(r"variadic_args=\((\w+),", gradient)
        assert set(found) == {str(biased)}


GPU = {"platform": "gpu", "length": 4096}
H100, A100, V100 = ({**GPU, "capability": cc} for cc in ((9, 0), (8, 0), (7, 0)))
TPU = {"platform": "tpu", "length": 4096}
CPU = {"platform": "cpu", "length": 4096}


@pytest.mark.parametrize("width", [16, 24, 64, 128, 192, 256])
@pytest.mark.parametrize(
    ("device", "dtype", "expected"),
    [
        (CPU, "float32", "blocks"),
        (CPU, "bfloat16", "blocks"),
        (H100, "bfloat16", "cudnn"),
        (H100, "float16", "cudnn"),
        (H100, "float32", "blocks"),
        (A100, "bfloat16", "cudnn"),
        (A100, "float32", "blocks"),
        (V100, "float16", "blocks"),
        (GPU, "bfloat16", "blocks"),  # of another maker
        (TPU, "float32", "splash"),
        (TPU, "bfloat16", "splash"),
    ],
)
def test_the_fastest_kernel_that_can_run_is_taken(device, dtype, width, expected):
    if device is A100 and width > 128:
        expected = "blocks"
    case = attention_kernels.Case(dtype=dtype, width=width, **device)
    assert attention_kernels.choose("auto", case).name == expected


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"dtype": "float32"}, "needs bfloat16 or float16, not float32"),
        ({"width": 20}, "heads of a multiple of 8 numbers up to 256, not 20"),
        ({"width": 264}, "up to 256, not 264"),
        ({"capability": (8, 9), "width": 192}, "up to 128, not 192"),
        ({"capability": (7, 5)}, "compute capability 8.0 or higher"),
        ({"length": 4095}, "an even number of tokens, not 4095"),
        ({"platform": "cpu"}, "a device of the kind gpu, not cpu"),
    ],
)
def test_a_kernel_that_cannot_run_is_refused_with_what_it_lacks(change, lacks):
    case = attention_kernels.Case(
        **{"dtype": "bfloat16", "width": 128, **H100} | change
    )
    with pytest.raises(ValueError, match=lacks):
        attention_kernels.choose("cudnn", case)
    assert attention_kernels.choose("auto", case).name == "blocks"


@pytest.mark.parametrize(
    ("change", "lacks"),
    [
        ({"pipeline": "1f1b"}, "needs pipeline='gpipe'"),
        ({"length": 120}, "rows of a multiple of 128 tokens, not 120"),
        ({"platform": "gpu"}, "a device of the kind tpu, not gpu"),
    ],
)
def test_splash_is_refused_where_it_cannot_run(change, lacks):
    case = attention_kernels.Case(**{"dtype": "bfloat16", "width": 128, **TPU} | change)
    with pytest.raises(ValueError, match=lacks):
        attention_kernels.choose("splash", case)
    assert attention_kernels.choose("auto", case).name == "blocks"


def test_an_unknown_kernel_is_refused_with_those_that_there_are():
    case = attention_kernels.Case(dtype="float32", width=16, **CPU)
    with pytest.raises(ValueError, match="'flash'; one of blocks, cudnn, splash"):
        attention_kernels.choose("flash", case)


def test_why_a_faster_kernel_is_not_taken_is_logged_once(caplog):
    caplog.set_level("INFO", logger="nemojax")
    attention_kernels._note.cache_clear()
    for _ in range(2):
        attention_kernels.choose(
            "auto", attention_kernels.Case(dtype="float32", width=16, **H100)
        )
    assert caplog.messages == [
        "attention: blocks; cudnn needs bfloat16 or float16, not float32"
    ]


def test_splash_names_the_lengths_that_it_takes():
    with pytest.raises(ValueError, match="multiple of 128, got 40"):
        attention_kernels.splash(*case(40), interpret=True)
