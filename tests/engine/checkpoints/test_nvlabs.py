"""NVlabs' .pth files against the same transformers in diffusers layout."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline, SanaTransformer2DModel

from benchmarks.psnr import psnr
from engine import CheckpointError, GenerationParams
from engine.checkpoints.loader import load_models, open_checkpoint
from engine.checkpoints.nvlabs import convert_keys, infer_config, read_pth
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
    inferred = infer_config(state, Path("Sana.pth"))
    assert inferred == SanaConfig.from_dict(dict(theirs.config), clamp_attention=name in FP16_TRAINED)
    assert convert_keys(state).keys() == theirs.state_dict().keys()


def test_pth_in_bf16_is_not_clamped() -> None:
    with torch.device("meta"):
        state = SanaTransformer2DModel(**BASE_06B).to(torch.bfloat16).state_dict()
    assert not infer_config(to_nvlabs(state, 32), Path("Sana.pth")).clamp_attention


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
        infer_config(to_nvlabs(state, 32), Path("Sana.pth"))


def test_pth_unknown_and_missing_keys_are_named(beside: Callable[[str], Path]) -> None:
    path = beside("sana-1.0")
    state = torch.load(path, weights_only=True)["state_dict"]
    state["blocks.0.attn.extra.weight"] = torch.zeros(1)
    del state["final_layer.linear.bias"]
    torch.save({"state_dict": state}, path)
    opened = open_checkpoint(str(path), torch.float32)
    with pytest.raises(CheckpointError, match=r"lacks proj_out\.bias and has unknown .*attn\.extra\.weight"):
        load_models(opened, CPU, torch.float32)


class Malicious:
    """An object whose pickle runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('pickled code ran')",)


@pytest.mark.parametrize("content", ["truncated", "text", "code", "no dict", "another model"])
def test_pth_invalid_is_refused_in_one_line(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bad.pth"
    torch.save({"state_dict": {"weight": torch.zeros(1000)}}, path)
    if content == "truncated":
        path.write_bytes(path.read_bytes()[:500])
    elif content == "text":
        path.write_text("not a checkpoint")
    elif content == "code":
        path.write_bytes(pickle.dumps(Malicious()))
    elif content == "no dict":
        torch.save(torch.zeros(3), path)
    with pytest.raises(CheckpointError, match=r"bad\.pth") as caught:
        infer_config(read_pth(path), path)
    assert "\n" not in str(caught.value)
