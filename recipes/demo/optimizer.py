"""Muon for matrices, AdamW for the rest: about half the steps of AdamW alone, which matters on a CPU budget.

Muon (Keller Jordan, 2024): momentum, then the nearest semi-orthogonal matrix by a quintic Newton-Schulz iteration.
torch.optim.Muon is not used. It refuses convolution weights, 15 of the transformer's 76 matrices, and it iterates in
bf16, which a CPU without bf16 instructions emulates: 90 ms a step for one 192 x 192 matrix, 5.5 ms here.
"""

import math
from collections import defaultdict
from collections.abc import Iterable

import torch
from torch import nn

from .precision import matrix_dtype

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)


def orthogonalized(matrices: torch.Tensor, steps: int = 5) -> torch.Tensor:
    """Matrices [B, m, n] with their singular values moved close to 1."""
    a, b, c = NEWTON_SCHULZ
    tall = matrices.shape[-2] > matrices.shape[-1]
    x = matrices.mT if tall else matrices
    x = x / (x.norm(dim=(-2, -1), keepdim=True) + 1e-7)
    for _ in range(steps):
        gram = x @ x.mT
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.mT if tall else x


def is_matrix(name: str, parameter: nn.Parameter) -> bool:
    """True for weights of dense layers and full convolutions, which Muon trains; false for embeddings and norms."""
    if parameter.ndim < 2 or "embed_tokens" in name or "scale_shift_table" in name or "proj_out.weight" in name:
        return False
    return min(parameter.flatten(1).shape) >= 12


def _grad(parameter: nn.Parameter) -> torch.Tensor:
    if parameter.grad is None:
        raise ValueError("the parameter must have a gradient, got None")
    return parameter.grad


class Muon(torch.optim.Optimizer):
    """Two parameter groups: Muon with decoupled weight decay, and Adam, each with a learning rate."""

    def __init__(self, named: Iterable[tuple[str, nn.Parameter]], lr: float, adam_lr: float, decay: float) -> None:
        matrices: list[nn.Parameter] = []
        others: list[nn.Parameter] = []
        for name, parameter in named:
            (matrices if is_matrix(name, parameter) else others).append(parameter)
        groups = [
            {"params": matrices, "muon": True, "lr": lr, "base_lr": lr, "decay": decay},
            {"params": others, "muon": False, "lr": adam_lr, "base_lr": adam_lr, "decay": 0.0},
        ]
        super().__init__(groups, {})

    def set_scale(self, scale: float) -> None:
        """Sets the learning rate of each group to `scale` times its base rate."""
        for group in self.param_groups:
            group["lr"] = group["base_lr"] * scale

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            live = [p for p in group["params"] if p.grad is not None]
            if group["muon"]:
                self._muon(live, group["lr"], group["decay"])
            else:
                self._adam(live, group["lr"])

    def _muon(self, parameters: list[nn.Parameter], lr: float, decay: float, momentum: float = 0.95) -> None:
        shapes: dict[tuple[int, ...], list[nn.Parameter]] = defaultdict(list)
        for p in parameters:
            state = self.state[p]
            if not state:
                state["momentum"] = torch.zeros_like(p)
            state["momentum"].lerp_(p.grad, 1 - momentum)
            shapes[tuple(p.flatten(1).shape)].append(p)
        for (rows, columns), members in shapes.items():
            updates = [torch.lerp(_grad(p), self.state[p]["momentum"], momentum).flatten(1) for p in members]
            steps = orthogonalized(torch.stack(updates).to(matrix_dtype(updates[0].device))).float()
            size = lr * 0.2 * math.sqrt(max(rows, columns))  # the RMS of an AdamW step, so rates carry over
            for p, step in zip(members, steps, strict=True):
                p.mul_(1 - lr * decay).add_(step.view(p.shape), alpha=-size)

    def _adam(self, parameters: list[nn.Parameter], lr: float, b1: float = 0.9, b2: float = 0.95) -> None:
        for p in parameters:
            state = self.state[p]
            if not state:
                state.update(mean=torch.zeros_like(p), square=torch.zeros_like(p), count=0)
            state["count"] += 1
            state["mean"].lerp_(p.grad, 1 - b1)
            state["square"].mul_(b2).addcmul_(p.grad, p.grad, value=1 - b2)
            scale = math.sqrt(1 - b2 ** state["count"]) / (1 - b1 ** state["count"])
            p.addcdiv_(state["mean"], state["square"].sqrt().add_(1e-8), value=-lr * scale)


def schedule(progress: float, warm_up: float = 0.03, floor: float = 0.02) -> float:
    """Linear warm-up, flat to 30 % of the run, cosine down to `floor`; progress in 0..1."""
    if progress < warm_up:
        return max(progress / warm_up, 0.01)
    tail = min(max((progress - 0.3) / 0.7, 0.0), 1.0)
    return floor + (1 - floor) * 0.5 * (1 + math.cos(math.pi * tail))
