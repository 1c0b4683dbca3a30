"""Settings from the environment: each flag of `sana serve` is also read from a variable, --port from SANA_PORT.

A flag on the command line overrides its variable, and the variable overrides the default. An empty variable counts as
unset. A flag that may be repeated has a plural variable, which holds all its values.
"""

import argparse
import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from engine import SanaError

PREFIX = "SANA_"
SECRETS = ("SANA_API_KEYS", "SANA_DATABASE", "SANA_WEBHOOK_SECRET")
"""Variables that may instead be read from a file, named by SANA_..._FILE: Docker and Kubernetes mount secrets so."""
BOOLEANS = {"true": True, "1": True, "false": False, "0": False}
KUBERNETES_HINT = "; Kubernetes sets it for a Service named sana unless the pod has enableServiceLinks: false"
RULES = (
    "Each flag is also read from the environment variable in brackets; the flag overrides it, and an empty variable "
    "counts as unset. Booleans are true, false, 1 or 0; several values are separated by commas or blanks."
)


class VariableError(SanaError):
    """A variable of the environment holds a value that its flag does not take."""


class Repeated(argparse.Action):
    """A flag that may be repeated; its values are collected in a list."""

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option: str | None = None
    ) -> None:
        setattr(namespace, self.dest, [*getattr(namespace, self.dest, []), values])


class VariableParser(argparse.ArgumentParser):
    """Flags that are also environment variables: a command takes them as one of its `parents`.

    A flag that is not given sets nothing, so that the default stays where it is written, in the config.
    """

    def __init__(self) -> None:
        self.variables: dict[str, argparse.Action] = {}
        super().__init__(add_help=False, exit_on_error=False, argument_default=argparse.SUPPRESS)

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        action = super().add_argument(*names, **options)
        name = action.dest if isinstance(action, Repeated) else names[0].removeprefix("--").replace("-", "_")
        variable = PREFIX + name.upper()
        self.variables[variable] = action
        shown = f"{variable} or {variable}_FILE" if variable in SECRETS else variable
        action.help = f"{action.help} [{shown}]"
        return action

    def read(self, environment: Mapping[str, str]) -> dict[str, Any]:
        """Settings of the variables that are set, by field of the config. Raises VariableError."""
        settings: dict[str, Any] = {}
        for variable, action in self.variables.items():
            text = environment.get(variable, "")
            if variable in SECRETS:
                text = read_secret(variable, text, environment.get(f"{variable}_FILE", ""))
            if text.strip():
                settings |= vars(self._parse(variable, action, text))
        return settings

    def unknown(self, environment: Mapping[str, str]) -> dict[str, str]:
        """Variables with our prefix that no flag reads, each with the nearest one that exists."""
        known = [*self.variables, *(f"{variable}_FILE" for variable in SECRETS)]
        strangers = sorted(name for name in environment if name.startswith(PREFIX) and name not in known)
        return {name: difflib.get_close_matches(name, known, 1, cutoff=0)[0] for name in strangers}

    def _parse(self, variable: str, action: argparse.Action, text: str) -> argparse.Namespace:
        """The namespace that the flag would leave: its own types and messages apply."""
        flag = action.option_strings[0]
        if isinstance(action, argparse.BooleanOptionalAction):
            value = BOOLEANS.get(text.strip().lower())
            if value is None:
                raise VariableError(f"{variable} must be true, false, 1 or 0, got {text!r}")
            return argparse.Namespace(**{action.dest: value})
        if action.choices is not None and text not in action.choices:
            raise VariableError(f"{variable} must be one of {', '.join(action.choices)}, got {text!r}")
        values = [text]
        if isinstance(action, Repeated):
            values = [value for value in re.split(r"[,\s]+", text) if value]
            if not values:
                raise VariableError(f"{variable} must hold at least one value, got {text!r}")
        try:
            return self.parse_args([f"{flag}={value}" for value in values])
        except argparse.ArgumentError as error:
            hint = KUBERNETES_HINT if text.startswith("tcp://") else ""
            raise VariableError(f"{variable} {error.message}{hint}") from None


def read_secret(variable: str, text: str, file: str) -> str:
    """The secret, from its variable or from the file that SANA_..._FILE names. Raises VariableError."""
    if not file:
        return text
    if text:
        raise VariableError(f"{variable} and {variable}_FILE are both set; unset one")
    try:
        content = Path(file).read_text().rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise VariableError(f"{variable}_FILE must name a readable text file, got {file!r}: {error}") from None
    if not content.strip():
        raise VariableError(f"{variable}_FILE must name a file that holds a value, but {file!r} is empty")
    return content
