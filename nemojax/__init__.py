"""nemojax: the Nemotron-4 340B recipe in JAX, from pretraining to evaluation.

    model = nemojax.load("runs/miniature")          a model, tokenizer and template
    nemojax.generate(model, ["What is 2 + 3?"])     responses
    nemojax.score(model, conversations)             rewards, or log-probs of responses
    nemojax.train.sft(model, rows, out="runs/mine") also `reward` and `preference`
    nemojax.convert(path, out="out", to="hf")       to and from other formats
    nemojax.plan("nemotron4_340b")                  will it fit, how fast will it be

`nemojax.losses` has the losses, `nemojax.models` the architecture. Nothing is imported
before it is used.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

# Names that are offered here, by the module that has them.
_OFFERED = {
    "load": "nemojax.api.use",
    "generate": "nemojax.api.use",
    "score": "nemojax.api.use",
    "convert": "nemojax.api.use",
    "plan": "nemojax.api.plan",
    "AttributeLabels": "nemojax.data.records",
    "Conversation": "nemojax.data.records",
    "PreferencePair": "nemojax.data.records",
    "LayoutSpec": "nemojax.parallel.layout",
    "LoraConfig": "nemojax.models.lora",
    "UserError": "nemojax.errors",
}
_MODULES = {
    "train": "nemojax.api.train",
    "losses": "nemojax.losses",
    "models": "nemojax.models",
}


def __getattr__(name: str) -> Any:
    """Imports what is offered when it is asked for."""
    if name in _MODULES:
        found = importlib.import_module(_MODULES[name])
    elif name in _OFFERED:
        found = getattr(importlib.import_module(_OFFERED[name]), name)
    else:
        raise AttributeError(f"module 'nemojax' has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Lists what is offered, too."""
    return sorted({*globals(), *_OFFERED, *_MODULES})
