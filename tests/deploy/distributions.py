"""The distributions that ours requires, directly and indirectly, as installed here."""

import importlib.metadata
import tomllib
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .dockerfile import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
RUNTIME = [Requirement(text) for text in PROJECT["dependencies"]]
OPTIONAL = [Requirement(text) for name in ("s3", "otel", "postgres") for text in PROJECT["optional-dependencies"][name]]
TEST = [Requirement(text) for text in PROJECT["optional-dependencies"]["test"]]
EXTRAS = [*OPTIONAL, *TEST]
"""What `make test` installs; `bench-cpu` is for one benchmark and not pinned."""


def names_with_dependencies(requirements: list[Requirement]) -> list[str]:
    """Names of all distributions that `requirements` install on this machine."""
    found: dict[str, set[str]] = {}
    waiting = list(requirements)
    while waiting:
        requirement = waiting.pop()
        name = canonicalize_name(requirement.name)
        if name in found and requirement.extras <= found[name]:
            continue
        found[name] = found.get(name, set()) | requirement.extras
        needs = [Requirement(text) for text in importlib.metadata.requires(name) or []]
        waiting += [need for need in needs if applies(need, found[name])]
    return sorted(found)


def applies(requirement: Requirement, extras: set[str]) -> bool:
    """Whether the requirement's marker holds for one of the extras, or without any."""
    return requirement.marker is None or any(requirement.marker.evaluate({"extra": extra}) for extra in extras | {""})


def link_distribution(name: str, folder: Path) -> None:
    """Makes an installed distribution importable from `folder`, through symbolic links."""
    distribution = importlib.metadata.distribution(name)
    for part in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
        if not (folder / part).is_symlink():  # several distributions may share a namespace package
            (folder / part).symlink_to(Path(str(distribution.locate_file(part))))
