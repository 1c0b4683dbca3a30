"""Finds the files of `--model`: the embedded demo, a folder, a single file, or a model on the hub."""

import re
from pathlib import Path

from ..errors import CheckpointError
from .checkpoint import PARTS
from .damage import describe_damage
from .diffusers import check_pipeline
from .single_file import FSDP_FILE, SUFFIXES

DEMO = Path(__file__).parents[1] / "demo"
CACHE_FOLDER = re.compile(r"/models--([^/]+)/snapshots/[^/]+")
GENERIC_NAMES = re.compile(
    r"model|pytorch_model(_fsdp)?|diffusion_pytorch_model|latest|last|transformer|checkpoints?|output|[0-9a-f]{40,64}"
)
"""Names that many models have, in place of which a folder's name identifies a model."""


def locate_model(model: str, variants: tuple[str, ...]) -> tuple[Path, str]:
    """Path of a folder in diffusers layout or of a single file, and the model's id. Raises CheckpointError.

    Args:
        model: value of `--model`. A model on the hub is downloaded.
        variants: weight variants in order of preference, as of `hub.download_parts`.
    """
    if model == "demo":
        return require_parts(DEMO), "demo"
    path = Path(model).expanduser()
    if model and (path.exists() or path.is_symlink()):
        found = locate_local(path)
        return found, model_id(found, path)
    from .hub import download_model, parse_hub_name  # here, because the hub's client takes 0.2 s to import

    name = parse_hub_name(model)
    if name is None:
        raise CheckpointError(missing_model(model, path))
    found = download_model(name, variants)
    if found.is_dir():
        return require_parts(found), name.repo
    return found, model_id(found, Path(name.file)) if name.file else name.repo


def missing_model(model: str, path: Path) -> str:
    """Error for a value that is neither a path nor a hub id."""
    if path.suffix in SUFFIXES:
        hint = f"; for a file on the hub write hf://{model}" if re.fullmatch(r"[\w.-]+/[\w.-]+/.+", model) else ""
        return f"no model {model!r}: this file does not exist{hint}"
    return (
        f"no model {model!r}: it must be demo, a folder in diffusers layout, an NVlabs .pth or .safetensors, or a hub "
        "id such as Efficient-Large-Model/SANA1.5_1.6B_1024px_diffusers"
    )


def locate_local(path: Path) -> Path:
    """The folder in diffusers layout or the single file that a local path stands for."""
    if path.is_symlink() and not path.exists():
        raise CheckpointError(f"{path} is a link to {path.readlink()}, which does not exist")
    if path.is_file():
        if path.name == "model_index.json":
            return require_parts(path.parent)
        if path.suffix not in SUFFIXES:
            what = describe_damage(path) or f"{path} is not a model"
            raise CheckpointError(f"{what}; a single file must be one of {', '.join(SUFFIXES)}")
        return path
    if (path / "snapshots").is_dir():
        return locate_local(cached_snapshot(path))
    check_pipeline(path)
    if (path / "transformer").is_dir():
        return require_parts(path)
    found = find_single_file(path)
    if found is None and path.suffix in SUFFIXES:
        raise CheckpointError(f"{path} is a folder, and not one of an FSDP run: it has no {FSDP_FILE}")
    return found or require_parts(path)


def cached_snapshot(folder: Path) -> Path:
    """The snapshot of a hub cache folder, models--ORG--NAME, that its `main` points to, or its only one."""
    snapshots = [snapshot for snapshot in (folder / "snapshots").iterdir() if snapshot.is_dir()]
    main = folder / "refs" / "main"
    if main.is_file():
        snapshots = [snapshot for snapshot in snapshots if snapshot.name == main.read_text().strip()] or snapshots
    if len(snapshots) != 1:
        raise CheckpointError(
            f"{folder} is a hub cache folder with {len(snapshots)} snapshots: give one of its snapshots/ folders"
        )
    return snapshots[0]


def find_single_file(folder: Path) -> Path | None:
    """The weights in a folder that is not in diffusers layout: of an FSDP run, or the only file of NVlabs' layout."""
    if (folder / FSDP_FILE).is_file():
        return folder / FSDP_FILE
    for place in (folder, folder / "checkpoints"):
        latest = place / "latest.pth"
        if latest.exists():
            return locate_local(latest)
        files = sorted(p for suffix in (".pth", ".safetensors") for p in place.glob(f"*{suffix}") if p.is_file())
        if len(files) > 1:
            raise CheckpointError(
                f"{place} holds {len(files)} checkpoints ({', '.join(p.name for p in files[:3])}): give the path of one"
            )
        if files:
            return files[0]
    return None


def require_parts(folder: Path) -> Path:
    """`folder`, if it has a subfolder for every part. Raises CheckpointError naming those that are missing."""
    missing = [part for part in PARTS if not (folder / part).is_dir()]
    if missing:
        whole = all((folder.absolute().parent / part).is_dir() for part in PARTS)
        hint = f"; give the folder of all parts, {folder.absolute().parent}" if whole else ""
        raise CheckpointError(
            f"{folder} is not a SANA checkpoint in diffusers layout: it lacks {', '.join(missing)}/{hint}"
        )
    return folder


def model_id(found: Path, given: Path) -> str:
    """Id of a local model that a person recognizes: the hub's for its cache, else the name of its file or folder."""
    cached = CACHE_FOLDER.search(str(found.absolute()))
    if found.is_dir():
        if cached or (cached := CACHE_FOLDER.search(str(found.resolve()))):
            return cached[1].replace("--", "/")
        return found.resolve().name.replace("___", ".")  # ModelScope's cache writes dots so
    target = given.resolve()
    if given.is_symlink() and (target.is_dir() or target.suffix in SUFFIXES):  # latest.pth
        found = target / FSDP_FILE if target.is_dir() else target
    names = [found.stem.removesuffix(".fp16").removesuffix(".bf16"), *(p.name for p in found.absolute().parents)]
    name = next((name for name in names if name and not GENERIC_NAMES.fullmatch(name)), found.stem)
    return cached[1].replace("--", "/") if cached and name != names[0] else name
