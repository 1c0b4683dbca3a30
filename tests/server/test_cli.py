import re
from dataclasses import replace
from pathlib import Path

import pytest

from engine import EngineConfig
from server.cli import build_parser, engine_config, main, settings
from server.settings import ModelAlias, ServerConfig

from .conftest import MODEL
from .live import run_sana


def test_version_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"sana \S.*\n", capsys.readouterr().out)


@pytest.mark.parametrize("command", ["serve", "doctor", "generate x"])
def test_flags_default_to_config(command: str) -> None:
    args = build_parser().parse_args(command.split())
    assert engine_config(args) == EngineConfig()


def test_flags_set_engine_config() -> None:
    flags = "--model m --devices cuda:0,cuda:1 --dtype float16 --quantization fp8 --max-queue-seconds 3 --exact"
    flags += " --no-cuda-graphs"
    args = build_parser().parse_args(["serve", *flags.split()])
    given = dict(model="m", device="cuda:0,cuda:1", dtype="float16", quantization="fp8", max_queue_seconds=3.0)
    expected = replace(EngineConfig(), **given, cuda_graphs=False, exact=True)
    assert engine_config(args) == expected
    assert expected.devices == ("cuda:0", "cuda:1")


def test_repeated_flags_collect_values() -> None:
    flags = "--api-key a --api-key b --model-alias x=m --model-alias y=m --cors-origin https://p --api-key-file k"
    given = settings(build_parser().parse_args(["serve", *flags.split()]), ServerConfig)
    assert given["api_keys"] == ["a", "b"]
    assert given["model_aliases"] == {"x": ModelAlias("m"), "y": ModelAlias("m")}
    assert given["cors_origins"] == ["https://p"]
    assert given["api_key_file"] == Path("k")


@pytest.mark.parametrize(
    ("text", "name", "alias"),
    [
        ("dall-e-3=demo", "dall-e-3", ModelAlias("demo")),
        ("dall-e-3=demo:url", "dall-e-3", ModelAlias("demo", "url")),
        ("a=org/name:b64_json", "a", ModelAlias("org/name", "b64_json")),
        ("a=C:\\models\\sana", "a", ModelAlias("C:\\models\\sana")),
        ("*", "*", ModelAlias("")),
        ("*=demo:url", "*", ModelAlias("demo", "url")),
    ],
)
def test_alias_parsed(text: str, name: str, alias: ModelAlias) -> None:
    args = build_parser().parse_args(["serve", "--model-alias", text])
    assert settings(args, ServerConfig)["model_aliases"] == {name: alias}


@pytest.mark.parametrize("alias", ["x", "x=", "=m", "x=:url", "*:url"])
def test_alias_without_model_refused(alias: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "--model-alias", alias])
    assert "like dall-e-3=demo" in capsys.readouterr().err


def test_alias_of_unserved_model_stops_start() -> None:
    ended = run_sana("serve", "--port", "0", "--devices", "cpu", "--model-alias", "dall-e-3=other")
    assert ended.returncode == 1
    assert "sana: --model-alias dall-e-3 must refer to the served model 'demo', got 'other'" in ended.stderr


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
def test_usage_errors_exit_with_2(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert "usage: sana" in capsys.readouterr().err


def test_generate_checks_size_before_loading(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "a cat", "--size", "large"]) == 1
    expected = "size must be WIDTHxHEIGHT in pixels, like 512x512, a ratio, like 16:9, or auto, got 'large'"
    assert capsys.readouterr().err == f"sana: {expected}\n"


def test_doctor_reports_torch() -> None:
    ended = run_sana("doctor", "--model", MODEL, "--device", "cpu")
    assert ended.returncode == 0, ended.stderr
    assert "torch" in ended.stdout
