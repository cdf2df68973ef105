"""Counts against the published figures of the 340B report, section 2 and Table 2."""

import dataclasses

import pytest

from nemojax.models import presets
from nemojax.planning import counts

NEMOTRON = presets.nemotron4_340b()


def test_the_parameters_of_340b_are_those_of_the_report():
    found = counts.parameters(NEMOTRON)
    assert found.embedding == 9_437_184_000
    assert found.non_embedding == 331_592_011_776
    assert found.total == 341_029_195_776


def test_tied_embeddings_are_counted_once():
    config = presets.miniature()
    tied = dataclasses.replace(config, tied_embeddings=True)
    table = config.vocab_size * config.d_model
    assert counts.parameters(config).embedding == 2 * table
    assert counts.parameters(tied).embedding == table


@pytest.mark.parametrize("name", ["nemotron4_340b", "llama31_70b", "miniature"])
def test_a_layer_is_its_matrices_and_its_norms(name):
    config = presets.get(name)
    norms = 2 * config.d_model * (2 if config.norm == "layernorm1p" else 1)
    layers = config.num_layers * (counts.layer_matrix_parameters(config) + norms)
    assert layers + norms // 2 == counts.parameters(config).non_embedding


def test_operations_are_those_behind_table_2():
    """768 sequences in 10.3 s on 1,536 H100s of 989 TFLOP/s were 42.4 %."""
    flops = counts.flops_per_sequence(NEMOTRON, 4096)
    assert flops == pytest.approx(8.6212e15, rel=1e-4)
    for devices, batch, seconds, mfu in (
        (1536, 768, 10.3, 0.424),
        (3072, 1536, 10.3, 0.423),
        (6144, 2304, 8.0, 0.410),
    ):
        found = batch * flops / (devices * 989e12 * seconds)
        assert found == pytest.approx(mfu, abs=0.003)


def test_causal_attention_is_half():
    full, causal = (
        counts.flops_per_sequence(NEMOTRON, 4096, causal=causal)
        for causal in (False, True)
    )
    scores = 96 * counts.attention_flops(NEMOTRON, 4096, causal=True)
    assert full - causal == pytest.approx(3 * scores)
    assert causal == pytest.approx(8.443e15, rel=1e-3)
