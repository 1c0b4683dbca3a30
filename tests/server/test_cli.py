import re
from dataclasses import replace

import pytest

from engine import EngineConfig
from server.cli import build_parser, engine_config, main, settings
from server.config import ServerConfig

from .conftest import MODEL
from .live import run_sana


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"sana \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["serve", "doctor", "generate x"])
def test_defaults_are_those_of_the_config(command: str) -> None:
    args = build_parser().parse_args(command.split())
    assert engine_config(args) == EngineConfig()


def test_flags_reach_the_config() -> None:
    flags = "--model m --devices cuda:0,cuda:1 --dtype float16 --quantization fp8 --max-queue-seconds 3"
    args = build_parser().parse_args(["serve", *flags.split()])
    asked = dict(model="m", device="cuda:0,cuda:1", dtype="float16", quantization="fp8", max_queue_seconds=3.0)
    expected = replace(EngineConfig(), **asked)
    assert engine_config(args) == expected
    assert expected.devices == ("cuda:0", "cuda:1")
    defaults = settings(args, ServerConfig)
    assert defaults == {"host": "127.0.0.1", "port": 8000, "log_level": "info", "grace_seconds": 25.0}
    assert ServerConfig(EngineConfig(), **defaults) == ServerConfig(EngineConfig())
    flags = "--host h --port 9 --grace-seconds 1.5 --log-level debug"
    given = build_parser().parse_args(["serve", *flags.split()])
    assert settings(given, ServerConfig) == {"host": "h", "port": 9, "log_level": "debug", "grace_seconds": 1.5}


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["paint"],
        ["generate"],
        ["generate", "x", "--steps", "many"],
        ["serve", "--dtype", "int8"],
        ["serve", "--quantization", "int4"],
        ["serve", "extra"],
    ],
)
def test_usage_errors_are_status_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sana" in capsys.readouterr().err


def test_a_malformed_size_is_told_before_the_model_loads(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--size", "large"]) == 1
    assert (
        capsys.readouterr().err == "sana: size is 'large'; it must be WIDTHxHEIGHT in pixels, like 512x512, or auto\n"
    )


def test_doctor_reports_and_passes_its_flags_on() -> None:
    ended = run_sana("doctor", "--model", MODEL, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert "torch" in ended.stdout
