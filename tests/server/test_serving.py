"""Start and stop of `sana serve`."""

import os
import signal
import socket
import time
from pathlib import Path

import httpx
import pytest

from server.cli import main

from .conftest import MODEL
from .live import LiveServer, run_sana


def test_port_in_use_is_one_line(server: LiveServer, capsys: pytest.CaptureFixture[str]) -> None:
    port = server.url.rpartition(":")[2]
    assert main(["serve", "--port", port]) == 1
    reason = "Address already in use; choose another with --host and --port"
    assert capsys.readouterr().err == f"sana: cannot listen on 127.0.0.1:{port}: {reason}\n"


@pytest.mark.parametrize(
    ("host", "port", "words"),
    [
        ("127.0.0.1", 70000, "--port must be 0 (a free one) to 65535"),
        ("no.such.host.invalid", 0, "cannot listen on no.such.host.invalid:0: "),
    ],
)
def test_invalid_address_is_one_line(host: str, port: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--host", host, "--port", str(port)]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sana: cannot listen on ")
    assert words in line


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--files FILE", "cannot keep files in FOLDER/file: "),
        ("--files FILE/below", "cannot keep files in FOLDER/file/below: "),
        ("--files /proc/sana", "cannot keep files in /proc/sana: "),
        ("--files s3://", "without a bucket"),
        ("--files s3:///prefix", "without a bucket"),
        ("--files s3:bucket", "--files must be a folder or s3://BUCKET/PREFIX, got 's3:bucket'"),
        ("--files gs://bucket/prefix", "--files must be a folder or s3://BUCKET/PREFIX"),
        ("--files file:///srv/files", "--files must be a folder or s3://BUCKET/PREFIX"),
        ("--files=", "--files must be a folder or s3://BUCKET/PREFIX, got ''"),
        ("--api-key=", "an API key must be printable ASCII"),
        ("--api-key=\u00fcber", "an API key must be printable ASCII"),
        ("--api-key-file /dev/null", "must be a regular file"),
        ("--api-key-file PIPE", "must be a regular file"),
        ("--api-key-file FOLDER/absent", "cannot read the API key file: "),
        ("--api-key-file FOLDER", "must be a regular file"),
        ("--api-key-file UMLAUT", "an API key must be printable ASCII"),
        ("--api-key-file FILE", "must hold at least one API key"),
        ("--api-key-file BINARY", "cannot read the API key file: "),
        ("--public-url example.org/sana", "did you mean https://example.org/sana?"),
        ("--public-url https:example.org", "did you mean https://example.org?"),
        ("--public-url https://example.org/{path}", "--public-url must be like https://example.org"),
        ("--public-url https://", "--public-url must be like https://example.org"),
        ("--otlp-endpoint 127.0.0.1:4318", "--otlp-endpoint must be like https://example.org"),
        ("--otlp-endpoint grpc://127.0.0.1:4317", "--otlp-endpoint must be like https://example.org"),
        ("--trusted-proxy nginx", "--trusted-proxy must be an address like 10.0.0.7"),
    ],
)
def test_bad_start_value_is_one_line(
    flags: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    (tmp_path / "umlaut").write_text("sk-one\n\u00fcber\n")
    os.mkfifo(tmp_path / "pipe")
    paths = {name.upper(): tmp_path / name for name in ("file", "binary", "umlaut", "pipe")} | {"FOLDER": tmp_path}
    for name, path in paths.items():
        flags, words = flags.replace(name, str(path)), words.replace(name, str(path))
    absent = str(tmp_path / "absent")  # ends a server that accepts the flags
    assert main(["serve", "--port", "0", "--model", absent, *flags.split()]) == 1
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("sana: ")
    assert words in line


def test_missing_model_is_one_line(tmp_path: Path) -> None:
    ended = run_sana("serve", "--port", "0", "--devices", "cpu", "--model", str(tmp_path / "absent"))
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "Traceback" not in ended.stderr
    [line] = [line for line in ended.stderr.splitlines() if line.startswith("sana: ")]
    assert "absent" in line


def test_ctrl_c_while_loading_stops_at_once(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    server = LiveServer(tmp_path / "log", "--model", MODEL, "--port", str(port))
    for _ in range(400):
        try:
            assert httpx.get(f"http://127.0.0.1:{port}/ready").status_code == 503
            break
        except httpx.ConnectError:
            time.sleep(0.05)
    started = time.monotonic()
    os.killpg(server.process.pid, signal.SIGINT)  # as a terminal does, to the engine process too
    assert server.wait() == 0
    assert time.monotonic() - started < 5
    assert "Traceback" not in (tmp_path / "log").read_text()
