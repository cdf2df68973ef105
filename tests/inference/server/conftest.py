"""Checkpoints that are served, and a server of each."""

import pytest

from tests.inference.server import serving_process


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory):
    """A folder of a language model called "tiny"."""
    return serving_process.write_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def judge(tmp_path_factory):
    """A folder of a reward model called "judge"."""
    return serving_process.write_model(
        tmp_path_factory.mktemp("models") / "judge", num_attributes=5
    )


@pytest.fixture(scope="module")
def server(checkpoint):
    """Address of a server of `checkpoint`."""
    with serving_process.serving(checkpoint, "--max_waiting=20") as (address, _):
        yield address
