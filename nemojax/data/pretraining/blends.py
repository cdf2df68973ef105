"""Blends: the share of the samples that each kind of text has.

A blend file names, for each class of text, its share and how that is divided:

    english:
      share: 0.70
    multilingual:
      share: 0.15
      by: language
      max_epochs: 1
    code:
      share: 0.15
      by: language
      weights: {Python: 3, C++: 2}

`by` is `language` or `source`; without it the class is one component. The parts have
the shares of `weights` if there are any, and those not named get no text. Otherwise
they are equal, as long as no part is seen more than `max_epochs` times (UniMax, Chung
et al. 2023, whose cap the report's blend has too); without a cap, as large as their
text.
"""

import dataclasses
import hashlib
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import yaml

from nemojax.data.pretraining import corpus
from nemojax.data.pretraining.token_files import Group
from nemojax.errors import UserError
from nemojax.io.quarantine import DataError

PARTS = ("language", "source")


@dataclasses.dataclass(frozen=True)
class ClassBlend:
    """One class of text in a blend, and how it is divided into components.

    Attributes:
      share: share of the samples, in any scale.
      by: None, or what divides the class; one of `PARTS`.
      max_epochs: with `by`: most epochs of a part; parts are equal, none seen more
        often than that.
      weights: with `by`: weights of the parts, in any scale.
    """

    share: float
    by: str | None = None
    max_epochs: float | None = None
    weights: tuple[tuple[str, float], ...] = ()

    def __post_init__(self):
        if not self.share >= 0:
            raise UserError(f"share {self.share} is negative")
        if self.by is not None and self.by not in PARTS:
            raise UserError(f"by: {self.by!r} is none of {', '.join(PARTS)}")
        if self.max_epochs is not None and self.weights:
            raise UserError("max_epochs and weights exclude each other")
        if self.by is None and (self.max_epochs is not None or self.weights):
            raise UserError("max_epochs and weights need `by`")
        if self.max_epochs is not None and not self.max_epochs > 0:
            raise UserError(f"max_epochs {self.max_epochs} is not positive")
        if any(not weight >= 0 for _, weight in self.weights):
            raise UserError(f"weights {dict(self.weights)} need to be positive")


Blend = Mapping[str, ClassBlend]

# 70 / 15 / 15 (report, section 2.1). How it divides the classes is known by the name of
# its file alone: UniMax with a cap of 1 over the languages. Smaller caps for code are
# not needed where a corpus is read less than once.
NEMOTRON = {
    "english": ClassBlend(corpus.BLEND["english"]),
    "multilingual": ClassBlend(corpus.BLEND["multilingual"], "language", 1.0),
    "code": ClassBlend(corpus.BLEND["code"]),
}


class Component(NamedTuple):
    """Text that takes part in a blend as one.

    Attributes:
      name: such as "multilingual/de".
      groups: groups of the corpus that the component is made of.
      weight: share of the samples; all add up to 1.
      epochs: times that its text is seen.
    """

    name: str
    groups: tuple[Group, ...]
    weight: float
    epochs: float


def read(path: str | pathlib.Path) -> dict[str, ClassBlend]:
    """Reads the blend in a YAML file.

    Raises:
      DataError: no such file, or something in it that makes no blend.
    """
    try:
        content = yaml.safe_load(pathlib.Path(path).read_text(encoding="utf-8"))
        if not isinstance(content, dict) or not content:
            raise UserError("expected classes of text with their shares")
        return {name: _class_blend(name, value) for name, value in content.items()}
    except OSError as error:
        raise DataError(f"{path}: {error.strerror or error}") from error
    except (yaml.YAMLError, ValueError, TypeError) as error:
        raise DataError(f"{path}: {' '.join(str(error).split())}") from error


def _class_blend(name: Any, value: Any) -> ClassBlend:
    if name not in corpus.TEXT_CLASSES:
        raise UserError(f"class {name!r} is none of {', '.join(corpus.TEXT_CLASSES)}")
    if not isinstance(value, dict):
        raise UserError(f"{name}: expected `share: NUMBER` and so on")
    known = {field.name for field in dataclasses.fields(ClassBlend)}
    if unknown := sorted(map(str, set(value) - known)):
        raise UserError(f"{name}: unknown {', '.join(unknown)}")
    try:
        weights = tuple(
            (str(part), float(weight))
            for part, weight in dict(value.get("weights") or {}).items()
        )
        fields: dict[str, Any] = {**value, "weights": weights}
        return ClassBlend(**fields)
    except (TypeError, ValueError) as error:
        raise UserError(f"{name}: {error}") from error


def fingerprint(blend: Blend) -> str:
    """Returns a fingerprint of the classes, parts and weights of a blend."""
    return hashlib.sha256(repr(sorted(blend.items())).encode()).hexdigest()


def components(
    blend: Blend, tokens: Mapping[Group, int], budget: float
) -> list[Component]:
    """Returns the components into which a blend divides a corpus.

    Args:
      blend: shares by class.
      tokens: tokens of each group that there is.
      budget: tokens of the whole run, for caps and epochs.

    Raises:
      DataError: a class with a share has no text, or a part that is named has none.
    """
    total = sum(one.share for one in blend.values())
    if not total > 0:
        raise DataError("all shares of the blend are zero")
    found = []
    for name, one in blend.items():
        if not one.share:
            continue
        share = one.share / total
        parts = _parts(name, one, tokens)
        sizes = {part: sum(tokens[g] for g in groups) for part, groups in parts.items()}
        for part, weight in _weights(name, one, sizes, share * budget).items():
            epochs = share * weight * budget / sizes[part]
            label = f"{name}/{part}" if one.by else name
            found.append(Component(label, parts[part], share * weight, epochs))
    return found


def _parts(
    name: str, one: ClassBlend, tokens: Mapping[Group, int]
) -> dict[str, tuple[Group, ...]]:
    parts: dict[str, list[Group]] = {}
    for group, count in tokens.items():
        if group.text_class == name and count:
            part = getattr(group, one.by) or "unknown" if one.by else ""
            parts.setdefault(part, []).append(group)
    if not parts:
        raise DataError(
            f"the blend gives {name} {one.share:g}, and there is no such text"
        )
    return {part: tuple(sorted(groups)) for part, groups in sorted(parts.items())}


def _weights(
    name: str, one: ClassBlend, sizes: Mapping[str, int], budget: float
) -> dict[str, float]:
    """Returns the weights of the parts of a class, which add up to 1."""
    if one.weights:
        chosen = {part: weight for part, weight in one.weights if weight}
        if absent := sorted(set(chosen) - set(sizes)):
            raise DataError(
                f"the blend names {name} with {one.by} {', '.join(absent)}, and there "
                f"is no such text; there is {', '.join(sizes)}"
            )
    elif one.max_epochs is not None:
        chosen = dict(
            zip(sizes, unimax([*sizes.values()], budget, one.max_epochs), strict=True)
        )
    else:
        chosen = dict(sizes)
    total = sum(chosen.values())
    return {part: weight / total for part, weight in chosen.items()}


def unimax(sizes: Sequence[float], budget: float, max_epochs: float) -> list[float]:
    """Returns shares that are equal but for parts that would be seen too often.

    Each gets its equal part of what is left, or `max_epochs` times its size if that is
    less, the smallest first (Chung et al. 2023, algorithm 1). If all reach the cap,
    they are as large as their sizes, and the cap is exceeded.

    Args:
      sizes: tokens of the parts; positive.
      budget: tokens to divide.
      max_epochs: cap.

    Returns:
      Shares in the order of `sizes`, which add up to 1.
    """
    shares = np.zeros(len(sizes))
    left = float(budget)
    for done, index in enumerate(np.argsort(sizes, kind="stable")):
        shares[index] = min(left / (len(sizes) - done), max_epochs * sizes[index])
        left -= shares[index]
    return list(shares / shares.sum())
