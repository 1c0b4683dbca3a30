"""Models on the hub: names, downloads, and every answer of a hub on 127.0.0.1, with the real client."""

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import SanaTransformer2DModel

from engine.checkpoints.hub import HubName, choose_files, parse_hub_name
from engine.checkpoints.hub_errors import explain
from engine.checkpoints.loader import open_checkpoint
from engine.checkpoints.locate import locate_model
from engine.errors import CheckpointError

from ...fake_hub import FakeHub, fake_hub
from ...nvlabs import to_nvlabs

ROOT = Path(__file__).parents[3]
ANY = ("bf16", "fp16", "")
BAD_TOKEN = {"X-Error-Message": "Invalid credentials in Authorization header"}


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with an empty cache. The client reads HF_ENDPOINT when it is imported, so its constants are replaced."""
    with fake_hub() as hub:
        monkeypatch.delenv("HF_TOKEN", raising=False)
        for name, value in {
            "ENDPOINT": hub.url,
            "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
            "HF_HUB_CACHE": str(tmp_path / "cache"),
            "HF_TOKEN_PATH": str(tmp_path / "token"),
        }.items():
            monkeypatch.setattr(f"huggingface_hub.constants.{name}", value)
        yield hub


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("org/name", HubName("org/name")),
        ("org/name@v1", HubName("org/name", "v1")),
        ("org/name@refs/pr/3", HubName("org/name", "refs/pr/3")),
        ("hf://org/name", HubName("org/name")),
        ("hf://org/name/", HubName("org/name")),
        ("hf://models/org/name@main", HubName("org/name", "main")),
        ("hf://org/name/checkpoints/name.pth", HubName("org/name", None, "checkpoints/name.pth")),
        ("hf://org/name@v1/checkpoints/name.pth", HubName("org/name", "v1", "checkpoints/name.pth")),
        ("hf://org/name@refs%2Fpr%2F1/name.pth", HubName("org/name", "refs/pr/1", "name.pth")),
        ("https://huggingface.co/org/name", HubName("org/name")),
        ("https://huggingface.co/org/name/tree/v1", HubName("org/name", "v1")),
        ("https://hf.co/org/name/resolve/main/a/b.pth?download=true", HubName("org/name", "main", "a/b.pth")),
        ("name", None),
        ("a/b/c", None),
        ("org/name.pth", None),
        ("org/name@", None),
        ("./org/name", None),
        ("https://example.com/org/name", None),
    ],
)
def test_hub_name_forms(model: str, expected: HubName | None) -> None:
    assert parse_hub_name(model) == expected


def test_hub_folder_has_id_and_revision(hub: FakeHub, checkpoint: Callable[[str], Path]) -> None:
    hub.repositories["org/sana"] = checkpoint("sana-1.5")
    folder, name = locate_model("org/sana", ANY)
    assert (name, folder.name) == ("org/sana", "0" * 40)
    assert open_checkpoint("org/sana", None).id == "org/sana"
    assert locate_model("org/sana@v1", ANY)[0].name == "1" * 40
    assert open_checkpoint(str(folder), None).id == "org/sana"
    assert locate_model(str(folder.parents[1]), ANY)[0].name == "0" * 40  # models--org--sana itself, by refs/main
    with pytest.raises(CheckpointError, match="org/sana has no revision 'v9'"):
        locate_model("org/sana@v9", ANY)


def test_hub_other_pipeline_is_refused_before_its_weights(hub: FakeHub, tmp_path: Path) -> None:
    repository = tmp_path / "video"
    for part in ("transformer", "scheduler", "text_encoder", "tokenizer", "vae"):
        (repository / part).mkdir(parents=True)
        (repository / part / "config.json").write_text("{}")
        (repository / part / "model.safetensors").write_bytes(bytes(1000))
    (repository / "model_index.json").write_text('{"_class_name": "SanaVideoPipeline"}')
    hub.repositories["org/video"] = repository
    with pytest.raises(CheckpointError, match="SanaVideoPipeline is not supported: it generates video"):
        locate_model("org/video", ANY)
    assert not [name for name in hub.downloaded if name.endswith(".safetensors")]


def test_hub_repository_in_nvlabs_layout_works(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, checkpoint: Callable[[str], Path]
) -> None:
    """The transformer is one .pth; the other parts come from a second repository."""
    heads = dict(num_attention_heads=36, num_cross_attention_heads=16, cross_attention_head_dim=72)
    model = SanaTransformer2DModel(**heads, num_layers=1, cross_attention_dim=1152, caption_channels=48)
    repository = tmp_path / "repository" / "checkpoints"
    repository.mkdir(parents=True)
    torch.save({"state_dict": to_nvlabs(model.half().state_dict(), 32)}, repository / "Sana.pth")
    hub.repositories["org/Sana"] = repository.parent
    hub.repositories["org/shared"] = checkpoint("sana-1.5")
    monkeypatch.setattr("engine.checkpoints.single_file.SHARED_PARTS_MODEL", "org/shared")
    for name, expected in (("org/Sana", "org/Sana"), ("hf://org/Sana/checkpoints/Sana.pth", "Sana")):
        opened = open_checkpoint(name, None)
        assert (opened.id, opened.transformer.num_layers) == (expected, 1)
    hub.faults["/api/models"] = 503, {}
    assert open_checkpoint("org/Sana", None).transformer.num_layers == 1  # from the cache
    hub.faults.clear()
    (repository / "Sana.pth").unlink()
    for count, problem in ((0, "neither a model_index.json nor a .pth; try org/Sana_diffusers"), (2, "2 checkpoints")):
        for i in range(count):
            (repository / f"{i}.pth").write_bytes(b"x")
        with pytest.raises(CheckpointError, match=problem):
            locate_model("org/Sana", ANY)


def test_hub_file_of_other_network_needs_no_companions(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "flux").mkdir()
    torch.save({"double_blocks.0.img_attn.qkv.weight": torch.zeros(2)}, tmp_path / "flux" / "flux.pth")
    hub.repositories["org/flux"] = tmp_path / "flux"
    with pytest.raises(CheckpointError, match=r"flux\.pth is not a SANA transformer but looks like a FLUX transformer"):
        open_checkpoint("hf://org/flux/flux.pth", None)
    assert hub.downloaded == ["flux.pth"]


@pytest.mark.parametrize(
    ("status", "headers", "token", "expected"),
    [
        (401, BAD_TOKEN, "wrong", r"the hub refused the token for org/x \(401\): correct HF_TOKEN"),
        (401, {}, None, r"no model 'org/x' on the hub \(401\): check its spelling; a private one needs a token"),
        (
            403,
            {"X-Error-Code": "GatedRepo"},
            "right",
            r"gated \(403\): accept its licence at http://127.*/org/x and",
        ),
        (403, {}, "right", r"forbids access to org/x \(403\)"),
        (403, {"X-Error-Message": "Access to this resource is disabled."}, None, "is disabled on the hub"),
        (404, {"X-Error-Code": "RepoNotFound"}, None, r"no model 'org/x' on the hub \(404\)"),
        (407, {}, None, r"proxy wants a login .*\(407\)"),
        (429, {"Retry-After": "7"}, None, r"limits requests \(429\): try org/x again after 7 s"),
        (500, {}, None, r"failed to answer for org/x \(500\): try again later"),
        (503, {}, None, r"\(503\): try again later"),
        (504, {}, None, r"\(504\): try again later"),
    ],
)
def test_hub_status_is_named_with_its_remedy(
    status: int,
    headers: dict[str, str],
    token: str | None,
    expected: str,
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    hub.faults["/api/models/org/x"] = status, headers
    with pytest.raises(CheckpointError, match=expected) as caught:
        locate_model("org/x", ANY)
    assert "\n" not in str(caught.value)
    assert hub.tokens == {f"Bearer {token}" if token else None}


def test_hub_timeout_and_refused_connection_are_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.seconds = 1.0
    monkeypatch.setattr("engine.checkpoints.hub.CONNECT_SECONDS", 0.1)
    with pytest.raises(CheckpointError, match=r"cannot be reached at http://127.* \(timeout\); org/x is not in the"):
        locate_model("org/x", ANY)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(CheckpointError, match=r"cannot be reached at http://127\.0\.0\.1:9 .*connect once"):
        locate_model("org/x", ANY)


def test_hub_offline_is_named(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(CheckpointError, match="HF_HUB_OFFLINE is set; org/x is not in the local cache"):
        locate_model("org/x", ANY)


def test_hub_failure_uses_complete_cache_only(
    hub: FakeHub, checkpoint: Callable[[str], Path], caplog: pytest.LogCaptureFixture
) -> None:
    hub.repositories["org/sana"] = checkpoint("sana-1.5")
    folder, _ = locate_model("org/sana", ANY)
    hub.faults["/api/models"] = 503, {}
    assert locate_model("org/sana", ANY)[0] == folder
    assert "(503): try again later; using the copy in" in caplog.text
    for weights in (folder / "transformer").glob("*.safetensors"):
        weights.unlink()
    with pytest.raises(CheckpointError, match=r"\(503\).*; the copy in .* lacks transformer/"):
        locate_model("org/sana", ANY)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (403, {"X-Error-Code": "GatedRepo"}, r"org/sana is gated \(403\)"),
        (520, {}, r"failed to answer for org/sana \(520\): try again later"),  # the client repeats 500 to 504 for 20 s
        (404, {"X-Error-Code": "EntryNotFound"}, r"org/sana.*\(404\)"),
    ],
)
def test_hub_file_refused_during_download_is_named(
    status: int, headers: dict[str, str], expected: str, hub: FakeHub, checkpoint: Callable[[str], Path]
) -> None:
    hub.repositories["org/sana"] = checkpoint("sana-1.5")
    hub.faults["/resolve/.*/vae/.*safetensors"] = status, headers
    with pytest.raises(CheckpointError, match=expected) as caught:
        locate_model("org/sana", ANY)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "the disk is full while downloading org/x to .*HF_HOME"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "the disk is full"),
        (PermissionError(errno.EACCES, "Permission denied"), "which is not writable: set HF_HOME"),
        (OSError(errno.EROFS, "Read-only file system"), "which is not writable"),
        (RuntimeError("first line\nsecond line"), "downloading org/x failed: first line$"),
    ],
)
def test_hub_local_fault_is_named(error: Exception, expected: str) -> None:
    wrapped = RuntimeError("the client's own text")
    wrapped.__cause__ = error
    assert re.search(expected, explain(wrapped if isinstance(error, OSError) else error, "org/x"))


@pytest.mark.skipif(sys.platform != "linux" or os.geteuid() != 0, reason="mounts a file system of 64 KiB")
def test_hub_disk_full_is_named(hub: FakeHub, tmp_path: Path, checkpoint: Callable[[str], Path]) -> None:
    hub.repositories["org/sana"] = checkpoint("sana-1.5")
    cache = tmp_path / "cache"
    cache.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", cache], check=False).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        with pytest.raises(CheckpointError, match="the disk is full while downloading org/sana to"):
            locate_model("org/sana", ANY)
    finally:
        subprocess.run(["umount", cache], check=True)


def test_hub_endpoint_of_environment_is_used_by_doctor(hub: FakeHub, tmp_path: Path) -> None:
    hub.faults["/api/models"] = 401, BAD_TOKEN
    environment = os.environ | {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": "wrong"}
    command = [sys.executable, "-m", "engine.worker.doctor", "--model", "org/x", "--device", "cpu"]
    child = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert child.returncode == 1
    assert child.stderr.splitlines()[-1].startswith("sana: the hub refused the token for org/x (401)")


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
