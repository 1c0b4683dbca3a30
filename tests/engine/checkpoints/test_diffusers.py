"""Checkpoints in diffusers layout before their weights are read: parts, configurations, training dtype, solver."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler, FlowMatchEulerDiscreteScheduler

from benchmarks.psnr import psnr
from engine import CheckpointError, GenerationParams
from engine.checkpoints.checkpoint import SolverConfig
from engine.checkpoints.diffusers import open_folder, read_solver, read_transformer
from engine.checkpoints.locate import locate_model
from engine.models.configs import SanaConfig

from ...checkpoints import FAMILIES
from ...reference import generate_reference, load_reference, quiet
from ..worker.stepping import Engine

PARTS = ("transformer", "scheduler", "text_encoder", "tokenizer", "vae")


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may break."""
    return Path(shutil.copytree(checkpoint("sana-1.5"), tmp_path / "broken"))


def edit_json(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


@pytest.mark.parametrize("name", FAMILIES)
def test_folder_of_every_family_is_recognized(name: str, checkpoint: Callable[[str], Path]) -> None:
    family, opened = FAMILIES[name], open_folder(checkpoint(name), name)
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
        ({"solver_order": 3}, "solver_order must be 2, got 3"),
        ({"prediction_type": "epsilon"}, "prediction_type must be 'flow_prediction', got 'epsilon'"),
        ({"use_flow_sigmas": False}, "use_flow_sigmas must be True, got False"),
        ({"thresholding": True}, "thresholding must be False, got True"),
        ({"use_karras_sigmas": True}, "use_karras_sigmas must be False, got True"),
        ({"algorithm_type": "deis"}, r"algorithm_type must be 'dpmsolver\+\+', got 'deis'"),
        ({"algorithm_type": "sde-dpmsolver++"}, r"algorithm_type must be 'dpmsolver\+\+'"),
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


@pytest.mark.parametrize(
    "changes",
    [
        {"solver_type": "bh2"},
        {"lower_order_final": False, "euler_at_final": True},
        {"timestep_spacing": "trailing", "steps_offset": 1, "beta_schedule": "scaled_linear", "beta_end": 0.012},
        {"rescale_betas_zero_snr": True, "variance_type": None, "use_dynamic_shifting": True, "new_key": 3},
    ],
)
def test_solver_settings_that_flow_does_not_read_are_accepted(changes: dict[str, object], folder: Path) -> None:
    """The schedules of diffusers with and without them are equal."""
    path = folder / "scheduler" / "scheduler_config.json"
    expected = read_solver(path)
    with quiet():
        before = DPMSolverMultistepScheduler.from_pretrained(path.parent)
        edit_json(path, **changes)
        after = DPMSolverMultistepScheduler.from_pretrained(path.parent)
        for scheduler in (before, after):
            scheduler.set_timesteps(20)
    assert read_solver(path) == expected
    assert torch.equal(before.sigmas, after.sigmas)
    x, v = torch.ones(4), torch.full((4,), 0.5)
    for t in before.timesteps:
        steps = [scheduler.step(v, t, x).prev_sample for scheduler in (before, after)]
        assert torch.equal(*steps)


@pytest.mark.parametrize("missing", ["prediction_type", "use_flow_sigmas"])
def test_solver_absent_setting_has_the_default_of_diffusers(missing: str, folder: Path) -> None:
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({k: v for k, v in json.loads(path.read_text()).items() if k != missing}))
    with pytest.raises(CheckpointError, match=f"{missing} must be .*, which is the default"):
        read_solver(path)


@pytest.mark.parametrize(
    "kind", ["EulerDiscreteScheduler", "UniPCMultistepScheduler", "FlowMatchHeunDiscreteScheduler"]
)
def test_solver_class_of_model_index_decides(kind: str, folder: Path) -> None:
    edit_json(folder / "model_index.json", scheduler=["diffusers", kind])
    with pytest.raises(CheckpointError, match=f"the scheduler must be DPMSolver.*, got {kind}"):
        open_folder(folder, "model")


def test_solver_flow_match_euler_images_match_diffusers(folder: Path) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=7.0)
    scheduler.save_pretrained(folder / "scheduler")
    edit_json(folder / "model_index.json", scheduler=["diffusers", "FlowMatchEulerDiscreteScheduler"])
    params = GenerationParams("a cat", 64, 64, 5, 4.5, seed=3)
    (ours,) = Engine(folder).generate([params])
    assert psnr(ours[0], generate_reference(load_reference(folder, sprint=False), params)[0]) >= 50
    for setting in ("use_dynamic_shifting", "use_karras_sigmas", "invert_sigmas"):
        edit_json(folder / "scheduler" / "scheduler_config.json", **{setting: True})
        with pytest.raises(CheckpointError, match=f"{setting} must be False"):
            open_folder(folder, "model")
        edit_json(folder / "scheduler" / "scheduler_config.json", **{setting: False})


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("SanaVideoPipeline", "generates video"),
        ("SanaImageToVideoPipeline", "generates video"),
        ("SanaWMPipeline", "world model"),
        ("SanaStreamingPipeline", "generates video"),
        ("LTXPipeline", "generates video"),
        ("WanPipeline", "generates video"),
        ("SanaControlNetPipeline", "needs a control image"),
        ("VIBESanaEditingPipeline", "edits images"),
        ("FluxPipeline", "another kind of model"),
        ("StableDiffusionXLPipeline", "another kind of model"),
        (["pipeline", "VIBESanaEditingPipeline"], "edits images"),
    ],
)
def test_pipeline_of_other_kind_is_refused(name: object, reason: str, tmp_path: Path) -> None:
    """By its class name, even where parts have the names of ours or are missing."""
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": name}))
    with pytest.raises(CheckpointError, match=f"Pipeline is not supported: .*{reason}") as caught:
        locate_model(str(tmp_path), ("",))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["SanaPipeline", "SanaPAGPipeline", "SanaSprintImg2ImgPipeline"])
def test_pipeline_of_same_parts_is_accepted(name: str, folder: Path) -> None:
    edit_json(folder / "model_index.json", _class_name=name)
    open_folder(folder, "model")


@pytest.mark.parametrize(
    ("file", "changes", "expected"),
    [
        ("transformer", {"_class_name": "SanaVideoTransformer3DModel"}, "_class_name must be SanaTransformer2DModel"),
        ("transformer", {"ff_bias": [True, True, True]}, "ff_bias must be"),
        ("transformer", {"ff_norm": [None, None, "rms_norm"]}, "ff_norm must be"),
        ("transformer", {"quantization_config": {"load_in_4bit": True}}, "quantization_config must be None"),
        ("transformer", {"num_layers": None}, "num_layers must be a whole number from 1 up, got None"),
        ("transformer", {"num_layers": "2"}, "num_layers must be a whole number from 1 up, got '2'"),
        ("transformer", {"patch_size": 2}, "patch_size must be 1"),
        ("transformer", {"qk_norm": "layer_norm"}, "qk_norm must be"),
        ("vae", {"_class_name": "AutoencoderKL"}, "_class_name must be AutoencoderDC, got AutoencoderKL"),
        ("vae", {"latent_channels": 16}, "latent_channels must be 32 as the transformer's in_channels, got 16"),
    ],
)
def test_config_computed_otherwise_is_refused(
    file: str, changes: dict[str, object], expected: str, folder: Path
) -> None:
    edit_json(folder / file / "config.json", **changes)
    with pytest.raises(CheckpointError, match=expected):
        open_folder(folder, "model")


LEGACY = {
    "without late keys": ({}, ("guidance_embeds", "guidance_embeds_scale", "timestep_scale", "interpolation_scale")),
    "expand_ratio": ({"expand_ratio": 2.5}, ("mlp_ratio",)),
    "use_pe off": ({"use_pe": False}, ("interpolation_scale",)),
    "2024": (
        {
            "expand_ratio": 2.5,
            "use_pe": False,
            "caption_norm_scale_factor": 0.1,
            "ff_bias": [True, True, False],
            "ff_norm": [None, None, None],
        },
        ("mlp_ratio", "interpolation_scale", "guidance_embeds", "timestep_scale"),
    ),
}


@pytest.mark.parametrize("name", LEGACY)
def test_legacy_transformer_config_means_the_same(name: str, folder: Path) -> None:
    added, removed = LEGACY[name]
    expected = open_folder(folder, "model").transformer
    path = folder / "transformer" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps({key: value for key, value in config.items() if key not in removed} | added))
    assert open_folder(folder, "model").transformer == expected


def test_legacy_keys_change_what_is_computed(caplog: pytest.LogCaptureFixture, tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    for config, changed in (
        ({"expand_ratio": 3.0}, SanaConfig(mlp_ratio=3.0)),
        ({"use_pe": True}, SanaConfig(interpolation_scale=1)),
        ({"use_pe": True, "sample_size": 128}, SanaConfig(interpolation_scale=2, sample_size=128)),
        ({"use_pe": True, "sample_size": 64, "_diffusers_version": "0.32.0.dev0"}, None),
        ({"unheard_of": 3, "also_off": None}, SanaConfig()),
    ):
        path.write_text(json.dumps(config))
        expected = changed or SanaConfig(interpolation_scale=1, sample_size=64)
        assert read_transformer(path, clamp_attention=False) == expected
    assert [record.getMessage() for record in caplog.records] == [f"{path}: ignoring unknown settings: unheard_of"]
