"""A real PostgreSQL of Debian's package, in a temporary folder and on a Unix socket only."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

FOUND = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
UNPRIVILEGED = "postgres"  # PostgreSQL refuses to run as root


class Postgres:
    """A cluster that can be stopped and started. `url` is what --database takes."""

    def __init__(self, folder: Path) -> None:
        if not FOUND:
            pytest.skip("needs PostgreSQL")
        if os.geteuid() == 0 and shutil.which("runuser") is None:
            pytest.skip("needs runuser, because PostgreSQL refuses to run as root")
        self.bin, self.folder = FOUND[-1].parent, folder
        self.url = f"postgresql://postgres@/postgres?host={folder}"
        if os.geteuid() == 0:
            shutil.chown(folder, UNPRIVILEGED)
        self.run("initdb", "--auth", "trust", "--no-sync", "--username", "postgres")

    def start(self) -> None:
        options = f"-k {self.folder} -c listen_addresses='' -c max_connections=60"
        self.run("pg_ctl", "-o", options, "-l", str(self.folder / "log"), "-w", "start")

    def stop(self) -> None:
        """Ends it at once, as a crash would."""
        self.run("pg_ctl", "-m", "immediate", "-w", "stop")

    def run(self, program: str, *arguments: str) -> None:
        prefix = ["runuser", "-u", UNPRIVILEGED, "--"] if os.geteuid() == 0 else []
        command = [*prefix, str(self.bin / program), "-D", str(self.folder / "data"), *arguments]
        # No pipes: the server would keep them open.
        subprocess.run(command, check=True, cwd=self.folder, stdout=subprocess.DEVNULL, timeout=60)
