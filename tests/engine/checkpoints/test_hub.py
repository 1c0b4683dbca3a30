"""Values of `--model`, without a network."""

from pathlib import Path

import pytest

from engine.checkpoints.hub import PARTS, choose_files, find_part_beside, resolve_model
from engine.errors import CheckpointError


def make_folder(folder: Path) -> Path:
    """Empty subfolders for all parts."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    return folder


def test_model_folder_and_pth_are_used_in_place(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    assert resolve_model(str(folder), ("",)) == folder
    pth = tmp_path / "model.pth"
    pth.touch()
    assert resolve_model(str(pth), ("",)) == pth


@pytest.mark.parametrize("part", PARTS)
def test_model_folder_missing_part_is_named(part: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / part).rmdir()
    with pytest.raises(CheckpointError, match=f"lacks {part}/"):
        resolve_model(str(folder), ("",))


@pytest.mark.parametrize("model", ["", "no-such-model", "/no/such/folder", "./none", "a/b/c", "gone.pth"])
def test_model_not_found_is_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError):
        resolve_model(model, ("",))


def test_hub_unreachable_and_not_cached_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="nobody/nothing is not in the local cache and the hub cannot be reached"):
        resolve_model("nobody/nothing", ("",))


def test_download_one_variant_and_transformer_fp16() -> None:
    weights = "transformer/diffusion_pytorch_model"
    files = [
        "model_index.json",
        "README.md",
        "transformer/config.json",
        f"{weights}-00001-of-00002.safetensors",
        f"{weights}-00002-of-00002.safetensors",
        f"{weights}.safetensors.index.json",
        f"{weights}.fp16.safetensors",
        "text_encoder/config.json",
        "text_encoder/model.safetensors",
        "text_encoder/model.bf16-00001-of-00002.safetensors",
        "text_encoder/model.bf16-00002-of-00002.safetensors",
        "text_encoder/model.safetensors.index.bf16.json",
        "tokenizer/tokenizer.json",
        "tokenizer/tokenizer.model",
        "other/big.safetensors",
    ]
    parts = ("transformer", "text_encoder", "tokenizer")
    chosen = choose_files(files, parts, ("", "bf16", "fp16"))
    assert {name for name in chosen if name.startswith("transformer")} == set(files[2:7])
    assert {name for name in chosen if name.startswith("text_encoder")} == set(files[7:9])
    chosen = choose_files(files, parts, ("bf16", "", "fp16"))
    assert {name for name in chosen if name.startswith("text_encoder")} == {files[7], *files[9:12]}
    assert {"tokenizer/tokenizer.json", "tokenizer/tokenizer.model", "model_index.json"} <= set(chosen)
    assert not {"README.md", "other/big.safetensors"} & set(chosen)


def test_pth_parts_are_found_beside_or_one_folder_up(tmp_path: Path) -> None:
    pth = tmp_path / "checkpoints" / "model.pth"
    (tmp_path / "checkpoints" / "vae").mkdir(parents=True)
    (tmp_path / "tokenizer").mkdir()
    assert find_part_beside(pth, "vae") == tmp_path / "checkpoints" / "vae"
    assert find_part_beside(pth, "tokenizer") == tmp_path / "tokenizer"
    assert find_part_beside(pth, "text_encoder") is None
