"""One Bazel test for each pytest file of a folder."""

load("@rules_python//python:defs.bzl", "py_library", "py_test")

def pytest_tests(deps = [], tags = []):
    """Declare a py_test for each *_test.py and one library of the files they share.

    What a test reads lies in the folder's testdata/.

    Args:
      deps: what the folder's tests import, beside pytest.
      tags: Bazel tags of each test.
    """
    py_library(
        name = "support",
        testonly = True,
        srcs = native.glob(["**/*.py"], exclude = ["**/*_test.py"], allow_empty = True),
        deps = deps + ["@pip//pytest"],
    )
    for test in native.glob(["**/*_test.py"], allow_empty = True):
        py_test(
            name = test.removesuffix(".py"),
            srcs = [test, "//tests:run_pytest.py"],
            args = ["$(rootpath %s)" % test],
            data = native.glob(["**/testdata/**"], allow_empty = True) + ["//:pyproject.toml"],
            main = "//tests:run_pytest.py",
            tags = tags,
            timeout = "long",
            deps = deps + [":support", "//tests:conftest", "@pip//pytest"],
        )
