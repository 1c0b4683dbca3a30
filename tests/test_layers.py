"""server -> engine -> kernels, never back; and torch only in the engine process."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"server", "engine", "kernels", "recipes", "benchmarks", "deploy", "tests"}
TENSORS = {"torch", "numpy", "PIL", "transformers", "safetensors", "triton", "diffusers"}
DESK = (
    "__init__", "admission", "client", "config", "costs", "errors", "logs", "messages", "params", "process", "replica",
    "request", "scheduler", "stats", "ticket", "types", "version", "worker",
)  # fmt: skip


def sources(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, package
    return found


def imports(path: Path, at_start_only: bool = False) -> Iterator[str]:
    """Absolute names of the modules a file imports, those inside functions too unless told otherwise."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    for node in tree.body if at_start_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [node.module] if node.module else []
            yield ".".join([*base, *module])


def tops(path: Path, at_start_only: bool = False) -> set[str]:
    return {name.partition(".")[0] for name in imports(path, at_start_only)}


@pytest.mark.parametrize("path", sources("server"), ids=lambda path: str(path.relative_to(ROOT)))
def test_server_imports_what_engine_exports_and_no_tensors(path: Path) -> None:
    ours = {name for name in imports(path) if name.partition(".")[0] in OURS - {"server"}}
    assert ours <= {"engine"}
    looks_at_pictures = {"numpy", "PIL"} if path.parent.name == "evaluation" else set()  # a client, not the server
    assert not tops(path) & (TENSORS - looks_at_pictures)


@pytest.mark.parametrize("path", sources("engine"), ids=lambda path: str(path.relative_to(ROOT / "engine")))
def test_engine_imports_kernels_and_itself(path: Path) -> None:
    assert tops(path) & OURS <= {"engine", "kernels"}


@pytest.mark.parametrize("path", sources("kernels"), ids=lambda path: str(path.relative_to(ROOT)))
def test_kernels_import_torch_and_triton_only(path: Path) -> None:
    assert tops(path) - set(sys.stdlib_module_names) <= {"kernels", "torch", "triton"}


@pytest.mark.parametrize("name", DESK)
def test_the_desk_half_of_the_engine_imports_no_tensors(name: str) -> None:
    assert not tops(ROOT / "engine" / f"{name}.py", at_start_only=True) & TENSORS


def test_the_http_process_holds_no_torch() -> None:
    program = "import sys, server.app, server.cli, server.serving, server.generate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(loaded.stdout.split()) & TENSORS
