"""The names in the documents exist: paths, commands, flags, variables, make targets and metrics."""

import re
from pathlib import Path

import pytest

from engine import EngineClient, EngineConfig
from server.limits import Limits
from server.metrics import Metrics

from .commands import ROOT, flags_of, help_of

PAGES = [ROOT / "README.md", ROOT / "benchmarks" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PAGE_IDS = [str(page.relative_to(ROOT)) for page in PAGES]
OPERATIONS = ROOT / "docs" / "operations.md"
WATCHING = ROOT / "docs" / "watching.md"
FOLDERS = {path.name for path in ROOT.iterdir() if path.is_dir()}
BLOCK = re.compile(r"^```\w*\n(.*?)^```", re.DOTALL | re.MULTILINE)
FLAG = r"(?<![\w-])--?[a-z][a-z-]*"
COMMAND = re.compile(r"(?:^|(?<=[\s/]))(?:(sana) ([a-z]+)|(python) -m ([a-z][\w.]+))\b(.*)")


def code(page: Path) -> list[str]:
    """Lines of a page's code blocks, and its code spans, without comments; ARGS of `make serve` as flags."""
    text = page.read_text()
    lines = [line for block in BLOCK.findall(text) for line in block.replace("\\\n", " ").splitlines()]
    lines += re.findall(r"`([^`\n]+)`", BLOCK.sub("", text))
    return [re.sub(r'make serve ARGS="([^"]+)"', r"sana serve \1", line.split(" #")[0]) for line in lines]


CODE = {page: code(page) for page in PAGES}


def commands(lines: list[str]) -> set[tuple[str, str, str]]:
    """Commands in `lines` as (program, name, flag); "--help" stands for a command without flags."""
    found = set()
    for match in filter(None, map(COMMAND.search, lines)):
        program, name = (match[1], match[2]) if match[1] else (match[3], match[4])
        found |= {(program, name, flag) for flag in re.findall(FLAG, match[5]) or ["--help"]}
    return found


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_page_paths_exist(page: Path) -> None:
    words = {word.strip(",;:()'\"") for line in CODE[page] for word in line.split()}
    named = {word for word in words if word.partition("/")[0] in FOLDERS and "/" in word}
    named |= {word for word in words if re.fullmatch(r"[\w.-]+\.(py|md|toml)", word)}
    named |= set(re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text()))
    missing = {name for name in named if not any(list(folder.glob(name)) for folder in (ROOT, page.parent))}
    assert not missing


def test_architecture_names_every_package() -> None:
    text = (ROOT / "docs" / "architecture.md").read_text()
    packages = [path.parent for top in ("server", "engine", "kernels") for path in (ROOT / top).rglob("__init__.py")]
    assert packages
    assert not [package for package in packages if f"{package.relative_to(ROOT)}/  " not in text]


def test_readme_links_every_page() -> None:
    text = (ROOT / "README.md").read_text()
    assert all(f"(docs/{page.name})" in text for page in (ROOT / "docs").glob("*.md"))


@pytest.mark.parametrize(
    ("program", "name", "flag"), sorted(set().union(*(commands(lines) for lines in CODE.values())))
)
def test_page_commands_and_flags_exist(program: str, name: str, flag: str) -> None:
    assert flag in flags_of(program, name)


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_page_flags_without_command_exist(page: Path) -> None:
    named = {flag for line in CODE[page] if line.startswith("--") for flag in re.findall(FLAG, line)}
    known = {("sana", "serve"), *((program, name) for program, name, _ in commands(CODE[page]))}
    assert named <= {flag for program, name in known for flag in flags_of(program, name)}


def test_operations_lists_every_setting() -> None:
    rows = re.findall(r"^\| `(--[a-z-]+)[^|]*\| `(SANA_[A-Z_]+)", OPERATIONS.read_text(), flags=re.MULTILINE)
    shown = re.findall(r"^  (--[a-z-]+)(?:.|\n(?!  -))*?\[(SANA_[A-Z_]+)", help_of("sana", "serve"), flags=re.MULTILINE)
    assert len(rows) == len(set(rows))
    assert {(flag.replace("--no-", "--"), variable) for flag, variable in rows} == set(shown)


def test_watching_lists_every_metric() -> None:
    metrics = Metrics()
    metrics.watch(EngineClient(EngineConfig()), Limits(0, 0))
    kinds = re.findall(r"^# TYPE (\w+) (\w+)", metrics.render().decode(), flags=re.MULTILINE)
    exported = {name for name, kind in kinds if name.startswith("sana_") and not name.endswith("_created")}
    named = {name for line in CODE[WATCHING] for name in re.findall(r"^sana_[a-z_]+", line)}
    assert named == exported


@pytest.mark.parametrize("page", PAGES, ids=PAGE_IDS)
def test_page_make_targets_and_variables_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (.*)", makefile, flags=re.MULTILINE)[0].split()
    lines = [line for line in page.read_text().splitlines() if re.search(r"(^|`)make ", line)]
    assert {target for line in lines for target in re.findall(r"(?:^|`)make ([a-z]+)", line)} <= set(targets)
    variables = set(re.findall(r"^([A-Z]+) \??=", makefile, flags=re.MULTILINE))
    assert {name for line in lines for name in re.findall(r" ([A-Z]+)=", line)} <= variables
