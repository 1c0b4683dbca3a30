"""Gemma-2 against transformers' eager one, whole and after a shared prefix; and its settings."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from transformers import Gemma2Model

from engine import CheckpointError
from engine.models.gemma2 import Gemma2, Gemma2Config, KeyValues

from ...reference import REL, relative_error
from ...text_models import gemma_encoder

VOCABULARY = 400


@pytest.fixture(scope="module")
def theirs() -> Gemma2Model:
    model = gemma_encoder(VOCABULARY, seed=3)
    model.set_attn_implementation("eager")  # the one with the soft-cap
    return model


@pytest.fixture(scope="module")
def ours(theirs: Gemma2Model) -> Gemma2:
    model = Gemma2(Gemma2Config.from_dict(theirs.config.to_dict()))
    model.load_state_dict(theirs.state_dict())
    return model.eval()


def texts(count: int, length: int) -> torch.Tensor:
    return torch.randint(VOCABULARY, (count, length), generator=torch.Generator().manual_seed(length))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_hidden_states_equal_transformers(dtype: torch.dtype, ours: Gemma2, theirs: Gemma2Model) -> None:
    tokens, rotary = texts(3, 70), theirs.rotary_emb
    pair = deepcopy(ours).to(dtype), deepcopy(theirs).to(dtype)
    pair[1].rotary_emb = rotary  # `from_pretrained` keeps its frequencies in fp32; `to` rounds them
    assert torch.equal(pair[0](tokens), pair[1](tokens).last_hidden_state)


@torch.inference_mode()
def test_texts_after_prefix_equal_whole_texts(ours: Gemma2) -> None:
    """A prefix of one text serves several, and may be cut short."""
    prefix, tails, layers = texts(1, 40), texts(3, 20), list[KeyValues]()
    ours(prefix, recorded=layers)
    for shared in (40, 25, 1):
        cut = [(keys[:, :, :shared], values[:, :, :shared]) for keys, values in layers]
        whole = ours(torch.cat([prefix[:, :shared].expand(3, -1), tails], dim=1))
        assert relative_error(ours(tails, cut), whole[:, shared:]) <= REL


@torch.inference_mode()
def test_later_tokens_change_no_earlier_ones(ours: Gemma2) -> None:
    tokens = texts(1, 48)
    changed = tokens.clone()
    changed[:, 30:] = 7
    assert torch.equal(ours(tokens)[:, :30], ours(changed)[:, :30])


@pytest.mark.parametrize(
    "rope",
    [dict(rope_theta=500.0, rope_scaling=None), dict(rope_parameters=dict(rope_theta=500.0, rope_type="default"))],
)
def test_config_rope_of_either_version_of_transformers(rope: dict[str, Any]) -> None:
    assert Gemma2Config.from_dict(dict(model_type="gemma2", head_dim=16) | rope) == Gemma2Config(
        head_dim=16, rope_theta=500.0
    )


@pytest.mark.parametrize(
    ("setting", "value", "wanted"),
    [
        ("model_type", "t5", "'gemma2'"),
        ("hidden_activation", "relu", "'gelu_pytorch_tanh'"),
        ("attention_bias", True, "False"),
        ("rope_parameters", dict(rope_type="yarn", factor=2.0), "'default'"),
        ("rope_scaling", dict(type="linear"), "None"),
        ("sliding_window", 100, "1024 or more"),
        ("hidden_size", "48", "a whole number"),
        ("num_hidden_layers", 0, "a whole number"),
    ],
)
def test_config_other_than_gemma_2_refused(setting: str, value: object, wanted: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^text_encoder/config.json: \w+ must be {wanted}"):
        Gemma2Config.from_dict({setting: value})
