"""Parameter trees as pairs of path and leaf, and back."""

from collections.abc import Callable, Iterable
from typing import Any

import jax

Path = tuple[str, ...]


def items(
    tree: Any, is_leaf: Callable[[Any], bool] | None = None
) -> list[tuple[Path, Any]]:
    """Returns the path and the leaf of every parameter, in the order of JAX.

    Args:
      tree: nested dictionaries with string keys.
      is_leaf: tells which inner nodes count as leaves; default: none.
    """
    found = jax.tree_util.tree_leaves_with_path(tree, is_leaf)
    return [(_names(keys), leaf) for keys, leaf in found]


def build(pairs: Iterable[tuple[Path, Any]]) -> dict[str, Any]:
    """Returns the tree of paths and leaves; the inverse of `items`."""
    tree: dict[str, Any] = {}
    for path, leaf in pairs:
        branch = tree
        for name in path[:-1]:
            branch = branch.setdefault(name, {})
        branch[path[-1]] = leaf
    return tree


def get(tree: Any, path: Path) -> Any:
    """Returns the leaf or the branch at a path; raises KeyError if there is none."""
    for name in path:
        tree = tree[name]
    return tree


def map_items(function: Callable[..., Any], tree: Any, *others: Any) -> Any:
    """Returns the tree of `function(path, leaf, *leaves of the others)`."""
    return jax.tree_util.tree_map_with_path(
        lambda keys, *leaves: function(_names(keys), *leaves), tree, *others
    )


def _names(keys: Iterable[Any]) -> Path:
    return tuple(entry.key for entry in keys)
