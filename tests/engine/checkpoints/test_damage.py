"""Files that are not what their name says, each named in one line."""

import gzip
import io
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from engine import CheckpointError
from engine.checkpoints.damage import describe_damage
from engine.checkpoints.single_file import read_single_file
from engine.checkpoints.weights import variant_files

STATE = {"x_embedder.proj.weight": torch.zeros(1000)}
SAFETENSORS = save(STATE)
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0123\nsize 4\n"


def pth(content: object = STATE, protocol: int = 2) -> bytes:
    out = io.BytesIO()
    torch.save(content, out, pickle_protocol=protocol)
    return out.getvalue()


def zipped(**files: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return out.getvalue()


class Malicious:
    """An object whose pickle runs code."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, ("raise SystemExit('pickled code ran')",)


BOTH = {
    "empty": (b"", r"is empty \(0 bytes\)"),
    "pointer": (LFS, "is a Git LFS pointer, not the file itself: run `git lfs pull`"),
    "page": (b"\n<!DOCTYPE html><html><body>404</body></html>", "is a web page"),
    "page in capitals": (b"<HTML><BODY>Sign in</BODY></HTML>", "is a web page"),
    "XML of a bucket": (b"<?xml version='1.0'?><Error><Code>AccessDenied</Code></Error>", "is a web page"),
    "JSON error": (b'{"error": "Repository not found"}', "is a JSON text"),
    "gzip": (gzip.compress(SAFETENSORS), "is compressed with gzip"),
    "other zip": (zipped(readme="hello"), r"is a zip archive of other files \(readme\)"),
    "truncated zip": (pth()[:600], "is truncated: the end of its zip"),
    "TorchScript": (pth() and zipped(**{"m/data.pkl": "", "m/code/m.py": ""}), "is a TorchScript program"),
}
SAFETENSORS_ONLY = {
    "truncated": (
        SAFETENSORS[:-100],
        rf"is truncated: it has {len(SAFETENSORS) - 100} bytes instead of",
    ),
    "truncated header": (SAFETENSORS[:30], "is truncated: it ends within its header"),
    "too long": (SAFETENSORS + b"x", "is damaged: it has"),
    "pth": (pth(), r"is a PyTorch pickle, not a safetensors file: if you trust it, rename it to \.pth"),
    "pickle": (pickle.dumps(Malicious()), "is a Python pickle, not a safetensors file"),
    "text": (b"hello, this is not a file of weights", "is not a safetensors file"),
}
PTH_ONLY = {
    "safetensors": (SAFETENSORS, r"is a safetensors file: rename it to \.safetensors"),
    "code": (pickle.dumps(Malicious(), protocol=2), "holds an object of exec, which could run code"),
    "code in zip": (pth({"state_dict": STATE, "hook": Malicious()}), "holds an object of exec, which could run"),
    "protocol 4": (pth(protocol=4), "uses pickle protocol 4 or later, which cannot be read safely"),
    "text": (b"hello, this is not a file of weights", "is not a readable .pth"),
    "no dict": (pth(torch.zeros(3)), "must hold a state dict, got Tensor"),
    "no tensors": (pth({"epoch": 3}), "is not a SANA transformer: it holds no tensors"),
}  # fmt: skip


def one_line(error: pytest.ExceptionInfo[CheckpointError], path: Path) -> bool:
    text = str(error.value)
    return text.startswith(str(path)) and "\n" not in text and "\x1b" not in text


@pytest.mark.parametrize("name", [*BOTH, *SAFETENSORS_ONLY])
def test_safetensors_damage_is_named(name: str, tmp_path: Path) -> None:
    content, expected = (BOTH | SAFETENSORS_ONLY)[name]
    for path, read in (
        (tmp_path / "model.safetensors", read_single_file),
        (tmp_path / "vae" / "model.safetensors", lambda path: variant_files(path.parent, "")),
    ):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=expected) as caught:
            read(path)
        assert one_line(caught, path)


@pytest.mark.parametrize("name", [*BOTH, *PTH_ONLY])
def test_pth_damage_is_named(name: str, tmp_path: Path) -> None:
    content, expected = (BOTH | PTH_ONLY)[name]
    path = tmp_path / "bad.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=expected) as caught:
        read_single_file(path)
    assert one_line(caught, path)


def test_damage_of_whole_files_is_none(tmp_path: Path) -> None:
    for name, content in {"a.safetensors": SAFETENSORS, "a.pth": pth(), "a.json": b"{}"}.items():
        (tmp_path / name).write_bytes(content)
        assert describe_damage(tmp_path / name) is None
    assert describe_damage(tmp_path / "gone.pth") == f"{tmp_path}/gone.pth does not exist"
    (tmp_path / "dir.pth").mkdir()
    assert describe_damage(tmp_path / "dir.pth") == f"{tmp_path}/dir.pth is a folder, not a file"


FOREIGN: dict[str, tuple[list[str], str]] = {
    "LoRA": (["transformer.transformer_blocks.0.attn1.to_q.lora_A.weight"], "a LoRA adapter"),
    "ControlNet": (["controlnet_blocks.0.weight", "input_block.weight"], "a ControlNet"),
    "FLUX": (["double_blocks.0.img_attn.qkv.weight"], "a FLUX transformer"),
    "FLUX in diffusers": (["single_transformer_blocks.0.attn.to_q.weight"], "a FLUX transformer"),
    "SD 3": (["model.diffusion_model.joint_blocks.0.x_block.attn.qkv.weight"], "a Stable Diffusion 3 transformer"),
    "SDXL": (["model.diffusion_model.input_blocks.0.0.weight"], "a Stable Diffusion UNet"),
    "PixArt": (["adaln_single.linear.weight", "pos_embed.proj.weight"], "a PixArt transformer"),
    "DC-AE": (["decoder.stages.0.op_list.0.main.conv1.conv.weight"], "an autoencoder"),
    "Gemma": (["model.layers.0.self_attn.q_proj.weight"], "a language model"),
    "T5": (["encoder.block.0.layer.0.SelfAttention.q.weight"], "a text encoder"),
    "optimizer": (["exp_avg"], "an optimizer's state"),
    "another": (["classifier.weight"], "it holds 1 tensor such as classifier.weight"),
}


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("name", FOREIGN)
def test_file_of_other_network_is_named(name: str, suffix: str, tmp_path: Path) -> None:
    keys, expected = FOREIGN[name]
    state = {key: torch.zeros(2) for key in keys}
    path = tmp_path / f"model{suffix}"
    path.write_bytes(pth(state) if suffix == ".pth" else save(state))
    with pytest.raises(CheckpointError, match=f"is not a SANA transformer.*{expected}") as caught:
        read_single_file(path)
    assert one_line(caught, path)


def test_config_pointer_is_named(tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    from engine.checkpoints.checkpoint import read_json

    path = tmp_path / "config.json"
    for content, expected in ((LFS, "Git LFS pointer"), (b"<html>", "is a web page"), (b"", "is empty")):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=expected) as caught:
            read_json(path)
        assert one_line(caught, path)
