"""Scripts as modules, one at a time: their flags are those of the process."""

import importlib.util
import pathlib
import sys
import types

from absl import flags

ROOT = pathlib.Path(__file__).parents[1]
_OURS = ("nemojax.", "experiments.", "benchmarks.")


def forget() -> None:
    """Removes the flags of the script before."""
    for module, found in list(flags.FLAGS.flags_by_module_dict().items()):
        if module == sys.argv[0] or module.startswith(_OURS):
            for flag in list(found):
                if flag.name in flags.FLAGS:
                    delattr(flags.FLAGS, flag.name)


def load(name: str) -> types.ModuleType:
    """Loads a script such as "experiments.recipe" in place of the one before."""
    forget()
    path = ROOT / f"{name.replace('.', '/')}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module
