"""What devices would do with a model, without them."""

import dataclasses

import pytest

from nemojax.models import attention_kernels, presets
from nemojax.models.attention_kernels import Case
from nemojax.planning import hardware, local

H100 = Case("gpu", "bfloat16", 192, 4096, (9, 0))


@pytest.mark.parametrize(
    "case",
    [
        H100,
        dataclasses.replace(H100, dtype="float32"),
        dataclasses.replace(H100, capability=(7, 5)),
        dataclasses.replace(H100, platform="tpu"),
        dataclasses.replace(H100, platform="cpu"),
    ],
)
def test_the_kernel_that_is_told_is_the_one_that_runs(case):
    taken, others = local.attention(case)
    assert taken == attention_kernels.choose("auto", case).name
    for name, lacks in others.items():
        if lacks:
            with pytest.raises(ValueError, match=lacks):
                attention_kernels.choose(name, case)
        else:
            assert attention_kernels.choose(name, case).name == name


def test_a_model_fits_where_its_weights_do():
    config = presets.nemotron4_340b()
    needed = 2 * 341_029_195_776
    assert local.memory(config, needed)["fits"]
    assert not local.memory(config, needed - 1)["fits"]


def test_a_card_is_slow_below_half_of_what_is_published():
    card = local.card("NVIDIA H200")
    assert card is hardware.HARDWARE["h200"]
    assert local.card("abacus") is None
    measured = {"flops": 697e12, "copied": 4.3e12}
    assert local.slow(measured, card) == []
    (line,) = local.slow(measured | {"flops": 300e12}, card)
    assert line.startswith("matrix products reach 30% of what NVIDIA H200 can")
    (line,) = local.slow(measured | {"copied": 1e12}, card)
    assert line.startswith("copies reach 21%")
