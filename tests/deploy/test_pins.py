"""constraints.txt pins every distribution of an installation to the version that the tests run with."""

import ast
import importlib.metadata
import sys

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from .distributions import EXTRAS, OPTIONAL, RUNTIME, names_with_dependencies
from .dockerfile import ROOT

LINES = (ROOT / "constraints.txt").read_text().splitlines()
PINS = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in LINES) if version}
PACKAGES = ("server", "engine", "kernels")


def imported_modules() -> set[str]:
    """Top-level names of all modules that our packages import absolutely."""
    trees = [ast.parse(file.read_text()) for package in PACKAGES for file in (ROOT / package).rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module or "" for node in nodes if isinstance(node, ast.ImportFrom) and node.level == 0]
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("module", sorted(imported_modules() - sys.stdlib_module_names - set(PACKAGES)))
def test_imported_module_is_declared(module: str) -> None:
    declared = {canonicalize_name(requirement.name) for requirement in [*RUNTIME, *OPTIONAL]}
    assert {canonicalize_name(name) for name in importlib.metadata.packages_distributions()[module]} & declared


@pytest.mark.parametrize("name", names_with_dependencies([*RUNTIME, *EXTRAS]))
def test_installed_version_is_pinned(name: str) -> None:
    assert Version(importlib.metadata.version(name)).public == PINS[name]


@pytest.mark.parametrize("requirement", [*RUNTIME, *EXTRAS], ids=str)
def test_pin_is_in_declared_range(requirement: Requirement) -> None:
    assert PINS[canonicalize_name(requirement.name)] in requirement.specifier


def test_pins_are_unique() -> None:
    names = [line.partition("==")[0].lower() for line in LINES if "==" in line]
    assert len(set(names)) == len(names)


def test_pins_exclude_foreign_kernels_package() -> None:
    assert "kernels" not in PINS  # Hugging Face's package would replace ours
