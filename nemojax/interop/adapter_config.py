"""Meaning of PEFT's `adapter_config.json`: which layers are adapted, and how."""

import dataclasses
import math
import pathlib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from nemojax.errors import UserError
from nemojax.io import folders

CONFIG = "adapter_config.json"
# Fields that say nothing of what the adapted model computes.
_FREE = (
    "auto_mapping", "base_model_name_or_path", "eva_config", "inference_mode",
    "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "runtime_config",
)  # fmt: skip
# Fields that are honoured; every other one must be null, false or empty.
READ = (
    "alpha_pattern", "bias", "exclude_modules", "init_lora_weights", "layers_pattern",
    "layers_to_transform", "lora_alpha", "modules_to_save", "peft_type", "r",
    "rank_pattern", "target_modules", "task_type", "use_rslora",
)  # fmt: skip
KNOWN = frozenset((*_FREE, *READ))
# Fields of which only some values are supported; a missing one has the first.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "peft_type": ("LORA",),
    "task_type": (None, "CAUSAL_LM"),
    "bias": ("none",),
    # The other starts (PiSSA, OLoRA, CorDA, LoftQ, LoRA-GA) change the base model.
    "init_lora_weights": (True, False, "gaussian", "eva", "orthogonal"),
    "use_rslora": (False, True),
}
ALL_LINEAR = "all-linear"
# A pattern of a stranger backtracks over names of some forty characters.
_MAX_PATTERN, _MAX_REPEATS = 2000, 5
_REPEAT = re.compile(r"(?<!\\)[*+{]")
_REPEATED_GROUP = re.compile(r"(?<!\\)\)[*+{]")


@dataclasses.dataclass(frozen=True)
class AdapterConfig:
    """Choice of the adapted modules, with the rank and the scale of each.

    Attributes:
      rank, alpha: values where no pattern says another.
      rank_pattern, alpha_pattern: values for modules whose names end as a pattern says.
      rank_stabilized: whether the scale is alpha / sqrt(rank) in place of alpha / rank.
      target_modules, exclude_modules: ends of names, or a pattern of whole names.
      layers_to_transform: layers that are adapted; None: all.
      layers_pattern: names of the list of layers.
      modules_to_save: modules of which the file holds the whole weight.
    """

    rank: int
    alpha: float
    rank_pattern: Mapping[str, int]
    alpha_pattern: Mapping[str, float]
    rank_stabilized: bool
    target_modules: str | Collection[str]
    exclude_modules: str | Collection[str]
    layers_to_transform: Collection[int] | None
    layers_pattern: Collection[str]
    modules_to_save: Collection[str]

    def chooses(self, module: str) -> bool:
        """Returns whether a module, such as "model.layers.0.mlp.up_proj", is chosen."""
        if _named(self.exclude_modules, module):
            return False
        if self.target_modules == ALL_LINEAR:
            return module.startswith("model.layers.")
        if not _named(self.target_modules, module):
            return False
        if self.layers_to_transform is None:
            return True
        for lists in self.layers_pattern or (r"[^.]*",):
            found = re.match(rf"(?:|.*?\.)(?:{lists})\.(\d+)\.", module)
            if found:
                return int(found[found.re.groups]) in self.layers_to_transform
        return False

    def rank_of(self, module: str) -> int:
        """Returns the rank of a module's adapter."""
        return _by_pattern(self.rank_pattern, module, self.rank)

    def scale_of(self, module: str) -> float:
        """Returns the factor of the product of a module's adapter."""
        alpha = _by_pattern(self.alpha_pattern, module, self.alpha)
        rank = self.rank_of(module)
        return alpha / (math.sqrt(rank) if self.rank_stabilized else rank)


def read(path: pathlib.Path) -> AdapterConfig:
    """Reads `adapter_config.json`.

    Raises:
      UserError: it is no config of LoRA adapters, or a field has a meaning that is not
        supported; the message names the field.
    """
    fields = folders.read_json(path)
    try:
        return _parse(fields)
    except UserError as error:
        raise UserError(f"{path}: {error}") from error


def _parse(fields: Mapping[str, Any]) -> AdapterConfig:
    for name, choices in _CHOICES.items():
        value = fields.get(name, choices[0])
        if not any(value is one or value == one != True for one in choices):  # noqa: E712
            raise UserError(
                f"{name} {value!r} is not supported; there are "
                f"{', '.join(map(repr, choices))}"
            )
    for name, value in fields.items():
        if name not in KNOWN and value:
            raise UserError(f"{name} {value!r} is not supported")
    layers = fields.get("layers_to_transform")
    layers = [layers] if type(layers) is int else layers
    if layers and isinstance(fields.get("target_modules"), str):
        raise UserError("layers_to_transform needs target_modules that are a list")
    return AdapterConfig(
        rank=_rank("r", fields.get("r")),
        alpha=_number("lora_alpha", fields.get("lora_alpha")),
        rank_pattern=_patterns(fields, "rank_pattern", _rank),
        alpha_pattern=_patterns(fields, "alpha_pattern", _number),
        rank_stabilized=fields.get("use_rslora", False),
        target_modules=_modules(fields, "target_modules", required=True),
        exclude_modules=_modules(fields, "exclude_modules"),
        layers_to_transform=_integers("layers_to_transform", layers) or None,
        layers_pattern=_texts(fields, "layers_pattern"),
        modules_to_save=_texts(fields, "modules_to_save"),
    )


def _rank(name: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise UserError(f"{name} must be a positive integer, got {value!r}")
    return value


def _number(name: str, value: Any) -> float:
    if type(value) not in (int, float) or not abs(value) < 1e30:
        raise UserError(f"{name} must be a finite number, got {value!r}")
    return float(value)


def _integers(name: str, value: Any) -> Collection[int]:
    if not (value is None or isinstance(value, list)) or any(
        type(item) is not int for item in value or ()
    ):
        raise UserError(f"{name} must be a list of integers, got {value!r}")
    return value or ()


def _patterns(fields: Mapping[str, Any], name: str, check: Any) -> Mapping[str, Any]:
    value = fields.get(name) or {}
    if not isinstance(value, dict):
        raise UserError(f"{name} must be an object, got {value!r}")
    for pattern in value:
        _check_pattern(name, pattern)
    return {pattern: check(name, item) for pattern, item in value.items()}


def _modules(
    fields: Mapping[str, Any], name: str, *, required: bool = False
) -> str | Collection[str]:
    value = fields.get(name)
    if required and not value:
        raise UserError(f"{name} must be a list of names or a pattern, got {value!r}")
    if not isinstance(value, str):
        return _texts(fields, name)
    if value.lower() == ALL_LINEAR:
        return ALL_LINEAR
    _check_pattern(name, value)
    return value


def _texts(fields: Mapping[str, Any], name: str) -> Collection[str]:
    value = fields.get(name) or []
    value = [value] if isinstance(value, str) else value
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise UserError(f"{name} must be a list of names, got {value!r}")
    if name == "layers_pattern":
        for item in value:
            _check_pattern(name, item)
    return value


def _check_pattern(name: str, pattern: str) -> None:
    """Raises an error for a pattern that is none, or may run without an end."""
    repeats = len(_REPEAT.findall(pattern))
    if len(pattern) > _MAX_PATTERN or repeats > _MAX_REPEATS:
        raise UserError(
            f"{name} has a pattern with more than {_MAX_REPEATS} repetitions or "
            f"{_MAX_PATTERN:,} characters: name the modules in a list"
        )
    if _REPEATED_GROUP.search(pattern):
        raise UserError(f"{name} {pattern!r} repeats a group, which is not supported")
    try:
        re.compile(pattern)
        re.compile(f"(?:{pattern})")  # as a part of another
    except (re.error, RecursionError, OverflowError) as error:
        raise UserError(f"{name} {pattern!r} is no pattern: {error}") from error


def _named(names: str | Iterable[str], module: str) -> bool:
    """Returns whether a pattern matches a module's whole name, or a name is its end."""
    if isinstance(names, str):
        return re.fullmatch(names, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in names)


def _by_pattern(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """Returns the value of the first pattern that matches the end of a name."""
    for pattern, value in patterns.items():
        if re.match(rf"(?:.*\.)?(?:{pattern})$", module):
            return value
    return default
