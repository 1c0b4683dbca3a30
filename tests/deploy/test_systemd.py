"""The unit of docs/operations.md: what systemd itself says about it, and whether its times fit the server's."""

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from server.cli import build_parser, server_config

PAGE = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
[UNIT] = re.findall(r"^```ini\n(.*?)^```", PAGE, flags=re.DOTALL | re.MULTILINE)


def service() -> configparser.SectionProxy:
    unit = configparser.ConfigParser(interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read_string(UNIT)
    return unit["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_accepts_unit(tmp_path: Path) -> None:
    """Unknown directives and malformed values are warnings; the command must exist."""
    unit = tmp_path / "sana.service"
    unit.write_text(UNIT.replace("/opt/sana/bin/sana", sys.executable))
    checked = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert [line for line in checked.stderr.splitlines() if "sana.service" in line] == []


def test_unit_starts_server_and_waits_for_its_stop() -> None:
    section = service()
    program, *arguments = shlex.split(section["ExecStart"])
    assert Path(program).name == "sana"
    config = server_config(build_parser().parse_args(arguments), {})
    assert int(section["TimeoutStopSec"]) > max(config.grace_seconds, config.drain_seconds) + 5
    assert config.drain_seconds > 0
    assert "KillMode" not in section  # its default signals every process, which tests/server/test_stopping.py does
    assert "KillSignal" not in section  # its default is SIGTERM
