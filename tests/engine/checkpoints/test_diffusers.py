"""Checkpoints in diffusers layout before their weights are read: parts, configurations, training dtype, solver."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from engine import CheckpointError
from engine.checkpoints.checkpoint import SolverConfig
from engine.checkpoints.diffusers import open_folder
from engine.models.configs import SanaConfig

from ...checkpoints import FAMILIES

PARTS = ("transformer", "scheduler", "text_encoder", "tokenizer", "vae")


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(checkpoint("sana-1.5"), tmp_path / "broken"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_folder_of_every_family_is_recognized(name: str, checkpoint: Callable[[str], Path]) -> None:
    family, opened = FAMILIES[name], open_folder(checkpoint(name), str(checkpoint(name)))
    assert opened.id == name
    assert opened.parts == {part: checkpoint(name) / part for part in PARTS}
    assert opened.solver == SolverConfig(scm=family.sprint, flow_shift=family.flow_shift or 3.0)
    assert opened.transformer.interpolation_scale == family.transformer.get("interpolation_scale")
    assert opened.transformer.qk_norm == family.transformer.get("qk_norm")
    assert opened.transformer.guidance_embeds == family.sprint
    assert opened.transformer.clamp_attention == (name == "sana-1.0-fp16")
    assert opened.trained_dtype == family.trained_dtype
    assert opened.decoder.scaling_factor == 0.41407
    assert opened.decoder.compression == 32


def test_folder_from_the_hub_has_the_hub_id(folder: Path) -> None:
    assert open_folder(folder, "some/model").id == "some/model"


@pytest.mark.parametrize("config", ["transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_folder_config_missing_or_invalid_is_named(config: str, folder: Path) -> None:
    for content in ('{"in_channels": 32', "[]", None):
        (folder / config).unlink()
        if content is not None:
            (folder / config).write_text(content)
        with pytest.raises(CheckpointError, match=config) as caught:
            open_folder(folder, str(folder))
        assert "\n" not in str(caught.value)
        (folder / config).write_text("{}")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "got EulerDiscreteScheduler"),
        ({"solver_order": 3}, "solver_order must be 2, got 3"),
        ({"prediction_type": "epsilon"}, "prediction_type must be 'flow_prediction', got 'epsilon'"),
        ({"use_flow_sigmas": False}, "use_flow_sigmas must be True, got False"),
    ],
)
def test_solver_of_other_kind_is_refused(
    changes: dict[str, object], expected: str, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    folder = Path(shutil.copytree(checkpoint("sana-1.0"), tmp_path / "broken"))
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(CheckpointError, match=expected):
        open_folder(folder, str(folder))


def test_transformer_config_absent_keys_take_defaults(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{}")
    assert open_folder(folder, str(folder)).transformer == SanaConfig()
