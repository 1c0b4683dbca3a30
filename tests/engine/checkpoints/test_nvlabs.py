"""NVlabs' .pth files against the same transformers in diffusers layout."""

import argparse
import random
import re
import shutil
from collections.abc import Callable
from math import isqrt
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline, SanaTransformer2DModel
from safetensors.torch import save_file

from benchmarks.psnr import psnr
from engine import CheckpointError, GenerationParams
from engine.checkpoints.loader import load_models, open_checkpoint
from engine.checkpoints.nvlabs import convert_keys, infer_config
from engine.checkpoints.single_file import SingleFile, read_single_file, require_known_size
from engine.models.configs import SanaConfig

from ...checkpoints import FAMILIES, TRANSFORMER
from ...nvlabs import to_nvlabs, write_pth
from ...reference import generate_reference
from ..worker.stepping import Engine

CPU = torch.device("cpu")
QK_NORM = dict(qk_norm="rms_norm_across_heads")
BASE_06B = dict(
    num_attention_heads=36,
    num_layers=28,
    num_cross_attention_heads=16,
    cross_attention_head_dim=72,
    cross_attention_dim=1152,
)
RELEASED = {
    "0.6B-1024": BASE_06B,
    "1.6B-512": dict(sample_size=16),
    "1.6B-2K": dict(sample_size=64, interpolation_scale=1.0),
    "1.6B-4K": dict(sample_size=128, interpolation_scale=2.0),
    "1.5-4.8B": QK_NORM | dict(num_layers=60),
    "sprint-0.6B": BASE_06B | QK_NORM | dict(guidance_embeds=True),
    "sprint-1.6B": QK_NORM | dict(guidance_embeds=True),
}
FP16_TRAINED = ("0.6B-1024", "1.6B-512")


@pytest.fixture
def beside(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Callable[[str], Path]:
    """A family's .pth, with the other parts and the transformer's config.json in folders beside it."""

    def write(name: str) -> Path:
        source = checkpoint(name)
        for part in ("scheduler", "text_encoder", "tokenizer", "vae"):
            (tmp_path / part).symlink_to(source / part)
        (tmp_path / "transformer").mkdir()
        shutil.copy(source / "transformer" / "config.json", tmp_path / "transformer")
        model = SanaTransformer2DModel.from_pretrained(source / "transformer")
        return write_pth(model.state_dict(), model.config.sample_size, tmp_path / "Sana.pth")

    return write


@pytest.fixture(scope="module")
def nvlabs_state(checkpoint: Callable[[str], Path]) -> dict[str, torch.Tensor]:
    """A state dict with NVlabs' keys."""
    model = SanaTransformer2DModel.from_pretrained(checkpoint("sana-sprint") / "transformer")
    return to_nvlabs(model.state_dict(), model.config.sample_size)


@pytest.mark.parametrize("name", FAMILIES)
def test_pth_loads_the_same_tensors_as_diffusers(
    name: str, beside: Callable[[str], Path], checkpoint: Callable[[str], Path]
) -> None:
    folder = open_checkpoint(str(checkpoint(name)), torch.float32)
    pth = open_checkpoint(str(beside(name)), torch.float32)
    expected = load_models(folder, CPU, torch.float32).transformer.state_dict()
    loaded = load_models(pth, CPU, torch.float32).transformer.state_dict()
    assert loaded.keys() == expected.keys()
    assert all(torch.equal(loaded[key], expected[key]) for key in expected)
    assert pth.solver == folder.solver


def test_pth_image_equals_diffusers(
    beside: Callable[[str], Path], reference: Callable[[str], SanaPipeline | SanaSprintPipeline]
) -> None:
    params = GenerationParams("a cat", 96, 64, 4, 4.5, seed=3)
    (ours,) = Engine(beside("sana-1.5")).generate([params])
    assert psnr(ours[0], generate_reference(reference("sana-1.5"), params)[0]) >= 55


@pytest.mark.parametrize("name", RELEASED)
def test_pth_config_of_released_models_is_inferred(name: str) -> None:
    with torch.device("meta"):
        theirs = SanaTransformer2DModel(**RELEASED[name])
    state = to_nvlabs(theirs.state_dict(), theirs.config.sample_size)
    assert convert_keys(state).keys() == theirs.state_dict().keys()
    inferred = infer_config(convert_keys(state), isqrt(state["pos_embed"].shape[1]), Path("Sana.pth"))
    assert inferred == SanaConfig.from_dict(dict(theirs.config), clamp_attention=name in FP16_TRAINED)


def test_pth_in_bf16_is_not_clamped() -> None:
    with torch.device("meta"):
        state = SanaTransformer2DModel(**BASE_06B).to(torch.bfloat16).state_dict()
    assert not infer_config(convert_keys(to_nvlabs(state, 32)), 32, Path("Sana.pth")).clamp_attention


@pytest.mark.parametrize(
    ("name", "stored", "trained"),
    [
        ("sana-1.0-fp16", torch.float16, torch.float16),
        ("sana-1.0-fp16", torch.float32, None),  # looks like the bf16-trained 1.0: bf16 with the clamp
        ("sana-1.0", torch.bfloat16, torch.bfloat16),
        ("sana-2k", torch.float32, torch.bfloat16),  # must not run in fp16
        ("sana-1.5", torch.float32, torch.bfloat16),
    ],
)
def test_pth_training_dtype(
    name: str, stored: torch.dtype, trained: torch.dtype | None, beside: Callable[[str], Path]
) -> None:
    path = beside(name)
    state = torch.load(path, weights_only=True)["state_dict"]
    torch.save({"state_dict": {key: tensor.to(stored) for key, tensor in state.items()}}, path)
    opened = open_checkpoint(str(path), None)
    assert opened.trained_dtype == trained
    assert opened.transformer.clamp_attention == (name == "sana-1.0-fp16")


def test_pth_unknown_width_needs_config() -> None:
    with torch.device("meta"):
        state = SanaTransformer2DModel(**TRANSFORMER).state_dict()
    with pytest.raises(CheckpointError, match=r"must be 1152 or 2240 .*, got 64; .*transformer/config\.json beside"):
        infer_config(convert_keys(to_nvlabs(state, 32)), 32, Path("Sana.pth"))


def test_pth_unknown_and_missing_keys_are_named(beside: Callable[[str], Path]) -> None:
    path = beside("sana-1.0")
    state = torch.load(path, weights_only=True)["state_dict"]
    state["blocks.0.attn.extra.weight"] = torch.zeros(1)
    del state["final_layer.linear.bias"]
    torch.save({"state_dict": state}, path)
    opened = open_checkpoint(str(path), torch.float32)
    with pytest.raises(CheckpointError, match=r"lacks proj_out\.bias and has unknown .*attn\.extra\.weight"):
        load_models(opened, CPU, torch.float32)


def training_file(state: dict[str, torch.Tensor]) -> dict[str, object]:
    """What NVlabs' training writes beside the weights, and more that others do."""
    generator = random.Random(3)
    return {
        "state_dict": {key: torch.zeros_like(tensor) for key, tensor in state.items()},
        "state_dict_ema": state,
        "optimizer": {"state": {0: {"exp_avg": torch.zeros(4)}}, "param_groups": [{"lr": 1e-4, "params": [0]}]},
        "scheduler": {"last_epoch": 7, "_last_lr": [np.float64(0.1)]},
        "epoch": np.int64(3),
        "loss": np.float32(0.5),
        "history": np.zeros(3),
        "args": argparse.Namespace(lr=1e-4),
        "rng_state": {
            "torch": torch.get_rng_state(),
            "torch_cuda": [],
            "numpy": np.random.RandomState(3).get_state(),
            "python": generator.getstate(),
            "generator": None,
        },
    }


def prefixed(prefix: str, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {prefix + key: tensor for key, tensor in state.items()}


def wrapped_inside(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Each block compiled and checkpointed on its own, within FSDP."""
    inner = "_fsdp_wrapped_module._checkpoint_wrapped_module._orig_mod."
    return {re.sub(r"^(blocks\.\d+\.)", rf"\1{inner}", key): tensor for key, tensor in state.items()}


LAYOUTS: dict[str, Callable[[dict[str, torch.Tensor]], object]] = {
    "training": training_file,
    "no EMA yet": lambda state: {"state_dict": state, "state_dict_ema": None, "epoch": 1},
    "empty EMA": lambda state: {"state_dict": state, "state_dict_ema": {}},
    "EMA of others": lambda state: {"model": {"x": torch.zeros(1)}, "ema": state},
    "bare": lambda state: state,
    "model_state_dict": lambda state: {"model_state_dict": state, "global_step": 5},
    "module.": lambda state: {"state_dict": prefixed("module.", state)},
    "model.": lambda state: prefixed("model.", state),
    "_orig_mod.": lambda state: prefixed("_orig_mod.", state),
    "base_model.": lambda state: prefixed("base_model.", state),
    "stacked": lambda state: {"state_dict": prefixed("module._orig_mod.base_model.model.", state)},
    "ComfyUI": lambda state: prefixed("model.diffusion_model.", state),
    "wrapped inside": wrapped_inside,
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_pth_of_any_writer_loads_the_same_tensors(
    layout: str, tmp_path: Path, nvlabs_state: dict[str, torch.Tensor], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "epoch_3_step_7.pth"
    torch.save(LAYOUTS[layout](nvlabs_state), path)
    weights, expected = read_single_file(path).weights, convert_keys(nvlabs_state)
    assert weights.keys() == expected.keys()
    assert all(torch.equal(weights[key], expected[key]) for key in expected)
    if layout == "training":
        assert "using state_dict_ema of state_dict, state_dict_ema, optimizer" in caplog.text


@pytest.mark.parametrize("options", [{"pickle_protocol": 3}, {"_use_new_zipfile_serialization": False}])
def test_pth_of_other_format_loads(
    options: dict[str, object], tmp_path: Path, nvlabs_state: dict[str, torch.Tensor]
) -> None:
    torch.save({"state_dict": nvlabs_state}, tmp_path / "a.pth", **options)
    weights, expected = read_single_file(tmp_path / "a.pth").weights, convert_keys(nvlabs_state)
    assert all(torch.equal(weights[key], expected[key]) for key in expected)


@pytest.mark.parametrize("name", ["sana-1.0", "sana-1.5", "sana-sprint"])
def test_single_file_images_equal_folder(
    name: str, beside: Callable[[str], Path], checkpoint: Callable[[str], Path], tmp_path: Path
) -> None:
    """The same bytes from NVlabs' keys as safetensors, as FSDP writes them, and from diffusers' keys."""
    pth = beside(name)
    state = torch.load(pth, weights_only=True)["state_dict"]
    pth.unlink()
    save_file({key: tensor.contiguous() for key, tensor in state.items()}, tmp_path / "nvlabs.safetensors")
    fsdp = tmp_path / "run" / "model"
    fsdp.mkdir(parents=True)
    torch.save(prefixed("module.", state), fsdp / "pytorch_model_fsdp.bin")
    shutil.copy(
        checkpoint(name) / "transformer" / "diffusion_pytorch_model.safetensors", tmp_path / "plain.safetensors"
    )
    params = GenerationParams("a cat", 64, 64, 2, 4.5, seed=3)

    def generate(model: Path) -> bytes:
        return Engine(model).generate([params])[0].tobytes()

    expected = generate(checkpoint(name))
    for model in ("nvlabs.safetensors", "run", "plain.safetensors"):
        assert generate(tmp_path / model) == expected, model


def test_single_file_in_diffusers_layout_needs_config_where_ambiguous() -> None:
    with torch.device("meta"):
        old, new = (SanaTransformer2DModel(**(dict(num_layers=1) | extra)).state_dict() for extra in ({}, QK_NORM))
    for state, known in ((old, False), (new, True)):
        config = infer_config(state, None, Path("a.safetensors"))
        file = SingleFile(state, None, nvlabs=False)
        if known:
            require_known_size(file, config, Path("a.safetensors"))
        else:
            with pytest.raises(CheckpointError, match="whether it is a model for 2048 px and 4096 px: put the model's"):
                require_known_size(file, config, Path("a.safetensors"))
