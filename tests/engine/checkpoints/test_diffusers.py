"""What is read of a checkpoint before its weights: parts, configurations, training dtype, solver."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from engine import CheckpointError, DeviceError
from engine.checkpoints.diffusers import SolverConfig, open_checkpoint
from engine.checkpoints.loader import choose_device, choose_dtype
from engine.models.configs import SanaConfig

from ...checkpoints import FAMILIES

PARTS = ("transformer", "scheduler", "text_encoder", "tokenizer", "vae")
CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(checkpoint("sana-1.5"), tmp_path / "broken"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_is_known_by_its_configs(name: str, checkpoint: Callable[[str], Path]) -> None:
    family, opened = FAMILIES[name], open_checkpoint(str(checkpoint(name)), torch.float32)
    assert opened.id == name
    assert opened.solver == SolverConfig(scm=family.sprint, flow_shift=family.flow_shift or 3.0)
    assert opened.transformer.interpolation_scale == family.transformer.get("interpolation_scale")
    assert opened.transformer.qk_norm == family.transformer.get("qk_norm")
    assert opened.transformer.guidance_embeds == family.sprint
    assert opened.transformer.clamp_attention == (name == "sana-1.0-fp16")
    assert opened.trained_dtype == family.trained_dtype
    assert opened.decoder.scaling_factor == 0.41407
    assert opened.decoder.compression == 32


@pytest.mark.parametrize("part", PARTS)
def test_a_missing_subfolder_is_named(part: str, folder: Path) -> None:
    shutil.rmtree(folder / part)
    with pytest.raises(CheckpointError, match=f"lacks {part}/"):
        open_checkpoint(str(folder), None)


@pytest.mark.parametrize("config", ["transformer/config.json", "vae/config.json", "scheduler/scheduler_config.json"])
def test_a_config_that_is_missing_or_no_json_is_named(config: str, folder: Path) -> None:
    for content in ('{"in_channels": 32', "[]", None):
        (folder / config).unlink()
        if content is not None:
            (folder / config).write_text(content)
        with pytest.raises(CheckpointError, match=config) as caught:
            open_checkpoint(str(folder), None)
        assert "\n" not in str(caught.value)
        (folder / config).write_text("{}")


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"_class_name": "EulerDiscreteScheduler"}, "EulerDiscreteScheduler"),
        ({"solver_order": 3}, "solver_order is 3"),
        ({"prediction_type": "epsilon"}, "prediction_type is 'epsilon'"),
        ({"use_flow_sigmas": False}, "use_flow_sigmas is False"),
    ],
)
def test_a_solver_that_is_not_sanas_is_refused(
    changes: dict[str, object], named: str, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    folder = Path(shutil.copytree(checkpoint("sana-1.0"), tmp_path / "broken"))
    edit_json(folder / "scheduler" / "scheduler_config.json", **changes)
    with pytest.raises(CheckpointError, match=named):
        open_checkpoint(str(folder), None)


def test_a_folder_that_does_not_exist() -> None:
    for model in ("/nowhere/at/all", "./nowhere", "nowhere"):
        with pytest.raises(CheckpointError, match="no model"):
            open_checkpoint(model, None)
    with pytest.raises(CheckpointError, match=r"file\.pth does not exist"):
        open_checkpoint("no/such/file.pth", None)


def test_dtype_follows_the_device_and_the_training() -> None:
    for trained in (torch.float16, torch.bfloat16, None):
        assert choose_dtype("auto", CPU, trained) == torch.float32
        assert choose_dtype("auto", GPU, trained) == (trained or torch.bfloat16)
        assert choose_dtype("float32", GPU, trained) == torch.float32
        assert choose_dtype("bfloat16", GPU, trained) == torch.bfloat16
    assert choose_dtype("float16", GPU, torch.float16) == torch.float16
    with pytest.raises(CheckpointError, match="trained in bfloat16 and overflows in float16"):
        choose_dtype("float16", GPU, torch.bfloat16)
    with pytest.raises(DeviceError, match="float8"):
        choose_dtype("float8", CPU, None)


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == CPU
    for name in ("tpu", "cuda:x", "cuda:", f"cuda:{torch.cuda.device_count()}"):
        with pytest.raises(DeviceError, match="there is no"):
            choose_device(name)


def test_absent_keys_of_a_config_take_the_defaults_of_diffusers(folder: Path) -> None:
    (folder / "transformer" / "config.json").write_text("{}")
    assert open_checkpoint(str(folder), None).transformer == SanaConfig()
