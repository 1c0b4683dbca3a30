"""Settings of the Ray application: the variables of `sana serve`, given as arguments in the YAML file."""

import argparse
from collections.abc import Mapping

from engine import SanaError
from server.cli import server_config
from server.environment import SECRETS, VariableError
from server.flags import serve_flags
from server.settings import ServerConfig

OF_RAY = {
    "SANA_HOST": "http_options.host",
    "SANA_PORT": "http_options.port",
    "SANA_KEEP_ALIVE_SECONDS": "http_options.keep_alive_timeout_s",
    "SANA_GRACE_SECONDS": "graceful_shutdown_timeout_s of the deployments",
    "SANA_DRAIN_SECONDS": "graceful_shutdown_wait_loop_s of the deployments",
}
"""Variables whose place another setting of the YAML file takes."""
BATCHES = ("SANA_DATA", "SANA_DATABASE", "SANA_DATABASE_FILE", "SANA_WEBHOOK_URL")


def read_settings(args: Mapping[str, object]) -> ServerConfig:
    """The settings. Raises SanaError for a variable that is unknown, has a wrong value, or has no meaning under Ray.

    Args:
        args: values by variable, such as {"SANA_MODEL": "demo"}.
    """
    variables = {name: text_of(value) for name, value in args.items()}
    known = serve_flags()
    for name in variables:
        if name in OF_RAY:
            raise VariableError(f"{name} has no effect under Ray Serve; set {OF_RAY[name]} instead")
        if name in BATCHES:
            raise VariableError(f"{name} is for batches, which `sana serve` runs; under Ray use deploy/ray/generate.py")
        if name in SECRETS:
            raise VariableError(f"{name} must not be an argument, which Ray logs; set {name}_FILE")
    stray = {name: "it must begin with SANA_" for name in variables if not name.startswith("SANA_")}
    stray |= {name: f"the nearest is {nearest}" for name, nearest in known.unknown(variables).items()}
    for name, hint in stray.items():
        raise VariableError(f"no setting has the variable {name}; {hint}")
    config = server_config(argparse.Namespace(), variables)
    if config.files is None:
        raise SanaError("SANA_FILES must name a folder or bucket that every ingress replica reads: images behind URLs")
    if len(config.engine.devices) > 1:
        wanted = "each engine replica has one device, so set num_replicas of the deployment engine"
        raise VariableError(f"SANA_DEVICES must be one device, got {config.engine.device!r}; {wanted}")
    return config


def text_of(value: object) -> str:
    """The value as its variable holds it; YAML has numbers, booleans and lists too."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, list) else str(value)
