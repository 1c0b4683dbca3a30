"""Models on the Hugging Face hub: what a name means, and downloads that look at small files first."""

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote

from huggingface_hub import HfApi, constants, hf_hub_download, snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError

from ..errors import CheckpointError
from .checkpoint import PARTS, read_json
from .diffusers import read_configs
from .hub_errors import explain, is_answer

log = logging.getLogger(__name__)

CONNECT_SECONDS = 10.0
HUB_PREFIX = re.compile(r"hf://(?:models/)?|(?:https?://)?(?:www\.)?(?:huggingface\.co|hf\.co|hf-mirror\.com)/")
HUB_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>refs/\w+/[^/@]+|[^/@]+))?(?:/(?P<file>.+?))?/?")
PAGE = re.compile(r"(?:tree|blob|resolve)/(?P<revision>refs/\w+/[^/]+|[^/]+)(?:/(?P<file>.+))?")


@dataclass(frozen=True)
class HubName:
    """A model on the hub.

    Args:
        repo: ORG/NAME.
        revision: branch, tag or commit; None is the default branch.
        file: path of a single file in the repository, or None for the model in it.
    """

    repo: str
    revision: str | None = None
    file: str | None = None

    def __str__(self) -> str:
        return self.repo + (f"@{self.revision}" if self.revision else "")


def parse_hub_name(model: str) -> HubName | None:
    """The hub name that `model` is: ORG/NAME, ORG/NAME@REVISION, hf://ORG/NAME[@REVISION][/FILE], or a page's URL."""
    prefix = HUB_PREFIX.match(model)
    rest = model[prefix.end() :] if prefix else model
    if not prefix:
        repo, at, revision = model.partition("@")
        plain = re.fullmatch(r"\w[\w.-]*/[\w.-]+", repo) and not repo.endswith((".pth", ".safetensors"))
        return HubName(repo, revision or None) if plain and bool(at) == bool(revision) else None
    found = HUB_NAME.fullmatch(rest.partition("?")[0])
    if not found:
        return None
    revision, file = found["revision"], found["file"]
    page = PAGE.fullmatch(file) if file and not model.startswith("hf://") else None
    if page:
        revision, file = page["revision"], page["file"]
    return HubName(found["repo"], unquote(revision) if revision else None, unquote(file) if file else None)


def download_model(name: HubName, variants: tuple[str, ...]) -> Path:
    """Downloads a model, or finds it in the local cache if the hub does not give it. Raises CheckpointError.

    Returns:
        The folder in diffusers layout, or the single file of a repository in NVlabs' layout.
    """
    try:
        files = list_files(name)
    except Exception as error:  # its class depends on the hub client's HTTP library
        return find_cached(name, explain(error, str(name)), error)
    try:
        if not name.file and "model_index.json" in files:
            return download_folder(name, files, variants)
        return Path(hf_hub_download(name.repo, single_file(name, files), revision=name.revision))
    except CheckpointError:
        raise
    except Exception as error:
        raise CheckpointError(explain(error, str(name))) from error


def list_files(name: HubName) -> list[str]:
    """Paths of all files of a repository."""
    info = HfApi().model_info(name.repo, revision=name.revision, timeout=CONNECT_SECONDS)
    return [sibling.rfilename for sibling in info.siblings or []]


def download_folder(name: HubName, files: list[str], variants: tuple[str, ...]) -> Path:
    """Downloads a repository in diffusers layout: its weights only once its configurations can be run."""
    chosen = choose_files(files, PARTS, variants)
    small = [file for file in chosen if file_variant(file) is None]
    folder = Path(snapshot_download(name.repo, revision=name.revision, allow_patterns=small))
    if all((folder / part).is_dir() for part in PARTS):
        read_configs(folder)
        snapshot_download(name.repo, revision=folder.name, allow_patterns=chosen)
    return folder


def single_file(name: HubName, files: list[str]) -> str:
    """The file that `name` gives, or the only checkpoint of a repository without model_index.json."""
    if name.file in files:
        return name.file
    weights = [file for file in files if file.endswith(".pth")] or [
        file for file in files if file.endswith(".safetensors") and "/" not in file.removeprefix("checkpoints/")
    ]
    if name.file:
        there = f"it has {', '.join(weights[:3])}" if weights else "it has no checkpoint"
        raise CheckpointError(f"{name} has no file {name.file!r}; {there}")
    if len(weights) == 1:
        return weights[0]
    if weights:
        given = f"hf://{name}/{weights[0]}"
        raise CheckpointError(f"{name} has {len(weights)} checkpoints: give the path of one, such as {given}")
    hint = "" if name.repo.endswith("_diffusers") else f"; try {name.repo}_diffusers"
    raise CheckpointError(f"{name} is not a SANA model: it has neither a model_index.json nor a .pth{hint}")


def download_parts(repo: str, parts: tuple[str, ...], variants: tuple[str, ...]) -> Path:
    """Downloads parts of a hub repository, or finds them in the local cache if the hub does not give them.

    Args:
        variants: weight variants in order of preference, "" for files without one in their name; of each part the
            first that exists is downloaded.
    """
    name = HubName(repo)
    try:
        chosen = choose_files(list_files(name), parts, variants)
        return Path(snapshot_download(repo, allow_patterns=chosen))
    except Exception as error:
        return find_cached(name, explain(error, repo), error, parts)


def find_cached(name: HubName, reason: str, error: Exception, parts: tuple[str, ...] = PARTS) -> Path:
    """Folder or file of an earlier download. Raises CheckpointError with `reason`, and what is missing, if incomplete.

    Args:
        reason: why the hub did not give it.
        error: the hub client's exception.
        parts: parts that a folder must have.
    """
    try:
        if name.file:
            found = Path(hf_hub_download(name.repo, name.file, revision=name.revision, local_files_only=True))
        else:
            pattern = "model_index.json"  # all files would be demanded without one
            found = Path(
                snapshot_download(name.repo, revision=name.revision, allow_patterns=pattern, local_files_only=True)
            )
    except (LocalEntryNotFoundError, ValueError):
        absent = "" if is_answer(error) else f"; {name} is not in the local cache: connect once, or give a local folder"
        raise CheckpointError(reason + absent) from error
    missing = [] if found.is_file() else [part for part in parts if not is_complete(found / part)]
    checkpoints = list(found.glob("**/*.pth")) if missing else []
    if len(checkpoints) == 1 and parts == PARTS:
        found, missing = checkpoints[0], []
    if missing:
        raise CheckpointError(f"{reason}; the copy in {constants.HF_HUB_CACHE} lacks {', '.join(missing)}/")
    log.warning("%s; using the copy in %s", reason, constants.HF_HUB_CACHE)
    return found


def is_complete(folder: Path) -> bool:
    """Whether a part has its small files and all of its weights."""
    if not any(folder.glob("*.json")):
        return False
    indices = list(folder.glob("*.index*.json"))
    shards = {name for index in indices for name in read_json(index).get("weight_map", {}).values()}
    whole = all((folder / name).is_file() for name in shards)
    weightless = folder.name in ("tokenizer", "scheduler")
    return whole and (weightless or bool(shards) or any(folder.glob("*.safetensors")))


def choose_files(files: list[str], parts: tuple[str, ...], variants: tuple[str, ...]) -> list[str]:
    """Files to download: of each part the small files, and the safetensors of the preferred variant.

    The transformer's fp16 variant is always included, because its existence shows that the model was trained in fp16.
    """
    chosen = ["model_index.json"]
    for part in parts:
        own = [name for name in files if name.startswith(f"{part}/")]
        weights = {variant: [n for n in own if file_variant(n) == variant] for variant in variants}
        preferred = next((names for names in weights.values() if any(n.endswith(".safetensors") for n in names)), [])
        chosen += preferred
        if part == "transformer":
            chosen += [name for name in weights.get("fp16", []) if name not in preferred]
        chosen += [name for name in own if file_variant(name) is None and name.endswith((".json", ".model", ".txt"))]
    return chosen


def file_variant(name: str) -> str | None:
    """Variant of a weight file or weight index, by diffusers' naming, or None for any other file."""
    if ".safetensors" not in name:
        return None
    return next((variant for variant in ("fp16", "bf16") if f".{variant}" in name), "")
