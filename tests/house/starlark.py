"""What the BUILD files declare, evaluated without Bazel.

BUILD files are Starlark, and the part of it that ours use is also Python: they are
executed here with stand-ins for Bazel's functions that record what is declared.
"""

import dataclasses
import fnmatch
import re
import types
from collections.abc import Iterable
from pathlib import Path


@dataclasses.dataclass(frozen=True)
class Target:
    """One declared rule.

    Attributes:
      label: "//package:name".
      sources: its source files, as paths relative to the root.
      dependencies: labels in their long form, "//a/b:b" or "@pip//name".
    """

    label: str
    sources: frozenset[str]
    dependencies: frozenset[str]


class Package:
    """A folder with a BUILD file, and what that file declares."""

    def __init__(self, root: Path, path: str) -> None:
        """Evaluate the BUILD file of the folder `path` ("" is the root)."""
        self.root, self.path = root, path
        self.targets: list[Target] = []
        self._execute(root / path / "BUILD")

    def glob(
        self,
        include: Iterable[str],
        exclude: Iterable[str] = (),
        allow_empty: bool = False,
    ) -> list[str]:
        """Bazel's glob: files of this package, never of a package below it."""
        folder = self.root / self.path
        found = {
            file.relative_to(folder).as_posix()
            for pattern in include
            # pathlib's ** is folders only, Bazel's is files
            for file in folder.glob(re.sub(r"\*\*$", "**/*", pattern))
            if file.is_file() and self._owns(file)
        }
        found = {
            name
            for name in found
            if not any(_matches(name, pattern) for pattern in exclude)
        }
        if not found and not allow_empty:
            raise ValueError(f"//{self.path}: glob({list(include)}) finds nothing")
        return sorted(found)

    def _owns(self, file: Path) -> bool:
        owner = next(up for up in file.parents if (up / "BUILD").exists())
        return owner == self.root / self.path

    def _execute(self, file: Path) -> dict[str, object]:
        scope: dict[str, object] = {"glob": self.glob}
        scope["native"] = types.SimpleNamespace(glob=self.glob)
        scope["load"] = lambda label, *names: scope.update(self._load(label, names))
        for rule in ("exports_files", "filegroup", "package", "licenses"):
            scope[rule] = lambda *args, **attributes: None
        exec(compile(file.read_text(), str(file), "exec"), scope)
        return scope

    def _load(self, label: str, names: Iterable[str]) -> dict[str, object]:
        if label.startswith("@"):
            return dict.fromkeys(names, self._declare)
        folder, _, file = label.removeprefix("//").partition(":")
        scope = self._execute(self.root / folder / file)
        return {name: scope[name] for name in names}

    def _declare(self, name: str, srcs=(), deps=(), **attributes) -> None:
        self.targets.append(
            Target(
                label=f"//{self.path}:{name}",
                sources=frozenset(self._file(source) for source in srcs),
                dependencies=frozenset(self._long(label) for label in deps),
            )
        )

    def _file(self, source: str) -> str:
        if source.startswith("//"):
            return source.removeprefix("//").replace(":", "/").lstrip("/")
        return (Path(self.path) / source.removeprefix(":")).as_posix()

    def _long(self, label: str) -> str:
        if label.startswith("@"):
            return label
        if label.startswith(":"):
            return f"//{self.path}{label}"
        return label if ":" in label else f"{label}:{label.rpartition('/')[2]}"


def _matches(name: str, pattern: str) -> bool:
    if pattern.startswith("**/"):
        pattern, name = pattern.removeprefix("**/"), name.rpartition("/")[2]
    return name.count("/") == pattern.count("/") and fnmatch.fnmatch(name, pattern)


def targets(root: Path, packages: Iterable[str]) -> list[Target]:
    """All targets that the BUILD files in some folders of `root` declare."""
    return [target for path in packages for target in Package(root, path).targets]
