"""Networks with weights in oneDNN's layout compute what they computed before."""

import copy

import pytest
import torch

from engine.models.configs import DCAEConfig, SanaConfig
from engine.models.dc_ae import DCAEDecoder
from engine.models.reorder import reorder_autoencoder, reorder_transformer
from engine.models.sana import SanaTransformer
from kernels.layout import TokenLayout

from ...checkpoints import DC_AE, LITE, SHUFFLED, random_autoencoder
from ...reference import REL, relative_error

AUTOENCODERS = {"dc-ae": DC_AE, "shuffled": SHUFFLED, "lite": LITE}
CONFIG = SanaConfig(
    num_attention_heads=4, attention_head_dim=16, num_layers=2, num_cross_attention_heads=2, cross_attention_head_dim=32
)


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_reordered_decoder_equals_plain(name: str) -> None:
    theirs = random_autoencoder(AUTOENCODERS[name], seed=1)
    plain = DCAEDecoder(DCAEConfig.from_dict(dict(theirs.config))).eval()
    plain.load_state_dict(theirs.decoder.state_dict())
    reordered = copy.deepcopy(plain)
    reordered.freeze()
    reorder_autoencoder(reordered)
    for size in ((1, 1), (5, 3)):
        latents = torch.randn(1, 32, *size)
        assert relative_error(reordered(latents), plain(latents)) <= REL


@pytest.mark.parametrize("packed", [False, True])
@torch.inference_mode()
def test_reordered_transformer_equals_plain(packed: bool) -> None:
    plain = SanaTransformer(CONFIG).eval()
    reordered = copy.deepcopy(plain)
    if packed:
        reordered.pack()
    reorder_transformer(reordered)
    sizes, texts = ((3, 5), (3, 5), (2, 1), (4, 4)), ((0, 4), (4, 7), (7, 9), (9, 10))
    layout = TokenLayout(sizes, texts, torch.device("cpu"))
    text = plain.project_text(torch.randn(10, CONFIG.caption_channels))
    text = type(text)(text.keys, text.values, text.first.expand(-1, len(sizes), -1))
    tokens, times = torch.randn(layout.total, CONFIG.in_channels), torch.tensor([999.0, 20.0, 500.0, 3.0])
    assert relative_error(reordered(tokens, layout, times, text), plain(tokens, layout, times, text)) <= REL
