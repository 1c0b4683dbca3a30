"""The image under another user: OpenShift and `docker run --user` choose one of group 0 whose home is /."""

import os
import shutil
import subprocess
import sys
from pathlib import Path, PurePosixPath

import pytest

from .dockerfile import ENVIRONMENT, LAST, ROOT, STEPS, inside, values, words_inside

FOLDERS = [
    command.strip()
    for step in STEPS
    if (step.stage, step.instruction) == (LAST, "RUN")
    for command in step.value.split("&&")
    if command.split()[0] == "install"
]
# Reading stays possible: the interpreter and pytest's folders may be root's alone.
AS_OTHER = ["setpriv", "--reuid=54321", "--regid=0", "--clear-groups"]
AS_OTHER += ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
PROGRAM = """
import os
from pathlib import Path
from huggingface_hub.constants import HF_HUB_CACHE
from triton import knobs
for folder in (HF_HUB_CACHE, knobs.cache.dir):
    Path(folder).mkdir(parents=True)
    (Path(folder) / "file").write_text("written")
    print(folder)
try:
    Path("/written-by-another-user").touch()
except PermissionError:
    print("not root")
"""


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Root of a file system with the folders that the Dockerfile makes."""
    if os.name != "posix" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        pytest.skip("needs root and setpriv to become another user")
    for command in FOLDERS:
        words = [word for word in words_inside(tmp_path, command) if not word.startswith("--owner=")]
        subprocess.run([*words, "--owner=1000"], check=True)
    return tmp_path


def run_as_other(image: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Runs Python in the image's working directory and environment, as a user without name or home."""
    variables = {
        name: str(inside(image, PurePosixPath(value))) if value.startswith("/") else value
        for name, value in ENVIRONMENT.items()
    }
    variables |= {"PATH": os.environ["PATH"], "HOME": "/", "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    words = [*AS_OTHER, sys.executable, *command]
    folder = inside(image, PurePosixPath(values("WORKDIR")[-1]))
    return subprocess.run(words, cwd=folder, env=variables, capture_output=True, text=True, timeout=240)


def test_other_user_writes_caches(image: Path) -> None:
    child = run_as_other(image, "-c", PROGRAM)
    hub, triton, user = child.stdout.splitlines() or ["", "", child.stderr]
    assert user == "not root"
    assert Path(hub).is_relative_to(inside(image, PurePosixPath(values("VOLUME")[0].strip('[]"'))))
    assert Path(triton).is_relative_to(image)


def test_other_user_generates(image: Path) -> None:
    child = run_as_other(image, "-m", "server.cli", "generate", "a red circle", "--size", "64x64", "--steps", "1")
    assert child.stdout.strip() == "sana.png", child.stderr
