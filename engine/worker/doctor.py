"""`sana doctor`: describes this machine and the models that fit it. Run as `python -m engine.worker.doctor`."""

import argparse
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from huggingface_hub.constants import HF_HUB_CACHE

from ..checkpoints.dtypes import DTYPES, MIN_BFLOAT16_WIDTH, choose_dtype
from ..checkpoints.loader import choose_device, open_checkpoint, require_compiler
from ..config import EngineConfig
from ..errors import SanaError
from ..version import VERSION
from .core import refuse_foreign_kernels
from .memory import device_memory
from .threads import limit_threads

GIB = 2**30
PARAMETERS = {
    "demo": 0.012e9,
    "SANA 0.6B": 0.59e9,
    "SANA 1.6B, Sprint 1.6B": 1.60e9,
    "SANA-1.5 4.8B": 4.72e9,
}
"""Transformer parameters of the demo and of the released models."""
SHARED_PARAMETERS = 2.61e9 + 0.16e9
"""Parameters of Gemma-2-2B and of the DC-AE decoder, the same for all released models."""
WORKING_BYTES = 3 * GIB
"""Activations and a band of the decoder at 1024 px, rounded up."""


def needed_bytes(name: str, dtype: torch.dtype) -> int:
    """Bytes that a model needs to generate an image of 1024 px."""
    if name == "demo":
        return int(PARAMETERS[name] * dtype.itemsize) + GIB // 4
    shared_itemsize = 4 if dtype == torch.float32 else 2
    return int(PARAMETERS[name] * dtype.itemsize + SHARED_PARAMETERS * shared_itemsize) + WORKING_BYTES


def installed_version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_machine(device: torch.device) -> list[str]:
    """Lines about versions, the device, memory and disk."""
    memory, threads = device_memory(device), limit_threads()
    kind = platform.processor() or platform.machine()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        kind = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return [
        f"sana-serve    {VERSION}",
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch         {torch.__version__}, CUDA {torch.version.cuda or 'no'}, {torch.cuda.device_count()} devices",
        f"triton        {installed_version('triton')}",
        f"tokenizers    {installed_version('tokenizers')}",
        f"device        {device} ({kind})",
        f"threads       {threads}",
        f"memory        {memory.free / GIB:.1f} GiB free of {memory.total / GIB:.1f} GiB ({memory.source})",
        f"disk          {free_disk(Path(HF_HUB_CACHE)) / GIB:.1f} GiB free for downloads in {HF_HUB_CACHE}",
    ]


def free_disk(folder: Path) -> int:
    """Bytes free where `folder` is, or will be created."""
    return shutil.disk_usage(next(path for path in (folder, *folder.absolute().parents) if path.exists())).free


def describe_fit(dtype: torch.dtype, free: int) -> list[str]:
    """Lines that say for each model whether it fits into `free` bytes."""
    lines = [f"fits          at 1024 px in {str(dtype).removeprefix('torch.')}:"]
    for name in PARAMETERS:
        needed = needed_bytes(name, dtype)
        lines.append(f"  {'yes' if needed <= free else 'no ':3} {name:24} needs {needed / GIB:5.1f} GiB")
    return lines


def report(config: EngineConfig) -> None:
    """Prints the machine, then the models that fit, then the configured model. Raises SanaError if that cannot run."""
    device = choose_device(config.device)
    print("\n".join(describe_machine(device)))
    released = choose_dtype(config.dtype, device, None, MIN_BFLOAT16_WIDTH)
    print("\n".join(describe_fit(released.dtype, device_memory(device).free)), flush=True)
    refuse_foreign_kernels()
    require_compiler(device)
    checkpoint = open_checkpoint(config.model, DTYPES.get(config.dtype))
    dtype = choose_dtype(config.dtype, device, checkpoint.trained_dtype, checkpoint.transformer.width)
    side = checkpoint.transformer.sample_size * checkpoint.decoder.compression
    print(f"model         {checkpoint.id}: {side} px, runs in {dtype.name} ({dtype.reason})")


def main() -> int:
    defaults = EngineConfig()
    parser = argparse.ArgumentParser(prog="sana doctor")
    parser.add_argument("--model", default=defaults.model)
    parser.add_argument("--device", default=defaults.device)
    parser.add_argument("--dtype", default=defaults.dtype)
    args = parser.parse_args()
    try:
        report(EngineConfig(args.model, args.device, args.dtype))
    except SanaError as error:
        print(f"sana: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
