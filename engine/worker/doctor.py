"""`sana doctor`: what this machine offers and which released models fit it. Run as `python -m engine.doctor`."""

import argparse
import platform
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

from ..checkpoints.diffusers import open_checkpoint
from ..checkpoints.loader import DTYPES, choose_device, choose_dtype, require_compiler
from ..config import EngineConfig
from ..errors import SanaError
from ..version import VERSION
from .core import refuse_foreign_kernels
from .memory import free_memory

GIB = 2**30
PARAMETERS = {
    "demo": 0.012e9,
    "SANA 0.6B": 0.59e9,
    "SANA 1.6B, Sprint 1.6B": 1.60e9,
    "SANA-1.5 4.8B": 4.72e9,
}
"""Transformer parameters of the released models."""
SHARED_PARAMETERS = 2.61e9 + 0.16e9
"""Gemma-2-2B and the DC-AE decoder, the same for all released models."""
WORKING_BYTES = 3 * GIB
"""Activations and a band of the decoder at 1024 px, with room to spare."""


def needed(name: str, dtype: torch.dtype) -> int:
    """Bytes a model takes while it draws at 1024 px."""
    if name == "demo":
        return int(PARAMETERS[name] * dtype.itemsize) + GIB // 4
    side = 4 if dtype == torch.float32 else 2
    return int(PARAMETERS[name] * dtype.itemsize + SHARED_PARAMETERS * side) + WORKING_BYTES


def installed(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def describe_machine(device: torch.device) -> list[str]:
    free, total = free_memory(device)
    kind = platform.processor() or platform.machine()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        kind = f"{torch.cuda.get_device_name(device)}, compute capability {major}.{minor}"
    return [
        f"sana-serve    {VERSION}",
        f"python        {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch         {torch.__version__}, CUDA {torch.version.cuda or 'no'}, {torch.cuda.device_count()} devices",
        f"triton        {installed('triton')}",
        f"transformers  {installed('transformers')}",
        f"device        {device} ({kind}), {torch.get_num_threads()} CPU threads",
        f"memory        {free / GIB:.1f} GiB free of {total / GIB:.1f} GiB",
        f"disk          {shutil.disk_usage(Path.home()).free / GIB:.1f} GiB free for downloads",
    ]


def describe_fit(dtype: torch.dtype, free: int) -> list[str]:
    lines = [f"fits          at 1024 px in {str(dtype).removeprefix('torch.')}:"]
    for name in PARAMETERS:
        need = needed(name, dtype)
        lines.append(f"  {'yes' if need <= free else 'no ':3} {name:24} needs {need / GIB:5.1f} GiB")
    return lines


def report(config: EngineConfig) -> None:
    """Prints what is known, most certain first. Raises SanaError when what was asked for is not to be had."""
    device = choose_device(config.device)
    print("\n".join(describe_machine(device)))
    dtype = choose_dtype(config.dtype, device, trained=None)
    print("\n".join(describe_fit(dtype, free_memory(device)[0])), flush=True)
    refuse_foreign_kernels()
    require_compiler(device)
    checkpoint = open_checkpoint(config.model, DTYPES.get(config.dtype))
    dtype = choose_dtype(config.dtype, device, checkpoint.trained_dtype)
    side = checkpoint.transformer.sample_size * checkpoint.decoder.compression
    print(f"model         {checkpoint.id}: {side} px, runs in {str(dtype).removeprefix('torch.')}")


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
