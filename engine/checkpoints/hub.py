"""Finds the files of `--model` on this machine: the embedded demo, a folder, an NVlabs .pth, or a hub id."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from ..errors import CheckpointError

DEMO = Path(__file__).parents[1] / "demo"
SHARED_PARTS = ("text_encoder", "tokenizer", "vae")
PARTS = ("transformer", "scheduler", *SHARED_PARTS)
SHARED_PARTS_MODEL = "Efficient-Large-Model/Sana_1600M_1024px_BF16_diffusers"
"""Source of the shared parts for an NVlabs .pth that has none beside it: they are the same in all releases."""
CONNECT_SECONDS = 10.0


def resolve_model(model: str, variants: tuple[str, ...]) -> Path:
    """Path of the folder in diffusers layout, or of the .pth. Downloads a hub id. Raises CheckpointError.

    Args:
        model: value of `--model`.
        variants: weight variants in order of preference, as of `download`.
    """
    if model == "demo":
        return require_parts(DEMO)
    path = Path(model).expanduser()
    if path.suffix == ".pth":
        if not path.is_file():
            raise CheckpointError(f"{path} does not exist")
        return path
    if path.is_dir():
        return require_parts(path)
    if path.exists():
        raise CheckpointError(f"{path} is neither a folder in diffusers layout nor an NVlabs .pth")
    if model.startswith(("/", ".", "~")) or model.count("/") != 1:
        raise CheckpointError(
            f"no model {model!r}: it must be demo, a folder in diffusers layout, an NVlabs .pth, or a hub id such as "
            "Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
        )
    return require_parts(download(model, PARTS, variants))


def require_parts(folder: Path) -> Path:
    """`folder`, if it has a subfolder for every part. Raises CheckpointError naming those that are missing."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        raise CheckpointError(f"{folder} is not a SANA checkpoint in diffusers layout: it lacks {', '.join(missing)}/")
    return folder


def find_part_beside(pth: Path, part: str) -> Path | None:
    """Folder of a part that an NVlabs .pth does not hold, if there is one beside the file or one folder up."""
    folders = (pth.parent / part, pth.parent.parent / part)
    return next((folder for folder in folders if folder.is_dir()), None)


def download(repo: str, parts: tuple[str, ...], variants: tuple[str, ...]) -> Path:
    """Downloads parts of a hub repository, or finds them in the local cache if the hub cannot be reached.

    Args:
        variants: weight variants in order of preference, "" for files without one in their name; of each part the
            first that exists is downloaded.
    """
    try:
        siblings = HfApi().model_info(repo, timeout=CONNECT_SECONDS).siblings or []
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(f"no model {repo!r} on the hub; a private one needs a token in HF_TOKEN") from error
    except Exception:  # no connection; the exception's class depends on the hub client's HTTP library
        return find_cached(repo)
    try:
        return Path(
            snapshot_download(repo, allow_patterns=choose_files([s.rfilename for s in siblings], parts, variants))
        )
    except Exception as error:
        raise CheckpointError(f"downloading {repo} failed: {str(error).splitlines()[0]}") from error


def find_cached(repo: str) -> Path:
    """Folder of an earlier download. Raises CheckpointError if there is none."""
    try:
        return Path(snapshot_download(repo, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise CheckpointError(
            f"{repo} is not in the local cache and the hub cannot be reached: connect once, or give a local folder"
        ) from error


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
