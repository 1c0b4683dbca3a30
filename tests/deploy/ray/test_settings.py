"""Arguments of the Ray application: the variables of `sana serve`, without those that mean nothing under Ray."""

import pytest

from deploy.ray.settings import read_settings
from engine import SanaError


def test_settings_take_values_of_yaml() -> None:
    config = read_settings(
        {
            "SANA_FILES": "/shared",
            "SANA_RATE_LIMIT": 60,
            "SANA_STRICT_PARAMS": True,
            "SANA_MODEL_ALIASES": ["dall-e-3=demo"],
            "SANA_MAX_QUEUE_SECONDS": 7.5,
        }
    )
    assert (config.files, config.rate_limit, config.strict_params) == ("/shared", 60, True)
    assert config.model_aliases["dall-e-3"].model == "demo"
    assert config.engine.max_queue_seconds == 7.5


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("SANA_PORT", 9000, "set http_options.port instead"),
        ("SANA_API_KEYS", "secret", "set SANA_API_KEYS_FILE"),
        ("SANA_DATABASE", "postgresql://host/name", "under Ray use deploy/ray/generate.py"),
        ("SANA_DEVICES", "cuda:0,cuda:1", "set num_replicas of the deployment engine"),
        ("SANA_MODLE", "demo", "the nearest is SANA_MODEL"),
        ("MODEL", "demo", "it must begin with SANA_"),
        ("SANA_RATE_LIMIT", -1, "must be an integer of at least 0, got '-1'"),
        ("SANA_FILES", "", "must name a folder or bucket that every ingress replica reads"),
    ],
)
def test_settings_wrong_argument_says_what_is_right(name: str, value: object, words: str) -> None:
    with pytest.raises(SanaError) as caught:
        read_settings({"SANA_FILES": "/shared", name: value})
    assert words in str(caught.value)
