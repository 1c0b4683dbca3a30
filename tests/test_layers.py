"""Imports run one way, server -> engine -> kernels, and only the engine process imports torch.

Inside the engine, the torch-free half (`engine/*.py`) never imports the half that runs on the device (its folders).
"""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
OURS = {"server", "engine", "kernels", "recipes", "benchmarks", "deploy", "tests"}
TENSORS = {"torch", "numpy", "PIL", "tokenizers", "transformers", "safetensors", "triton", "diffusers"}
BRIDGE = "engine/process.py"
"""The one file that may import device code: it starts the engine process with it."""


def sources(pattern: str) -> list[Path]:
    found = sorted(ROOT.glob(pattern))
    assert found, pattern
    return found


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path, module_level: bool = False) -> Iterator[str]:
    """Absolute names of all imports of a file: `package.module.name` for `from package.module import name`."""
    package = path.relative_to(ROOT).parent.parts
    tree = ast.parse(path.read_text())
    for node in tree.body if module_level else ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = [node.module] if node.module else []
            yield from (".".join([*base, *module, alias.name]) for alias in node.names)


def top_packages(path: Path) -> set[str]:
    """Top-level packages that a file imports."""
    return {name.partition(".")[0] for name in imports(path)}


@pytest.mark.parametrize("folder", ["server", "engine", "kernels"])
def test_plain_server_imports_no_ray(folder: str) -> None:
    found = [name_of(path) for path in sources(f"{folder}/**/*.py") if top_packages(path) & {"ray", "deploy"}]
    assert not found


@pytest.mark.parametrize("path", sources("server/**/*.py"), ids=name_of)
def test_server_imports_engine_exports_only(path: Path) -> None:
    ours = {name for name in imports(path) if name.partition(".")[0] in OURS - {"server"}}
    assert all(name.startswith("engine.") and name.count(".") == 1 for name in ours), ours
    own_tools = {"numpy", "PIL"} if path.parent.name == "evaluation" else set()  # `sana eval` is a client
    if path.name == "source_images.py":  # imported with the first image that a client sends
        own_tools = {"PIL"}
    assert not top_packages(path) & (TENSORS - own_tools)


@pytest.mark.parametrize("path", sources("engine/**/*.py"), ids=name_of)
def test_engine_imports_kernels_and_itself_only(path: Path) -> None:
    assert top_packages(path) & OURS <= {"engine", "kernels"}
    assert not top_packages(path) & {"transformers", "diffusers"}  # seconds of every start; tests compare with them


@pytest.mark.parametrize("path", sources("kernels/*.py"), ids=name_of)
def test_kernels_import_torch_and_triton_only(path: Path) -> None:
    assert top_packages(path) - set(sys.stdlib_module_names) <= {"kernels", "torch", "triton"}


@pytest.mark.parametrize("path", sources("engine/*.py"), ids=name_of)
def test_torch_free_engine_files_import_no_device_code(path: Path) -> None:
    folders = tuple(f"engine.{folder.name}." for folder in sorted((ROOT / "engine").iterdir()) if folder.is_dir())
    reached = {name for name in imports(path) if f"{name}.".startswith(folders)}
    assert reached == ({"engine.worker.main"} if name_of(path) == BRIDGE else set())
    assert not any(f"{name}.".startswith(folders) for name in imports(path, module_level=True))
    assert not top_packages(path) & (TENSORS | {"kernels"})


def test_server_process_loads_no_torch() -> None:
    program = "import sys, server.app, server.cli, server.serving, server.generate; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=True)
    assert not set(loaded.stdout.split()) & TENSORS
