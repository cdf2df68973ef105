"""Numbered parts of a long output, each whole or absent, whatever kills the process.

    part-00000.jsonl          rows; appears last, and says that the part is whole
    part-00000.rejects.jsonl  rows that gave nothing, if there are any
    part-00000.json           facts: where the next part begins, counts, checksums

A part that is whole is never written again. One that is not is made anew.
"""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nemojax.io import folders, json_text, sealed
from nemojax.io.quarantine import Quarantine
from nemojax.io.workdir import WorkdirError

ROWS, REJECTS, FACTS = ".jsonl", ".rejects.jsonl", ".json"


class Parts:
    """The parts in a folder, which one process writes at a time.

    Attributes:
      directory: the folder.
      facts: facts of each whole part, in order.
    """

    def __init__(self, directory: Path):
        """Finds what is whole.

        Raises:
          WorkdirError: a part is missing among others, or was changed.
        """
        self.directory = directory
        names = {path.name for path in directory.glob(f"part-*{ROWS}")}
        names = {name for name in names if not name.endswith(REJECTS)}
        self.facts: list[dict[str, Any]] = []
        while (path := self._path(len(self.facts), ROWS)).name in names:
            names.remove(path.name)
            self.facts.append(self._read(len(self.facts)))
        if names:
            raise WorkdirError(
                f"{path} is missing, but {min(names)} is there: remove the parts after "
                "it, too, then run the same command again"
            )

    def write(
        self,
        rows: Iterable[Any],
        rejects: Quarantine,
        facts: dict[str, Any],
    ) -> dict[str, Any]:
        """Writes the next part; it is on the disk when this returns.

        Args:
          rows: JSON objects.
          rejects: the rows that gave nothing; its `facts` are added to the facts.
          facts: a JSON object.

        Returns:
          The facts as they are stored.
        """
        number = len(self.facts)
        text = b"".join(map(json_text.line, rows))
        listed = rejects.write(self._path(number, REJECTS))
        sizes = {ROWS: len(text), REJECTS: listed.stat().st_size if listed else 0}
        sums = {ROWS: hashlib.sha256(text).hexdigest()}
        sums |= {REJECTS: folders.sha256(listed)} if listed else {}
        facts = facts | rejects.facts | {"bytes": sizes, "sha256": sums}
        sealed.write(self._path(number, FACTS), facts)
        folders.sync(self.directory)
        folders.write_file(self._path(number, ROWS), text)
        folders.sync(self.directory)
        self.facts.append(facts)
        return facts

    def _path(self, number: int, suffix: str) -> Path:
        return self.directory / f"part-{number:05}{suffix}"

    def _read(self, number: int) -> dict[str, Any]:
        path = self._path(number, FACTS)
        try:
            facts = sealed.read(path)
            for suffix, size in facts["bytes"].items():
                path = self._path(number, suffix)
                if (path.stat().st_size if size or path.exists() else 0) != size:
                    raise ValueError("its size has changed")
            for suffix, digest in facts.get("sha256", {}).items():
                path = self._path(number, suffix)
                if folders.sha256(path) != digest:
                    raise ValueError("its bytes have changed")
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error).removeprefix(f"{path}: ")
            raise WorkdirError(
                f"{path}: {reason}: parts are not to be changed; remove this one and "
                "those after it, then run the same command again"
            ) from error
        return facts
