"""The licences of what ships: `python -m tools.licences` writes docs/licences.md from the packages' own metadata.

What ships are the layers. The client ships alone and needs httpx, which whoever installs it gets with it.
"""

import re
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

from tools import ROOT

__all__ = ["licence", "page", "pinned", "shipped"]

PAGE = ROOT / "docs" / "licences.md"
HEAD = """\
# Licences of what ships

`make licences` writes this page from the packages' own metadata; a test compares. Tollgate itself is Apache-2.0.
`make sbom` lists those of the layers with versions and hashes, as CycloneDX.

| Package | Licence | Where |
| --- | --- | --- |
"""
LAYERS = {"requirements.txt": "common layer", "stripe.txt": "Stripe layer", "oidc.txt": "OIDC layer"}
NAMES = {
    "BSD License": "BSD",
    "Apache Software License": "Apache-2.0",
    "MIT License": "MIT",
    "MIT No Attribution License (MIT-0)": "MIT-0",
    "Public Domain": "public domain",
}
"""Of classifiers, which packages without another sign have."""
VAGUE = {"", "Dual License"}


def pinned(file: Path) -> dict[str, str]:
    """The packages of a requirements file with their versions."""
    return dict(re.findall(r"^([\w.-]+)==([^\s;\\]+)", file.read_text(encoding="utf-8"), re.MULTILINE))


def shipped() -> dict[str, str]:
    """Each package that ships, and where."""
    found: dict[str, list[str]] = {}
    for file, where in LAYERS.items():
        for package in pinned(ROOT / "layers/common" / file):
            found.setdefault(package, []).append(where)
    for package in _needed("httpx"):
        found.setdefault(package, ["the client needs it"])
    return {package: ", ".join(places) for package, places in sorted(found.items())}


def _needed(package: str) -> set[str]:
    """A package and all that it needs without extras."""
    found = {package}
    for line in metadata.requires(package) or ():
        name = re.split(r"[^\w.-]", line, maxsplit=1)[0].lower()
        if ";" not in line and name not in found:
            found |= _needed(name)
    return found


def licence(package: str) -> str:
    """A package's licence, as its metadata says."""
    about = metadata.metadata(package).json
    if expression := about.get("license_expression"):
        return str(expression)
    short = str(about.get("license", "")).strip()
    if short not in VAGUE and "\n" not in short:
        return short
    classifiers = [name.rpartition(" :: ")[2] for name in about["classifier"] if name.startswith("License")]
    return " or ".join(NAMES[name] for name in classifiers)


def page() -> str:
    """The page as it should be."""
    return HEAD + "".join(_rows())


def _rows() -> Iterator[str]:
    for package, where in shipped().items():
        yield f"| {package} | {licence(package)} | {where} |\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    sys.exit(0)
