"""Guidance and one step of the solver, for latent tokens at any steps of any schedules.

output   = unconditional + guidance * (conditional - unconditional)           (arXiv 2207.12598)
denoised = data_latents * x + data_output * output
x_next   = x_scale * x + denoised_scale * denoised + change_scale * (denoised - old_denoised) + noise_scale * noise
"""

from typing import Generic, NamedTuple, TypeVar

import torch

from ._triton import tl, triton
from .dispatch import block_size, uses_kernels

ELEMENTS = 1024
"""Elements per program: a 1024 px image has 32,768 values, so larger programs would be too few for a GPU."""

Value = TypeVar("Value")


class Coefficients(NamedTuple, Generic[Value]):
    """Coefficients of one solver step, named as in the formula, in the order of the columns of the op's table."""

    data_latents: Value
    data_output: Value
    x_scale: Value
    denoised_scale: Value
    change_scale: Value
    noise_scale: Value


COLUMNS = tl.constexpr(len(Coefficients._fields))
# The columns of `Coefficients` once more, because a kernel can read a global only if it is a constexpr.
DATA_LATENTS, DATA_OUTPUT, X_SCALE, DENOISED_SCALE, CHANGE_SCALE, NOISE_SCALE = map(tl.constexpr, range(COLUMNS.value))


def guided_step(
    x: torch.Tensor,
    output: torch.Tensor,
    conditional: torch.Tensor,
    unconditional: torch.Tensor,
    guidance: torch.Tensor,
    old_denoised: torch.Tensor,
    noise: torch.Tensor | None,
    coefficients: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """One step of R latent tokens from the packed output of the transformer.

    Args:
        x, old_denoised, noise: fp32 [R, C]; noise may be None if its coefficients are 0.
        output: [T, C] in any dtype.
        conditional, unconditional: row of output for each token of x, int64 [R]; both the same without guidance.
        guidance: fp32 [R, 1].
        coefficients: fp32 [R, 6], columns of `Coefficients`.

    Returns:
        The next latents and the denoised estimate, fp32 [R, C].
    """
    if not uses_kernels(x):
        return guided_step_reference(x, output, conditional, unconditional, guidance, old_denoised, noise, coefficients)
    rows, width = x.shape
    x_next, denoised = torch.empty_like(x), torch.empty_like(x)
    block = block_size(width)
    _guided_step_kernel[(triton.cdiv(rows, max(1, ELEMENTS // block)),)](
        x=x,
        output=output,
        conditional=conditional,
        unconditional=unconditional,
        guidance=guidance,
        old_denoised=old_denoised,
        noise=noise,
        coefficients=coefficients,
        x_next=x_next,
        denoised=denoised,
        rows=rows,
        width=width,
        ROWS=max(1, ELEMENTS // block),
        BLOCK=block,
    )
    return x_next, denoised


def guided_step_reference(
    x: torch.Tensor,
    output: torch.Tensor,
    conditional: torch.Tensor,
    unconditional: torch.Tensor,
    guidance: torch.Tensor,
    old_denoised: torch.Tensor,
    noise: torch.Tensor | None,
    coefficients: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The op in plain torch; arguments and results as in `guided_step`."""
    output = output.float()
    guided = guide(output.index_select(0, conditional), output.index_select(0, unconditional), guidance)
    fresh = torch.zeros((), device=x.device) if noise is None else noise
    return solver_step(x, guided, old_denoised, fresh, coefficients)


def guide(conditional: torch.Tensor, unconditional: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Classifier-free guidance, u + g (c - u), with a scale that broadcasts over the outputs."""
    return unconditional + scale * (conditional - unconditional)


def solver_step(
    x: torch.Tensor, output: torch.Tensor, old_denoised: torch.Tensor, noise: torch.Tensor, coefficients: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """The step after guidance, for tokens at any steps of any schedules.

    Args:
        x, output, old_denoised, noise: fp32 [R, C]; the last two count only if their coefficient is not 0.
        coefficients: fp32 [R, 6], columns of `Coefficients` (or [1, 6] for all tokens).

    Returns:
        The next latents and the denoised estimate, fp32 [R, C].
    """
    a = Coefficients(*coefficients.split(1, dim=-1))  # [R, 1] each
    denoised = a.data_latents * x + a.data_output * output
    x_next = a.x_scale * x + a.denoised_scale * denoised
    x_next = x_next + a.change_scale * (denoised - old_denoised) + a.noise_scale * noise
    return x_next, denoised


@triton.jit(do_not_specialize=["rows"])
def _guided_step_kernel(
    x: tl.tensor,  # fp32 [rows, width], as old_denoised, noise, x_next and denoised
    output: tl.tensor,  # [T, width]
    conditional: tl.tensor,  # [rows], as unconditional and guidance
    unconditional: tl.tensor,
    guidance: tl.tensor,
    old_denoised: tl.tensor,
    noise: tl.tensor | None,
    coefficients: tl.tensor,  # fp32 [rows, 6]
    x_next: tl.tensor,
    denoised: tl.tensor,
    rows: int,
    width: int,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    # A row is one latent token. Its program gathers both of its outputs, which lie anywhere in the pack.
    row = (tl.program_id(0) * ROWS + tl.arange(0, ROWS)).to(tl.int64)[:, None]
    column = tl.arange(0, BLOCK)[None, :]
    row_mask = row < rows
    mask = row_mask & (column < width)
    offsets = row * width + column
    # The latents are fp32 whatever the dtype of the model: the rounding of each step would add up over a schedule.
    latents = tl.load(x + offsets, mask, 0.0)
    c = tl.load(output + tl.load(conditional + row, row_mask, 0) * width + column, mask, 0.0).to(tl.float32)
    u = tl.load(output + tl.load(unconditional + row, row_mask, 0) * width + column, mask, 0.0).to(tl.float32)
    guided = u + tl.load(guidance + row, row_mask, 0.0) * (c - u)
    step = coefficients + row * COLUMNS
    estimate = (
        tl.load(step + DATA_LATENTS, row_mask, 0.0) * latents + tl.load(step + DATA_OUTPUT, row_mask, 0.0) * guided
    )
    tl.store(denoised + offsets, estimate, mask)
    change = estimate - tl.load(old_denoised + offsets, mask, 0.0)
    result = tl.load(step + X_SCALE, row_mask, 0.0) * latents + tl.load(step + DENOISED_SCALE, row_mask, 0.0) * estimate
    result += tl.load(step + CHANGE_SCALE, row_mask, 0.0) * change
    if noise is not None:
        result += tl.load(step + NOISE_SCALE, row_mask, 0.0) * tl.load(noise + offsets, mask, 0.0)
    tl.store(x_next + offsets, result, mask)
