"""Write LICENSES.md: the licence and origin of every package in the locks.

python third_party/licences.py

Reads the metadata of the packages installed beside the interpreter that runs it, so
run it in an environment built from the locks. `make lock` does.
"""

import pathlib
import re
from importlib import metadata

HERE = pathlib.Path(__file__).parent
# The labels under which projects publish their source, the most telling first.
ORIGINS = ("source", "sourcecode", "repository", "github", "homepage", "home")
# Packages whose metadata names no licence; read from the licence file they ship.
LICENCES = {"grain": "Apache-2.0"}
HEADER = """\
# Licences of the locked packages

Written by `licences.py` from the packages' own metadata. None of them is copied into
this repository: they are installed from the Python Package Index.

| package | licence | origin |
|---|---|---|
"""


def locked(lock: pathlib.Path) -> dict[str, str]:
    """Names and versions that a requirements lock pins."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==(\S+)", lock.read_text(), re.M))


def licence(package: metadata.PackageMetadata) -> str:
    """The licence a package declares: SPDX expression, else classifiers, else text.

    Raises:
      ValueError: the package names none in one line.
    """
    if expression := package.get("License-Expression"):
        return expression
    classifiers = [
        value.rsplit(" :: ", 1)[1]
        for value in package.get_all("Classifier") or []
        if value.startswith("License :: ") and not value.endswith("OSI Approved")
    ]
    text = (package.get("License") or "").strip()
    named = " AND ".join(classifiers) or LICENCES.get(package["Name"].lower()) or text
    if not named or "\n" in named or named.upper() == "UNKNOWN":
        raise ValueError(f"{package['Name']}: add its licence to LICENCES")
    return named


def origin(package: metadata.PackageMetadata) -> str:
    """Where a package's source is published, as it says itself."""
    links = {}
    for value in package.get_all("Project-URL") or []:
        label, _, address = value.partition(",")
        links[re.sub(r"[^a-z]", "", label.lower())] = address.strip()
    found = [links[label] for label in ORIGINS if label in links]
    return (found or [package.get("Home-page") or ""])[0] or "PyPI"


def main() -> None:
    """Write the table for all locks."""
    names = sorted({name for lock in HERE.glob("*.lock") for name in locked(lock)})
    rows = []
    for name in names:
        package = metadata.metadata(name)
        rows.append(f"| {name} | {licence(package)} | {origin(package)} |\n")
    (HERE / "LICENSES.md").write_text(HEADER + "".join(rows))


if __name__ == "__main__":
    main()
