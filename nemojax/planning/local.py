"""Predictions of what this machine does with a model, from facts alone."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nemojax.models import attention_kernels
from nemojax.models.config import ModelConfig
from nemojax.planning import counts
from nemojax.planning.hardware import HARDWARE, Hardware

# Float32 weights, two moments of Adam and sums of gradients.
_TRAINING_BYTES = 16
# A sound card reaches more of its published rates: below, something holds it back.
_LEAST_SHARE = 0.5


def attention(case: attention_kernels.Case) -> tuple[str, dict[str, str]]:
    """Returns the kernel that training takes, and what each of the others lacks.

    Those that lack nothing and are not taken have "": they are slower.
    """
    taken = attention_kernels.fastest(case).name
    others = {k.name: k.missing(case) for k in attention_kernels.KERNELS}
    del others[taken]
    return taken, others


def memory(config: ModelConfig, available: int) -> dict[str, Any]:
    """Returns the bytes that a model cannot do without, and what they fit in.

    Args:
      config: the model.
      available: bytes of all devices.
    """
    count = counts.parameters(config).total
    weights = count * np.dtype(config.compute_dtype).itemsize
    return {
        "parameters": count,
        "weights_bytes": weights,
        "training_bytes": count * _TRAINING_BYTES,
        "available_bytes": available,
        "fits": weights <= available,
    }


def card(kind: str) -> Hardware | None:
    """Returns what is published of a card that jax calls so; None: it is not known."""
    return next((one for one in HARDWARE.values() if one.title == kind), None)


def slow(rates: Mapping[str, float], published: Hardware) -> list[str]:
    """Lists what a card reaches too little of.

    Args:
      rates: "flops" and "copied", each per second.
      published: rates of its maker.
    """
    known = {
        "matrix products": (rates["flops"], published.peak_flops),
        "copies": (rates["copied"], published.memory_bandwidth),
    }
    return [
        f"{what} reach {rate / peak:.0%} of what {published.title} can: look in "
        "nvidia-smi for other processes, power limit, temperature and clocks"
        for what, (rate, peak) in known.items()
        if rate < _LEAST_SHARE * peak
    ]
