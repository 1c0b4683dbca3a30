"""Values of `--model` that name local files, and the ids that models get."""

from pathlib import Path

import pytest

from engine.checkpoints.checkpoint import PARTS
from engine.checkpoints.locate import locate_model
from engine.checkpoints.single_file import find_part_beside
from engine.errors import CheckpointError

FSDP = "model/pytorch_model_fsdp.bin"
SNAPSHOT = f"models--org--Sana1.5/snapshots/{'a' * 40}"


def make_folder(folder: Path) -> Path:
    """Empty subfolders for all parts."""
    for part in PARTS:
        (folder / part).mkdir(parents=True)
    return folder


def make_file(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    return path


@pytest.mark.parametrize(
    ("folder", "given", "expected"),
    [
        ("model", "model", "model"),
        ("model", "model/model_index.json", "model"),
        (SNAPSHOT, SNAPSHOT, "org/Sana1.5"),
        (SNAPSHOT, "models--org--Sana1.5", "org/Sana1.5"),
        (f"hub/models--Sana/snapshots/{'b' * 40}", f"hub/models--Sana/snapshots/{'b' * 40}", "Sana"),
        ("modelscope/SANA1___5_1___6B", "modelscope/SANA1___5_1___6B", "SANA1.5_1.6B"),
    ],
)
def test_model_folder_id(folder: str, given: str, expected: str, tmp_path: Path) -> None:
    found = make_folder(tmp_path / folder)
    (found / "model_index.json").write_text('{"_class_name": "SanaPipeline"}')
    assert locate_model(str(tmp_path / given), ("",)) == (found, expected)


def test_model_folder_id_of_link_and_dot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = make_folder(tmp_path / SNAPSHOT)
    (tmp_path / "link").symlink_to(found)
    assert locate_model(str(tmp_path / "link"), ("",))[1] == "org/Sana1.5"
    monkeypatch.chdir(make_folder(tmp_path / "plain"))
    assert locate_model(".", ("",))[1] == "plain"


@pytest.mark.parametrize(
    ("file", "given", "expected"),
    [
        ("Sana_1.6B.pth", "Sana_1.6B.pth", "Sana_1.6B"),
        ("Sana.bf16.safetensors", "Sana.bf16.safetensors", "Sana"),
        ("Sana/checkpoints/Sana_600M.pth", "Sana", "Sana_600M"),
        ("run/checkpoints/epoch_3_step_100.pth", "run/checkpoints", "epoch_3_step_100"),
        (f"run/epoch_3_step_100/{FSDP}", "run/epoch_3_step_100", "epoch_3_step_100"),
        (f"run/epoch_3_step_100/{FSDP}", f"run/epoch_3_step_100/{FSDP}", "epoch_3_step_100"),
        ("mine/transformer/diffusion_pytorch_model.safetensors", "mine/transformer", None),
        (f"{SNAPSHOT}/transformer/model.safetensors", f"{SNAPSHOT}/transformer/model.safetensors", "org/Sana1.5"),
        (f"{SNAPSHOT}/checkpoints/Sana_A.pth", "models--org--Sana1.5", "Sana_A"),
    ],
)
def test_model_single_file_id(file: str, given: str, expected: str | None, tmp_path: Path) -> None:
    path = make_file(tmp_path / file)
    found, name = locate_model(str(tmp_path / given), ("",))
    assert found == path
    assert name == (expected or "mine")


@pytest.mark.parametrize("target", ["epoch_1_step_7.pth", f"epoch_1_step_7/{FSDP}"])
def test_model_latest_link_has_id_of_its_target(target: str, tmp_path: Path) -> None:
    path = make_file(tmp_path / "run" / target)
    (tmp_path / "run" / "latest.pth").symlink_to(target.partition("/")[0])
    found, name = locate_model(str(tmp_path / "run" / "latest.pth"), ("",))
    assert (found.resolve(), name) == (path.resolve(), "epoch_1_step_7")
    assert locate_model(str(tmp_path / "run"), ("",))[0].resolve() == path.resolve()


@pytest.mark.parametrize("part", PARTS)
def test_model_folder_missing_part_is_named(part: str, tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    (folder / part).rmdir()
    with pytest.raises(CheckpointError, match=f"lacks {part}/"):
        locate_model(str(folder), ("",))


def test_model_folder_of_one_part_names_its_parent(tmp_path: Path) -> None:
    folder = make_folder(tmp_path / "model")
    with pytest.raises(CheckpointError, match=f"give the folder of all parts, {folder}$"):
        locate_model(str(folder / "vae"), ("",))


@pytest.mark.parametrize("model", ["", "no-such-model", "/no/such/folder", "./none", "a/b/c", "gone.pth", "demo/"])
def test_model_not_found_is_refused(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="no model"):
        locate_model(model, ("",))


def test_model_problem_of_local_path_is_named(tmp_path: Path) -> None:
    (tmp_path / "dangling.pth").symlink_to("gone.pth")
    (tmp_path / "folder.pth").mkdir()
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "sana.gguf").write_bytes(b"GGUF1234")
    for name in ("a.pth", "b.pth"):
        make_file(tmp_path / "two" / name)
    for sha in ("a", "b"):
        make_folder(tmp_path / "models--o--n" / "snapshots" / (sha * 40))
    for name, problem in {
        "dangling.pth": "is a link to gone.pth, which does not exist",
        "folder.pth": f"is a folder, and not one of an FSDP run: it has no {FSDP}",
        "notes.txt": r"is not a model; a single file must be one of \.pth",
        "sana.gguf": "is a GGUF file, which is not supported",
        "two": r"holds 2 checkpoints \(a\.pth, b\.pth\): give the path of one",
        "models--o--n": "is a hub cache folder with 2 snapshots",
    }.items():
        with pytest.raises(CheckpointError, match=problem) as caught:
            locate_model(str(tmp_path / name), ("",))
        assert "\n" not in str(caught.value)
    with pytest.raises(CheckpointError, match=r"on the hub write hf://org/name/checkpoints/x\.pth"):
        locate_model("org/name/checkpoints/x.pth", ("",))


def test_single_file_parts_are_found_beside_or_one_folder_up(tmp_path: Path) -> None:
    make_file(tmp_path / "run" / "vae" / "config.json")
    make_file(tmp_path / "tokenizer" / "tokenizer.json")
    (tmp_path / "text_encoder").mkdir()  # without a config.json, such as another program's folder of files
    for file in ("model.pth", FSDP):
        assert find_part_beside(tmp_path / "run" / file, "vae") == tmp_path / "run" / "vae"
        assert find_part_beside(tmp_path / "run" / file, "tokenizer") == tmp_path / "tokenizer"
        assert find_part_beside(tmp_path / "run" / file, "text_encoder") is None
