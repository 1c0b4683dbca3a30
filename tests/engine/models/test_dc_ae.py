"""DC-AE against diffusers' AutoencoderDC, and decoding in bands against decoding at once."""

from functools import cache

import pytest
import torch
from diffusers import AutoencoderDC

from engine import CheckpointError
from engine.models import dc_ae_blocks
from engine.models.configs import DCAEConfig
from engine.models.dc_ae import DCAEDecoder, DCAEEncoder, local_stages

from ...checkpoints import DC_AE, LITE, SHUFFLED, random_autoencoder
from ...reference import REL, relative_error

AUTOENCODERS = {"dc-ae": DC_AE, "shuffled": SHUFFLED, "lite": LITE}
SIZES = [(1, 1), (4, 4), (2, 7), (9, 1), (5, 3)]


@cache
def models(name: str) -> tuple[AutoencoderDC, DCAEDecoder]:
    theirs = random_autoencoder(AUTOENCODERS[name], seed=1)
    decoder = DCAEDecoder(DCAEConfig.from_dict(dict(theirs.config))).eval()
    decoder.load_state_dict(theirs.decoder.state_dict())
    return theirs, decoder


def random_latents(size: tuple[int, int], n: int = 1) -> torch.Tensor:
    return 2.4 * torch.randn(n, 32, *size, generator=torch.Generator().manual_seed(sum(size)))


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_decoder_equals_diffusers(name: str, size: tuple[int, int]) -> None:
    theirs, ours = models(name)
    latents = random_latents(size, n=2)
    expected = theirs.decode(latents).sample
    assert expected.std() > 0.2
    assert relative_error(ours(latents), expected) <= REL


@torch.inference_mode()
def test_decoder_frozen_equals_unfrozen() -> None:
    theirs, trained = models("dc-ae")
    frozen = DCAEDecoder(DCAEConfig.from_dict(dict(theirs.config))).eval()
    frozen.load_state_dict(theirs.decoder.state_dict())
    frozen.freeze()
    blocks = [module for module in frozen.modules() if isinstance(module, dc_ae_blocks.UpBlock)]
    assert [block.phases is not None for block in blocks] == [True] * 5
    latents = random_latents((5, 3), n=2)
    assert relative_error(frozen(latents), trained(latents)) <= REL


def encoder_of(name: str) -> DCAEEncoder:
    theirs = models(name)[0]
    encoder = DCAEEncoder(DCAEConfig.from_dict(dict(theirs.config))).eval()
    encoder.load_state_dict(theirs.encoder.state_dict())
    return encoder


def random_pixels(height: int, width: int, n: int = 1) -> torch.Tensor:
    return torch.randn(n, 3, height, width, generator=torch.Generator().manual_seed(height))


@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_encoder_equals_diffusers(name: str) -> None:
    pixels = random_pixels(96, 64, n=2)
    assert relative_error(encoder_of(name)(pixels), models(name)[0].encode(pixels).latent) <= REL


@pytest.mark.parametrize("band_elements", [1, 2**16, 2**28])
@pytest.mark.parametrize("size", [(288, 64), (128, 96), (32, 160)], ids=str)
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_encoder_bands_equal_forward(name: str, size: tuple[int, int], band_elements: int) -> None:
    encoder, pixels = encoder_of(name), random_pixels(*size)
    whole = encoder(pixels)
    bands: list[torch.Tensor] = []
    encoder.conv_in.register_forward_hook(lambda conv, inputs, output: bands.append(output))
    latents = encoder.in_bands(pixels, band_elements)
    assert len(bands) == {1: size[0] // 2**encoder.local_stages, 2**28: 1}.get(band_elements, len(bands))
    assert relative_error(latents, whole) <= 1e-6


@torch.inference_mode()
def test_encoder_halo_is_as_small_as_possible() -> None:
    """One row less changes the latents, so that the comparison above would find a halo that is too small."""
    encoder, pixels = encoder_of("dc-ae"), random_pixels(288, 64)
    encoder.halo -= 1
    assert relative_error(encoder.in_bands(pixels, 1), encoder(pixels)) > 1e-6


@pytest.mark.parametrize("band_elements", [1, 2**15, 2**18])
@pytest.mark.parametrize("size", [(9, 2), (4, 4), (1, 3)], ids=str)
@pytest.mark.parametrize("name", AUTOENCODERS)
@torch.inference_mode()
def test_decoder_bands_equal_forward(name: str, size: tuple[int, int], band_elements: int) -> None:
    decoder = models(name)[1]
    latents = random_latents(size)
    whole = decoder(latents)
    bands = list(decoder.bands(latents, band_elements))
    joined = torch.cat([pixels for _, pixels in bands], dim=2)
    assert [rows.start for rows, _ in bands] == [0, *(rows.stop for rows, _ in bands[:-1])]
    assert all(pixels.shape[2] == rows.stop - rows.start for rows, pixels in bands)
    assert joined.shape == whole.shape
    if band_elements == 1:
        assert len(bands) == decoder.deep(latents).shape[2]  # one row per band
    assert relative_error(joined, whole) <= 1e-6
    assert (joined - whole).abs().max() <= 1e-4 * whole.abs().max()


@pytest.mark.parametrize(("name", "local"), [("dc-ae", 3), ("shuffled", 3), ("lite", 5)])
def test_local_stages_are_those_before_attention(name: str, local: int) -> None:
    assert local_stages(DCAEConfig.from_dict(AUTOENCODERS[name]).decoder) == local


@pytest.mark.parametrize("elements", [1, 20_000])
@torch.inference_mode()
def test_feed_forward_bands_equal_forward(elements: int, monkeypatch: pytest.MonkeyPatch) -> None:
    decoder = models("dc-ae")[1]
    latents = random_latents((5, 3))
    whole = decoder(latents)
    monkeypatch.setattr(dc_ae_blocks, "FFN_BAND_ELEMENTS", elements)
    assert relative_error(decoder(latents), whole) <= 1e-6


@torch.inference_mode()
def test_layouts_belong_to_one_decoder_and_are_bounded() -> None:
    """A layout that is read again is kept while older ones are evicted."""
    theirs, other = models("dc-ae")
    decoder = DCAEDecoder(DCAEConfig.from_dict(dict(theirs.config))).eval()
    decoder.load_state_dict(theirs.decoder.state_dict())
    other.layouts.clear()
    decoder(random_latents((2, 3)))
    first = decoder.layouts.layouts
    assert [layout.sizes for layout in first] == [((2, 3),), ((4, 6),), ((8, 12),)]
    assert other.layouts.layouts == ()
    for width in range(1, dc_ae_blocks.MAX_LAYOUTS):
        decoder.layouts.layout_of(torch.empty(1, 1, width, 16))
        assert decoder.layouts.layout_of(torch.empty(1, 2, 3, 64)) is first[0]
    kept = decoder.layouts.layouts
    assert len(kept) == dc_ae_blocks.MAX_LAYOUTS
    assert {id(layout) for layout in first} & set(map(id, kept)) == {id(first[0])}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("decoder_norm_types", "batch_norm"), ("decoder_block_types", "Mamba"), ("decoder_conv_act_fn", "snake")],
)
def test_decoder_config_unsupported_is_refused_by_name(setting: str, value: str) -> None:
    with pytest.raises(CheckpointError, match=value):
        DCAEDecoder(DCAEConfig.from_dict(DC_AE | {setting: value}))


def test_decoder_config_absent_keys_take_diffusers_defaults() -> None:
    """The released DC-AE's config.json omits several."""
    with torch.device("meta"):
        theirs = AutoencoderDC()
        ours = DCAEDecoder(DCAEConfig.from_dict({}))
    shapes = {key: tensor.shape for key, tensor in theirs.decoder.state_dict().items()}
    assert {key: tensor.shape for key, tensor in ours.state_dict().items()} == shapes
    assert DCAEConfig.from_dict({}).compression == theirs.spatial_compression_ratio == 32
