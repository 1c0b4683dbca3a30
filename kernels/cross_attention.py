"""Cross-attention of packed image tokens to packed text: softmax(q k^T / sqrt(D)) v, each image to its own text only.

No padding token exists, so no mask does either.
"""

import torch
import torch.nn.functional as F

from .layout import TokenLayout


def cross_attention_reference(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, layout: TokenLayout) -> torch.Tensor:
    """q: [layout.attended, heads, D]; k, v: [S, heads, D], all texts. Returns [layout.attended, heads, D]."""
    outputs = []
    for run in layout.text_runs:
        queries = q[run.tokens].unflatten(0, (len(run.texts), -1)).transpose(1, 2)  # [n, heads, t, D]
        keys, values = run.gather(k).transpose(1, 2), run.gather(v).transpose(1, 2)
        outputs.append(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(0, 1))
    if not outputs:
        return q
    return torch.cat(outputs) if len(outputs) > 1 else outputs[0]
