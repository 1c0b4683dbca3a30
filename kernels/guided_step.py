"""Guidance and one step of the solver, for latent tokens at any steps of any schedules.

output   = unconditional + guidance * (conditional - unconditional)           (arXiv 2207.12598)
denoised = data_latents * x + data_output * output
x_next   = x_scale * x + denoised_scale * denoised + change_scale * (denoised - old_denoised) + noise_scale * noise
"""

import torch
import triton
import triton.language as tl

from .dispatch import block_size, uses_kernels

ELEMENTS = 1024
"""Elements per program: a 1024 px image has 32,768 values, so larger programs would be too few for a GPU."""


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
        coefficients: fp32 [R, 6], in the order of the formula.

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
    guided = guide(output[conditional], output[unconditional], guidance)
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
        coefficients: fp32 [R, 6] (or [1, 6] for all rows).

    Returns:
        The next latents and the denoised estimate, fp32 [R, C].
    """
    data_latents, data_output, x_scale, denoised_scale, change_scale, noise_scale = coefficients.split(1, dim=-1)
    denoised = data_latents * x + data_output * output
    x_next = x_scale * x + denoised_scale * denoised + change_scale * (denoised - old_denoised) + noise_scale * noise
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
    there = row < rows
    mask = there & (column < width)
    place = row * width + column
    # The latents are fp32 whatever the dtype of the model: the rounding of each step would add up over a schedule.
    latents = tl.load(x + place, mask, 0.0)
    c = tl.load(output + tl.load(conditional + row, there, 0) * width + column, mask, 0.0).to(tl.float32)
    u = tl.load(output + tl.load(unconditional + row, there, 0) * width + column, mask, 0.0).to(tl.float32)
    guided = u + tl.load(guidance + row, there, 0.0) * (c - u)
    own = coefficients + row * 6
    estimate = tl.load(own, there, 0.0) * latents + tl.load(own + 1, there, 0.0) * guided
    tl.store(denoised + place, estimate, mask)
    change = estimate - tl.load(old_denoised + place, mask, 0.0)
    result = tl.load(own + 2, there, 0.0) * latents + tl.load(own + 3, there, 0.0) * estimate
    result += tl.load(own + 4, there, 0.0) * change
    if noise is not None:
        result += tl.load(own + 5, there, 0.0) * tl.load(noise + place, mask, 0.0)
    tl.store(x_next + place, result, mask)
