"""ReLU linear attention: one [D, D] state per image and head instead of a T x T matrix (SANA, section 2.2).

out_t = (sum_s v_s relu(k_s)^T) relu(q_t) / (sum_s relu(k_s) . relu(q_t) + 1e-15), state in fp32.
"""

import torch

from .layout import TokenLayout

EPS = 1e-15


def linear_attention_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """q, k, v: [T, heads, D] before the ReLU. Returns [T, heads, D] in the dtype of v."""
    outputs = [
        relu_attention_state(*(x[run.tokens].unflatten(0, (run.count, -1)).transpose(1, 2) for x in (q, k, v)))
        .transpose(1, 2)
        .flatten(0, 1)
        for run in layout.runs
    ]
    return torch.cat(outputs).to(v.dtype) if len(outputs) > 1 else outputs[0].to(v.dtype)


def relu_attention_state(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
    """The formula on dense batches: q, k, v [..., t, D]. Returns fp32 [..., t, D]."""
    q, k, v = torch.relu(q).float(), torch.relu(k).float(), v.float()
    state = k.transpose(-1, -2) @ v  # [..., D, D]
    normaliser = q @ k.sum(-2).unsqueeze(-1)  # [..., t, 1]
    return (q @ state) / (normaliser + EPS)
