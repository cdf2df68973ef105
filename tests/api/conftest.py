"""A folder with tiny models and files, as a user has it."""

import pytest

from tests.api import home as homes


@pytest.fixture(scope="session")
def home(tmp_path_factory):
    """The folder; nothing in it is to be changed."""
    return homes.write(tmp_path_factory.mktemp("home"))


@pytest.fixture
def here(home, tmp_path, monkeypatch):
    """A new current folder, in which the models and files can be seen."""
    return homes.enter(home, tmp_path, monkeypatch)
