"""What the readers of all layouts share."""

from pathlib import Path

import pytest

from engine import CheckpointError
from engine.checkpoints.checkpoint import read_json, trained_in_bf16
from engine.models.configs import SanaConfig


def test_read_json_returns_the_object(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text('{"in_channels": 32}')
    assert read_json(path) == {"in_channels": 32}


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "cannot be read: No such file"),
        ('{"in_channels": 32', "is not JSON"),
        ("[]", "must hold a JSON object, got list"),
    ],
)
def test_read_json_problem_is_named_with_the_file(content: str | None, problem: str, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(CheckpointError, match=f"config.json {problem}"):
        read_json(path)


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (SanaConfig(), False),
        (SanaConfig(interpolation_scale=1.0), True),
        (SanaConfig(qk_norm="rms_norm_across_heads"), True),
        (SanaConfig(guidance_embeds=True), True),
    ],
)
def test_bf16_training_is_known_from_the_config(config: SanaConfig, expected: bool) -> None:
    assert trained_in_bf16(config) is expected
