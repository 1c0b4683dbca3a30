"""Every flag of `sana serve` as an environment variable."""

import argparse
import json
import re
from dataclasses import fields
from pathlib import Path

import pytest

from engine import EngineConfig
from server.cli import build_parser, server_config
from server.environment import SECRETS, Repeated, VariableError
from server.flags import serve_flags
from server.settings import ModelAlias, ServerConfig

from .live import LiveServer, run_sana

FLAGS = serve_flags()


def samples(action: argparse.Action) -> tuple[str, str]:
    """Two texts that the flag takes, the default not among them."""
    if isinstance(action, argparse.BooleanOptionalAction):
        return "true", "false"
    if action.choices is not None:
        first, *_, last = action.choices
        return last, first
    if isinstance(action, Repeated):
        return "one=demo", "two=demo"
    return ("7", "8") if action.type not in (None, Path) else ("seven", "eight")


def config(environment: dict[str, str], *flags: str) -> ServerConfig:
    return server_config(build_parser().parse_args(["serve", *flags]), environment)


def given(action: argparse.Action, text: str) -> list[str]:
    if isinstance(action, argparse.BooleanOptionalAction):
        return [action.option_strings[text == "false"]]
    return [f"{action.option_strings[0]}={text}"]


@pytest.mark.parametrize("variable", FLAGS.variables)
def test_variable_equals_flag(variable: str) -> None:
    action = FLAGS.variables[variable]
    settings = []
    for text in samples(action):
        from_variable, from_flag = config({variable: text}), config({}, *given(action, text))
        assert from_variable == from_flag
        settings.append(from_variable)
    assert settings[0] != settings[1]


@pytest.mark.parametrize("variable", FLAGS.variables)
def test_flag_overrides_variable(variable: str) -> None:
    action = FLAGS.variables[variable]
    for text, other in (samples(action), samples(action)[::-1]):
        assert config({variable: other}, *given(action, text)) == config({}, *given(action, text))


@pytest.mark.parametrize("variable", [*FLAGS.variables, *(f"{name}_FILE" for name in SECRETS)])
def test_empty_variable_is_unset(variable: str) -> None:
    assert config({variable: ""}) == config({}) == ServerConfig(EngineConfig())


def test_help_names_every_variable(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        build_parser().parse_args(["serve", "--help"])
    words = re.split(r"[\s\[\]]+", capsys.readouterr().out)
    assert {*FLAGS.variables, *(f"{name}_FILE" for name in SECRETS)} <= set(words)


def test_every_server_setting_has_a_variable() -> None:
    settings = {action.dest for action in FLAGS.variables.values()}
    assert {field.name for field in fields(ServerConfig)} - {"engine"} <= settings
    assert settings <= {field.name for kind in (ServerConfig, EngineConfig) for field in fields(kind)}


@pytest.mark.parametrize("text", ["a,b", "a b", " a , b ", "a\nb\n"])
def test_list_variable_separators(text: str) -> None:
    assert config({"SANA_API_KEYS": text}).api_keys == ["a", "b"]
    assert config({"SANA_CORS_ORIGINS": text}).cors_origins == ["a", "b"]
    aliases = text.replace("a", "x=demo").replace("b", "y=demo")
    assert config({"SANA_MODEL_ALIASES": aliases}).model_aliases == {"x": ModelAlias("demo"), "y": ModelAlias("demo")}


@pytest.mark.parametrize(("text", "value"), [("True", True), ("1", True), ("FALSE", False), ("0", False)])
def test_boolean_variable_words(text: str, value: bool) -> None:
    assert config({"SANA_STRICT_PARAMS": text}).strict_params is value
    assert config({"SANA_CUDA_GRAPHS": text}).engine.cuda_graphs is value


@pytest.mark.parametrize(
    ("variable", "text", "right"),
    [
        ("SANA_PORT", "8000.5", "an integer of at least 0"),
        ("SANA_PORT", "tcp://10.0.0.1:8000", "enableServiceLinks: false"),
        ("SANA_RATE_LIMIT", "-1", "an integer of at least 0"),
        ("SANA_MAX_QUEUE_SECONDS", "soon", "a number of at least 0"),
        ("SANA_GRACE_SECONDS", "nan", "a number of at least 0"),
        ("SANA_FILES_MAX_AGE", "inf", "a number of at least 0"),
        ("SANA_DRAIN_SECONDS", "1e400", "a number of at least 0"),
        ("SANA_DTYPE", "int8", "one of auto, float32, bfloat16, float16"),
        ("SANA_LOG_LEVEL", "INFO", "one of debug, info, warning, error, critical"),
        ("SANA_EXACT", "yes", "true, false, 1 or 0"),
        ("SANA_MODEL_ALIASES", "dall-e-3", "NAME=ID, like dall-e-3=demo"),
        ("SANA_CORS_ORIGINS", ",", "at least one value"),
    ],
)
def test_invalid_variable_names_itself_and_what_is_right(variable: str, text: str, right: str) -> None:
    with pytest.raises(VariableError) as caught:
        config({variable: text})
    assert str(caught.value).startswith(f"{variable} must ")
    assert right in str(caught.value)
    assert repr(text) in str(caught.value)


def test_secret_read_from_file(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("sk-one\nsk-two\n")
    assert config({"SANA_API_KEYS_FILE": str(file)}).api_keys == ["sk-one", "sk-two"]
    assert config({"SANA_API_KEYS_FILE": str(file)}, "--api-key", "sk-three").api_keys == ["sk-three"]
    with pytest.raises(VariableError, match="SANA_API_KEYS and SANA_API_KEYS_FILE are both set"):
        config({"SANA_API_KEYS_FILE": str(file), "SANA_API_KEYS": "sk-one"})


def test_secret_file_unusable(tmp_path: Path) -> None:
    """The server would otherwise start without keys, open to everyone."""
    for name, content in (("absent", None), ("empty", b"\n"), ("binary", b"\xff\xfe")):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(VariableError, match=f"SANA_API_KEYS_FILE must name a .*{name}"):
            config({"SANA_API_KEYS_FILE": str(tmp_path / name)})


def test_unknown_variable_names_nearest() -> None:
    environment = {"SANA_PROT": "1", "SANA_API_KEY": "a", "SANA_QUEUE_SECONDS": "3", "SANA_HOST": "a", "PORT": "1"}
    assert FLAGS.unknown(environment) == {
        "SANA_API_KEY": "SANA_API_KEYS",
        "SANA_PROT": "SANA_PORT",
        "SANA_QUEUE_SECONDS": "SANA_MAX_QUEUE_SECONDS",
    }


def test_invalid_variable_is_one_line_and_status_2() -> None:
    ended = run_sana("serve", SANA_PORT="http")
    assert ended.returncode == 2
    assert ended.stderr == "sana: SANA_PORT must be an integer of at least 0, got 'http'\n"


def test_serve_reads_variables_and_logs_unknown(server: LiveServer) -> None:
    """The port is in use, so that the command ends before it starts an engine."""
    port = server.url.rpartition(":")[2]
    ended = run_sana("serve", SANA_PORT=port, SANA_LOG_FORMAT="json", SANA_MAX_QUEUE_SECOND="1")
    assert ended.returncode == 1
    first, last = ended.stderr.splitlines()
    assert last.startswith(f"sana: cannot listen on 127.0.0.1:{port}: ")
    warning = json.loads(first)
    assert (warning["level"], warning["logger"]) == ("warning", "sana.cli")
    assert "SANA_MAX_QUEUE_SECOND," in warning["message"]
    assert warning["message"].endswith("SANA_MAX_QUEUE_SECONDS")
