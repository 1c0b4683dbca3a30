"""A load that hangs, as on a network file system that stops answering: a pipe that nobody writes stands for a file."""

import os
import re
import shutil
import subprocess
from pathlib import Path

from engine.checkpoints.locate import DEMO

from .live import ENVIRONMENT, SANA


def test_hung_load_ends_start(tmp_path: Path) -> None:
    model = Path(shutil.copytree(DEMO, tmp_path / "model"))
    (model / "transformer/config.json").unlink()
    os.mkfifo(model / "transformer/config.json")
    flags = ["serve", "--devices", "cpu", "--port", "0", "--model", str(model), "--start-seconds", "4"]
    ended = subprocess.run([*SANA, *flags], env=ENVIRONMENT, capture_output=True, text=True, timeout=120)
    *lines, last = ended.stderr.splitlines()
    assert (ended.returncode, ended.stdout) == (1, "")
    assert last == "sana: engine process 0 was not ready within 4 s; allow more with --start-seconds"
    loading = re.compile(r"INFO engine.replica engine process 0 is still loading after [123]")
    assert sum(bool(loading.search(line)) for line in lines) >= 2
