"""Gemma-2 up to its last hidden states: SANA's text encoder. The language-model head is not computed.

Gemma 2 report, arXiv 2408.00118. Names of parameters follow the checkpoints, and results those of transformers'
Gemma2Model with eager attention.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from ..errors import CheckpointError
from .configs import check_numbers

FILE = "text_encoder/config.json"
MIN_WINDOW = 1024
"""Tokens: more than the instruction and a prompt can have, so that no layer's sliding window cuts any off."""
KeyValues = tuple[torch.Tensor, torch.Tensor]
"""Keys, rotated to their positions, and values of one layer: [N, heads, length, D] each."""


@dataclass(frozen=True)
class Gemma2Config:
    """Settings in text_encoder/config.json that change what is computed, with Gemma-2-2B's values as defaults."""

    vocab_size: int = 256_000
    hidden_size: int = 2304
    intermediate_size: int = 9216
    num_hidden_layers: int = 26
    num_attention_heads: int = 8
    num_key_value_heads: int = 4
    head_dim: int = 256
    rms_norm_eps: float = 1e-6
    query_pre_attn_scalar: int = 256
    attn_logit_softcapping: float | None = 50.0
    rope_theta: float = 10_000.0

    @classmethod
    def from_dict(cls, config: dict[str, Any]) -> "Gemma2Config":
        """Absent keys take the defaults. Raises CheckpointError for another model, or a variant that was not released.

        transformers 5 writes `rope_parameters`, and earlier versions `rope_theta` and `rope_scaling`.
        """
        rope = config.get("rope_parameters") or {}
        settings = config | {name: rope[name] for name in ("rope_theta", "rope_type") if name in rope}
        wanted = {
            "model_type": "gemma2",
            "hidden_activation": "gelu_pytorch_tanh",
            "attention_bias": False,
            "rope_type": "default",
            "rope_scaling": None,
            "use_bidirectional_attention": None,
        }
        for name, value in wanted.items():
            if settings.get(name, value) != value:
                got = settings[name]
                raise CheckpointError(f"{FILE}: {name} must be {value!r}, got {got!r}")
        window = settings.get("sliding_window")
        if window is not None and window < MIN_WINDOW:
            raise CheckpointError(f"{FILE}: sliding_window must be {MIN_WINDOW} or more, got {window}")
        fields = {name: settings[name] for name in cls.__dataclass_fields__ if name in settings}
        check_numbers(FILE, fields, {name: getattr(cls, name) for name in fields})
        return cls(**fields)


class RMSNorm(nn.Module):
    """RMS norm, scaled by 1 + weight, in fp32 and rounded once."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.eps = config.rms_norm_eps
        self.weight = nn.Parameter(torch.zeros(config.hidden_size))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        wide = x.float()
        wide = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return (wide * (1 + self.weight.float())).type_as(x)


class Attention(nn.Module):
    """Causal grouped-query attention whose logits are capped: a tanh bends them to at most +-50."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
        self.q_proj = nn.Linear(width, heads * config.head_dim, bias=False)
        self.k_proj = nn.Linear(width, groups * config.head_dim, bias=False)
        self.v_proj = nn.Linear(width, groups * config.head_dim, bias=False)
        self.o_proj = nn.Linear(heads * config.head_dim, width, bias=False)

    def forward(
        self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, prefix: KeyValues | None
    ) -> tuple[torch.Tensor, KeyValues]:
        """x [N, L, C] after the tokens of `prefix` to the output, [N, L, C], and all keys and values.

        Args:
            rotation: cosines and sines of the positions of x, [L, D] each.
            mask: to add to the logits, [L, prefix + L].
        """
        split = (-1, self.config.head_dim)
        query, key, value = (
            layer(x).unflatten(-1, split).transpose(1, 2) for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key = rotate(query, *rotation), rotate(key, *rotation)
        if prefix is not None:
            key, value = (
                torch.cat([shared.expand(len(x), -1, -1, -1), own], dim=2)
                for shared, own in zip(prefix, (key, value), strict=True)
            )
        repeats = self.config.num_attention_heads // self.config.num_key_value_heads
        keys, values = (part.repeat_interleave(repeats, dim=1) for part in (key, value))
        logits = query @ keys.transpose(2, 3) * self.config.query_pre_attn_scalar**-0.5
        if (cap := self.config.attn_logit_softcapping) is not None:
            logits = torch.tanh(logits / cap) * cap
        weights = torch.softmax(logits + mask, dim=-1, dtype=torch.float32).type_as(x)
        return self.o_proj((weights @ values).transpose(1, 2).flatten(2)), (key, value)


class MLP(nn.Module):
    """Linear layer gated by GELU, and back."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down_proj(F.gelu(self.gate_proj(x), approximate="tanh") * self.up_proj(x))


class Layer(nn.Module):
    """Attention and MLP, each between two norms and beside a residual."""

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config)
        self.post_attention_layernorm = RMSNorm(config)
        self.pre_feedforward_layernorm = RMSNorm(config)
        self.post_feedforward_layernorm = RMSNorm(config)

    def forward(
        self, x: torch.Tensor, rotation: tuple[torch.Tensor, torch.Tensor], mask: torch.Tensor, prefix: KeyValues | None
    ) -> tuple[torch.Tensor, KeyValues]:
        attended, keys_values = self.self_attn(self.input_layernorm(x), rotation, mask, prefix)
        x = x + self.post_attention_layernorm(attended)
        return x + self.post_feedforward_layernorm(self.mlp(self.pre_feedforward_layernorm(x))), keys_values


class Gemma2(nn.Module):
    """Token ids to last hidden states. It has no buffers, so that it can be built on the meta device and filled.

    No network here starts with normal noise: on the meta device, torch would import its compiler for that (1.9 s).
    """

    def __init__(self, config: Gemma2Config) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding.from_pretrained(torch.zeros(config.vocab_size, config.hidden_size))
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config)

    def forward(
        self, tokens: torch.Tensor, prefix: Sequence[KeyValues] = (), recorded: list[KeyValues] | None = None
    ) -> torch.Tensor:
        """Token ids, int64 [N, L], to last hidden states [N, L, C]. Reads nothing back to the host.

        Args:
            prefix: keys and values per layer of tokens that come before those of every text, with N = 1.
            recorded: list to which each layer's keys and values are appended, those of the prefix included; without
                it they are released after their layer.
        """
        length, before = tokens.shape[1], prefix[0][0].shape[2] if prefix else 0
        embedding = self.embed_tokens.weight
        rotation = rotations(torch.arange(before, before + length, device=tokens.device), self.config, embedding.dtype)
        future = tokens.new_ones(length, before + length, dtype=torch.bool).triu(before + 1)
        mask = torch.zeros_like(future, dtype=embedding.dtype).masked_fill(future, torch.finfo(embedding.dtype).min)
        # The scale is rounded to the dtype of the weights, as in training.
        x = self.embed_tokens(tokens) * embedding.new_full((), self.config.hidden_size**0.5)
        for i, layer in enumerate(self.layers):
            x, keys_values = layer(x, rotation, mask, prefix[i] if prefix else None)
            if recorded is not None:
                recorded.append(keys_values)
        return self.norm(x)


def rotations(positions: torch.Tensor, config: Gemma2Config, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """Cosines and sines of the rotary embedding (arXiv 2104.09864) at positions [L], [L, head_dim] each."""
    even = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=positions.device)
    angles = positions[:, None].float() * (1.0 / config.rope_theta ** (even / config.head_dim))
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def rotate(x: torch.Tensor, cosines: torch.Tensor, sines: torch.Tensor) -> torch.Tensor:
    """x [..., L, D] with the pairs (i, i + D / 2) of each vector rotated to its position."""
    left, right = x.chunk(2, dim=-1)
    return x * cosines + torch.cat([-right, left], dim=-1) * sines
