"""The transformer's dtype: what `--dtype` names, or for `auto` the fastest that the device computes well."""

from dataclasses import dataclass

import torch

from kernels.onednn import CPU_BFLOAT16, bfloat16_instructions

from ..errors import CheckpointError, DeviceError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
MIN_BFLOAT16_WIDTH = 512
"""Width from which bfloat16 is worth it on a CPU. At the demo's 192 an image took 0.37 s instead of 0.30 (two cores of
a Xeon with AMX, 2026-11-27), and float32 has the same bytes in a batch and alone."""


@dataclass(frozen=True)
class DtypeChoice:
    """A dtype, and the reason for it as the log, `sana doctor` and GET /v1/models show it."""

    dtype: torch.dtype
    reason: str

    @property
    def name(self) -> str:
        return str(self.dtype).removeprefix("torch.")


def choose_dtype(name: str, device: torch.device, trained: torch.dtype | None, width: int) -> DtypeChoice:
    """The transformer's dtype. `auto` is that of the training on CUDA, and on a CPU bfloat16 where it is faster.

    Raises DeviceError for an unknown name, and CheckpointError for float16 where the checkpoint overflows in it.

    Args:
        trained: dtype of the training, if it is known.
        width: width of the transformer.
    """
    if name == "auto":
        return automatic_dtype(device, trained, width)
    if name not in DTYPES:
        raise DeviceError(f"dtype must be auto, {' or '.join(DTYPES)}, got {name!r}")
    if name == "float16" and trained == torch.bfloat16:
        raise CheckpointError(
            "--dtype must be bfloat16 or float32 for this checkpoint, got float16: it was trained in bfloat16 and "
            "overflows in float16"
        )
    return DtypeChoice(DTYPES[name], "as --dtype says")


def automatic_dtype(device: torch.device, trained: torch.dtype | None, width: int) -> DtypeChoice:
    """The dtype that `auto` stands for."""
    if device.type == "cuda":
        return DtypeChoice(trained or torch.bfloat16, "the dtype of the training" if trained else "the default on CUDA")
    if device.type != "cpu":
        return DtypeChoice(torch.float32, f"the default on {device.type}")
    found = bfloat16_instructions()
    if found is None:
        return DtypeChoice(torch.float32, f"this CPU has none of {', '.join(CPU_BFLOAT16)}")
    if width < MIN_BFLOAT16_WIDTH:
        return DtypeChoice(torch.float32, f"bfloat16 is slower at a width of {width}")
    return DtypeChoice(torch.bfloat16, f"this CPU has {found}")
