"""Opening and loading models: names, devices, dtypes, variants, shards, and every way in which a file can be wrong."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from engine import CheckpointError, DeviceError, GenerationParams
from engine.checkpoints.loader import (
    Models,
    choose_device,
    load_models,
    open_checkpoint,
    require_compiler,
)
from engine.checkpoints.weights import find_weights, variant_files

from ...checkpoints import FAMILIES, build_pipeline, write_checkpoint
from ...reference import quiet
from ..worker.stepping import Engine

CPU, GPU = torch.device("cpu"), torch.device("cuda", 0)
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
VAE = "vae/diffusion_pytorch_model.safetensors"
TEXT = "text_encoder/model.safetensors"
WEIGHTS = [TRANSFORMER, VAE, TEXT]


def load(folder: Path, dtype: torch.dtype = torch.float32) -> Models:
    return load_models(open_checkpoint(str(folder), dtype), CPU, dtype)


def tensors(models: Models) -> dict[str, torch.Tensor]:
    parts = {"transformer": models.transformer, "decoder": models.decoder, "text": models.text_encoder}
    state = {f"{name}.{key}": tensor for name, part in parts.items() for key, tensor in part.state_dict().items()}
    return {key: tensor.to_dense() if tensor.is_mkldnn else tensor for key, tensor in state.items()}


def same(a: Models, b: Models) -> bool:
    left, right = tensors(a), tensors(b)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


@pytest.fixture
def folder(tmp_path: Path, checkpoint: Callable[[str], Path]) -> Path:
    """A copy that a test may break, with fp32 files only."""
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
def test_weights_missing_key_is_named(file: str, folder: Path) -> None:
    key = rewrite(folder / file, lambda state: None)
    rewrite(folder / file, lambda state: state.pop(key))
    with pytest.raises(CheckpointError, match="lacks " + key.removeprefix("decoder.")):
        load(folder)


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_unknown_key_is_named(file: str, folder: Path) -> None:
    prefix = "decoder." if file == VAE else ""
    rewrite(folder / file, lambda state: state.update({f"{prefix}surplus.weight": torch.zeros(2)}))
    with pytest.raises(CheckpointError, match=r"unknown surplus\.weight"):
        load(folder)


@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_wrong_shape_is_named_with_both(file: str, folder: Path) -> None:
    key = rewrite(folder / file, lambda state: None)
    rewrite(folder / file, lambda state: state.update({key: torch.zeros(7, 3)}))
    with pytest.raises(CheckpointError, match=key.removeprefix("decoder.") + r" must be \[\d.*\], got \[7, 3\]"):
        load(folder)


@pytest.mark.parametrize("damage", ["truncated", "empty", "garbage", "header too long", "gone"])
@pytest.mark.parametrize("file", WEIGHTS)
def test_weights_damaged_file_is_named_in_one_line(file: str, damage: str, folder: Path) -> None:
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


def test_autoencoder_loads_without_its_encoder(folder: Path) -> None:
    rewrite(folder / VAE, lambda state: [state.pop(key) for key in list(state) if key.startswith("encoder.")])
    load(folder)


def test_weights_missing_shard_is_named(tmp_path: Path) -> None:
    folder = sharded(tmp_path)
    (next((folder / "transformer").glob("*-00002-of-*"))).unlink()
    with pytest.raises(CheckpointError, match="00002-of"):
        load(folder)


def test_weights_invalid_index_is_named(tmp_path: Path) -> None:
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
def test_weights_in_shards_equal_single_file(
    variant: str | None, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    folder = sharded(tmp_path, variant)
    for part in ("transformer", "text_encoder"):
        assert len(list((folder / part).glob("*.safetensors"))) > 1
        assert len(list((folder / part).glob("*.index*.json"))) == 1
    assert same(load(folder), load(checkpoint("sana-1.5")))


@pytest.mark.parametrize("name", ["sana-1.0-fp16", "sana-1.0"])
def test_variant_follows_dtype(name: str, checkpoint: Callable[[str], Path]) -> None:
    folder = checkpoint(name) / "transformer"
    trained, variant = FAMILIES[name].trained_dtype, FAMILIES[name].variant
    assert set(find_weights(folder, trained).values()) == {folder / f"diffusion_pytorch_model.{variant}.safetensors"}
    assert set(find_weights(folder, torch.float32).values()) == {folder / "diffusion_pytorch_model.safetensors"}
    other = "bf16" if variant == "fp16" else "fp16"
    assert variant_files(folder, other) == {}


@pytest.mark.parametrize("name", ["sana-1.0-fp16", "sana-1.0"])
def test_variant_alone_loads_in_other_dtypes(name: str, tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    """The weights were rounded to the training dtype before either file was written."""
    folder = Path(shutil.copytree(checkpoint(name), tmp_path / "variant"))
    (folder / TRANSFORMER).unlink()
    assert same(load(folder), load(checkpoint(name)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_dtype_of_each_part(dtype: torch.dtype, checkpoint: Callable[[str], Path]) -> None:
    """Text encoder and decoder do not run in fp16."""
    models = load(checkpoint("sana-1.0-fp16"), dtype)
    side = torch.float32 if dtype == torch.float32 else torch.bfloat16
    assert {p.dtype for p in models.transformer.parameters()} == {dtype}
    assert {p.dtype for p in models.decoder.parameters()} == {side}
    assert {p.dtype for p in models.text_encoder.parameters()} == {side}
    assert not any(p.requires_grad for p in models.transformer.parameters())


def test_text_encoder_saved_with_head_loads(folder: Path, checkpoint: Callable[[str], Path]) -> None:
    """The full language model has the same tensors under `model.`; its head is tied to the embedding."""
    state = load_file(folder / TEXT)
    save_file({f"model.{key}": tensor for key, tensor in state.items()}, folder / TEXT, metadata={"format": "pt"})
    assert same(load(folder), load(checkpoint("sana-1.5")))


def test_text_encoder_of_other_model_is_refused(folder: Path) -> None:
    path = folder / "text_encoder" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"model_type": "t5"}))
    with pytest.raises(CheckpointError, match="must be 'gemma2', got 't5'"):
        load(folder)


def test_gpu_without_compiler_error_says_how_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CC", raising=False)
    require_compiler(torch.device("cpu"))
    with pytest.raises(DeviceError, match="apt install gcc"):
        require_compiler(torch.device("cuda:0"))
    (tmp_path / "gcc").touch(mode=0o755)
    require_compiler(torch.device("cuda:0"))


def test_open_checkpoint_model_not_found() -> None:
    for model in ("/nowhere/at/all", "./nowhere", "nowhere"):
        with pytest.raises(CheckpointError, match="no model"):
            open_checkpoint(model, None)
    with pytest.raises(CheckpointError, match=r"file\.pth': this file does not exist"):
        open_checkpoint("no/such/file.pth", None)


@pytest.mark.parametrize(
    ("capability", "works"),
    [((6, 1), False), ((7, 0), False), ((7, 5), False), ((8, 0), True), ((8, 6), True), ((12, 0), True)],
)
def test_device_below_compute_capability_8_refused(
    capability: tuple[int, int], works: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Card")
    for name in ("auto", "cuda", "cuda:1"):
        if works:
            assert choose_device(name).type == "cuda"
            continue
        number = ".".join(map(str, capability))
        message = rf"cuda:[01] \(Card\) has compute capability {number}, but 8.0 or above .* --devices cpu"
        with pytest.raises(DeviceError, match=message):
            choose_device(name)


def test_device_without_triton_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "triton", None)
    with pytest.raises(DeviceError, match="Triton is not installed, and cuda:0 needs it: pip install triton"):
        require_compiler(GPU)
    require_compiler(CPU)


def test_device_unknown_or_absent_is_refused() -> None:
    assert choose_device("cpu") == CPU
    for name in ("tpu", "cuda:x", "cuda:"):
        with pytest.raises(DeviceError, match=f"device must be auto, cpu, mps, cuda or cuda:<index>, got '{name}'"):
            choose_device(name)
    if not torch.backends.mps.is_available():
        with pytest.raises(DeviceError, match=r"device mps does not exist: .* use cpu"):
            choose_device("mps")
    absent = f"cuda:{torch.cuda.device_count()}"
    with pytest.raises(DeviceError, match=f"{absent} does not exist"):
        choose_device(absent)


@pytest.mark.parametrize("layout", ["folder", "shards", "single file", "pth"])
def test_weights_overwritten_in_place_do_not_change_images(
    layout: str, tmp_path: Path, checkpoint: Callable[[str], Path]
) -> None:
    """The files are in the dtype that runs, so that weights could be views of them."""
    folder = Path(shutil.copytree(checkpoint("sana-1.5"), tmp_path / "model"))
    if layout == "shards":
        folder = sharded(tmp_path)
    model = folder
    if layout in ("single file", "pth"):
        model = tmp_path / ("model.safetensors" if layout == "single file" else "model.pth")
        state = load_file(folder / TRANSFORMER)
        save_file(state, model) if layout == "single file" else torch.save(state, model)
        for part in ("scheduler", "text_encoder", "tokenizer", "vae"):
            (tmp_path / part).symlink_to(folder / part)
        (tmp_path / "transformer").mkdir()
        shutil.copy(folder / "transformer" / "config.json", tmp_path / "transformer")
    engine, params = Engine(model), GenerationParams("a cat", 64, 64, 2, 4.5, seed=3)
    before = engine.generate_files([params])
    overwritten = [model] if model.is_file() else []
    for path in [*overwritten, *folder.glob("*/*.safetensors")]:
        size = path.stat().st_size
        with path.open("r+b") as file:  # the same inode, which a mapping shows
            file.write(bytes(size))
    assert engine.generate_files([params]) == before
