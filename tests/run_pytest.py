"""The main program of every Bazel test: pytest on the file given, slow ones too."""

import sys

import pytest

if __name__ == "__main__":
    sys.exit(pytest.main(["-c", "pyproject.toml", "-m", "", *sys.argv[1:]]))
