"""Weights into models: variants, shards, dtypes, and every way in which a file can be wrong."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Gemma2Model

from engine import CheckpointError, DeviceError
from engine.checkpoints.diffusers import open_checkpoint
from engine.checkpoints.loader import Models, load_models, require_compiler
from engine.checkpoints.weights import find_weights, variant_files

from ...checkpoints import FAMILIES, build_pipeline, write_checkpoint
from ...reference import quiet

CPU = torch.device("cpu")
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WEIGHTS = [TRANSFORMER, VAE, TEXT]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Models:
    return load_models(open_checkpoint(str(folder), dtype), CPU, dtype)


def tensors(models: Models) -> dict[str, torch.Tensor]:
    parts = {"transformer": models.transformer, "decoder": models.decoder, "text": models.text_encoder}
    return {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}


def same(a: Models, b: Models) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may break: fp32 files alone."""
    broken = Path(shutil.copytree(checkpoint("sana-1.5"), tmp_path / "broken"))
    (broken / "transformer" / "diffusion_pytorch_model.bf16.safetensors").unlink()
    return broken


def rewrite(path: Path, change: Callable[[dict[str, torch.Tensor]], object]) -> str:
    """Applies `change` to the tensors of a file. Returns one of its keys that the engine reads."""
    state = load_file(path)
    key = sorted(key for key in state if not key.startswith("encoder."))[3]
    change(state)
    save_file(state, path, metadata={"format": "pt"})
    return key


@pytest.mark.parametrize("file", WEIGHTS)
def test_a_missing_key_is_named(file: str, folder: Path) -> None:
    key = rewrite(folder / file, lambda state: None)
    rewrite(folder / file, lambda state: state.pop(key))
    with pytest.raises(CheckpointError, match="lacks " + key.removeprefix("decoder.")):
        load(folder)


@pytest.mark.parametrize("file", WEIGHTS)
def test_an_unexpected_key_is_named(file: str, folder: Path) -> None:
    prefix = "decoder." if file == VAE else ""
    rewrite(folder / file, lambda state: state.update({f"{prefix}surplus.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"unknown surplus\.weight"):
        load(folder)


@pytest.mark.parametrize("file", WEIGHTS)
def test_a_wrong_shape_is_named_with_both(file: str, folder: Path) -> None:
    key = rewrite(folder / file, lambda state: None)
    rewrite(folder / file, lambda state: state.update({key: torch.zeros(7, 3)}))
    with pytest.raises(CheckpointError, match=key.removeprefix("decoder.") + r" is \[7, 3\] where \[.*\] is expected"):
        load(folder)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "header too long", "gone"])
@pytest.mark.parametrize("file", WEIGHTS)
def test_a_damaged_file_is_named_in_one_line(file: str, damage: str, folder: Path) -> None:
    path, content = folder / file, (folder / file).read_bytes()
    damaged = {
        "truncated": content[:-100],
        "empty": b"",
        "garbage": b"\x10\0\0\0\0\0\0\0" + b"not json at all!" * 4,
        "header too long": b"\xff" * 7 + b"\x7f" + content[8:],
    }
    path.unlink()
    if damage in damaged:
        path.write_bytes(damaged[damage])
    with pytest.raises(CheckpointError, match=path.parent.name) as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_the_encoder_of_the_autoencoder_is_not_read(folder: Path) -> None:
    rewrite(folder / VAE, lambda state: [state.pop(key) for key in list(state) if key.startswith("encoder.")])
    load(folder)


def test_a_shard_that_is_missing_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (next((folder / "transformer").glob("*-00002-of-*"))).unlink()
    with pytest.raises(CheckpointError, match="00002-of"):
        load(folder)


def test_an_index_that_is_no_index_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    for content in ("{", "[]", '{"weight_map": 3}', "{}"):
        (folder / "transformer" / "diffusion_pytorch_model.safetensors.index.json").write_text(content)
        with pytest.raises(CheckpointError, match=r"index\.json"):
            load(folder)


def sharded(tmp_path: Path, variant: str | None = None) -> Path:
    with quiet():
        pipeline = build_pipeline(FAMILIES["sana-1.5"])
        if variant:
            pipeline.to(FAMILIES["sana-1.5"].trained_dtype)
        return write_checkpoint(pipeline, tmp_path / "sharded", variant=variant, max_shard_size="100KB")


@pytest.mark.parametrize("variant", [None, "bf16"])
def test_shards_hold_the_same_tensors(variant: str | None, tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    folder = sharded(tmp_path, variant)
    for part in ("transformer", "text_encoder"):
        assert len(list((folder / part).glob("*.safetensors"))) > 1
        assert len(list((folder / part).glob("*.index*.json"))) == 1
    assert same(load(folder), load(checkpoint("sana-1.5")))


@pytest.mark.parametrize("name", ["sana-1.0-fp16", "sana-1.0"])
def test_the_variant_of_the_dtype_is_read(name: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(name) / "transformer"
    trained, variant = FAMILIES[name].trained_dtype, FAMILIES[name].variant
    assert set(find_weights(folder, trained).values()) == {folder / f"diffusion_pytorch_model.{variant}.safetensors"}
    assert set(find_weights(folder, torch.float32).values()) == {folder / "diffusion_pytorch_model.safetensors"}
    other = "bf16" if variant == "fp16" else "fp16"
    assert variant_files(folder, other) == {}


@pytest.mark.parametrize("name", ["sana-1.0-fp16", "sana-1.0"])
def test_a_variant_alone_serves_every_dtype(name: str, tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    """The weights were rounded to the training dtype before either file was written."""
    folder = Path(shutil.copytree(checkpoint(name), tmp_path / "variant"))
    (folder / TRANSFORMER).unlink()
    assert same(load(folder), load(checkpoint(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtypes_of_the_parts(dtype: torch.dtype, checkpoint: Callable[[str], Path]) -> None:
    """Text encoder and decoder never run in fp16."""
    models = load(checkpoint("sana-1.0-fp16"), dtype)
    side = torch.float32 if dtype == torch.float32 else torch.bfloat16
    assert {p.dtype for p in models.transformer.parameters()} == {dtype}
    assert {p.dtype for p in models.decoder.parameters()} == {side}
    assert {p.dtype for p in models.text_encoder.parameters()} == {side}
    assert not any(p.requires_grad for p in models.transformer.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_buffers_that_no_file_holds_are_those_of_transformers(
    dtype: torch.dtype, checkpoint: Callable[[str], Path]
) -> None:
    """Rotary frequencies and the embedding's scale are computed; rounded ones would cost bits in every layer."""
    folder = checkpoint("sana-1.5")
    ours = load(folder, dtype).text_encoder
    with quiet():
        theirs = Gemma2Model.from_pretrained(folder / "text_encoder", dtype=dtype, attn_implementation="eager")
    expected = dict(theirs.named_buffers())
    assert expected
    for name, buffer in ours.named_buffers():
        wanted = expected.pop(name)
        assert torch.equal(buffer.to(wanted.dtype), wanted), name
    assert not expected
    tokens = torch.arange(10, 60)[None]
    with torch.inference_mode():
        assert torch.equal(ours(tokens).last_hidden_state, theirs(tokens).last_hidden_state)


def test_a_text_encoder_saved_with_its_head(folder: Path, checkpoint: Callable[[str], Path]) -> None:
    """The whole language model has the same tensors under `model.`; its head is tied to the embedding."""
    state = load_file(folder / TEXT)
    save_file({f"model.{key}": tensor for key, tensor in state.items()}, folder / TEXT, metadata={"format": "pt"})
    assert same(load(folder), load(checkpoint("sana-1.5")))


def test_another_text_encoder_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "t5"}))
    with pytest.raises(CheckpointError, match="'t5' is not gemma2"):
        load(folder)


def test_a_tokenizer_that_is_broken_is_named(folder: Path) -> None:
    (folder / "tokenizer" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer") as caught:
        load(folder)
    assert "\n" not in str(caught.value)


def test_a_gpu_without_a_compiler_is_refused_with_the_remedy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    require_compiler(torch.device("cpu"))
    with pytest.raises(DeviceError, match="apt install gcc"):
        require_compiler(torch.device("cuda:0"))
    (tmp_path / "gcc").touch(mode=0o755)
    require_compiler(torch.device("cuda:0"))
