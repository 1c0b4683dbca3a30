"""The transformer against diffusers' on single images, and packed images against single ones."""

import inspect
from functools import cache
from itertools import pairwise

import pytest
import torch
from diffusers import SanaTransformer2DModel

from engine import CheckpointError
from engine.models.configs import SanaConfig
from engine.models.sana import PackedText, SanaTransformer
from kernels.layout import TokenLayout

from ...checkpoints import FAMILIES, TRANSFORMER, random_transformer
from ...reference import REL, relative_error

CPU = torch.device("cpu")
CASES = [  # latent size, timestep of 0 to 1000, text tokens, guidance (for Sprint)
    ((4, 4), 999.0, 7, 4.5),
    ((1, 1), 136.0, 1, 1.0),
    ((3, 7), 500.0, 300, 0.0),
    ((8, 2), 1.0, 2, 7.5),
    ((13, 11), 707.0, 31, 2.0),
]


@cache
def models(name: str) -> tuple[SanaTransformer2DModel, SanaTransformer]:
    family = FAMILIES[name]
    theirs = random_transformer(family.transformer, seed=1)
    ours = SanaTransformer(SanaConfig.from_dict(dict(theirs.config))).eval()
    ours.load_state_dict(theirs.state_dict())
    return theirs, ours


def inputs(case: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Latents [1, 32, h, w] and text [1, S, channels]."""
    (height, width), _, length, _ = CASES[case]
    generator = torch.Generator().manual_seed(case)
    latents = torch.randn(1, 32, height, width, generator=generator)
    return latents, torch.randn(1, length, TRANSFORMER["caption_channels"], generator=generator)


def time_and_guidance(name: str, case: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Inputs as the pipelines pass them: Sprint's time is from 0 to 1 and its guidance is scaled by 0.1."""
    _, time, _, guidance = CASES[case]
    if FAMILIES[name].sprint:
        return torch.tensor([time / 1000]), torch.tensor([guidance * 0.1])
    return torch.tensor([time]), None


@torch.inference_mode()
def run_theirs(name: str, case: int, padding: int = 0) -> torch.Tensor:
    """Output tokens [h * w, 32]."""
    latents, text = inputs(case)
    time, guidance = time_and_guidance(name, case)
    mask = torch.ones(1, text.shape[1] + padding, dtype=torch.int64)
    mask[:, text.shape[1] :] = 0
    padded = torch.cat([text, torch.full((1, padding, text.shape[2]), 3.0)], dim=1)
    out = models(name)[0](latents, padded, time, guidance=guidance, encoder_attention_mask=mask, return_dict=False)[0]
    return out[0].flatten(1).T


@torch.inference_mode()
def run_ours(name: str, cases: list[int]) -> list[torch.Tensor]:
    """Output tokens of each case, from one pack; cases with one text token must come last."""
    ours = models(name)[1]
    tokens, texts, times, guidances, borders = [], [], [], [], [0]
    for case in cases:
        latents, text = inputs(case)
        time, guidance = time_and_guidance(name, case)
        tokens.append(latents[0].flatten(1).T)
        texts.append(ours.project_text(text[0]))
        times.append(time)
        guidances.append(guidance)
        borders.append(borders[-1] + text.shape[1])
    sizes = tuple(CASES[case][0] for case in cases)
    layout = TokenLayout(sizes, tuple(pairwise(borders)), CPU)
    guidance = torch.cat(guidances) if FAMILIES[name].sprint else None
    out = ours(torch.cat(tokens), layout, torch.cat(times), PackedText.cat(texts), guidance)
    return list(out.split([h * w for h, w in sizes]))


@pytest.mark.parametrize("case", range(len(CASES)))
@pytest.mark.parametrize("name", FAMILIES)
def test_transformer_equals_diffusers(name: str, case: int) -> None:
    expected = run_theirs(name, case)
    assert expected.std() > 0.3  # else the comparison says little
    assert relative_error(run_ours(name, [case])[0], expected) <= REL


@pytest.mark.parametrize("name", FAMILIES)
def test_text_without_padding_equals_masked_padding(name: str) -> None:
    assert relative_error(run_ours(name, [0])[0], run_theirs(name, 0, padding=20)) <= REL


@pytest.mark.parametrize("order", [[0, 2, 3, 4, 1], [4, 4, 0, 1, 1], [3, 0], [1]], ids=str)
@pytest.mark.parametrize("name", FAMILIES)
def test_packed_images_equal_single_ones(name: str, order: list[int]) -> None:
    for case, packed in zip(order, run_ours(name, order), strict=True):
        assert relative_error(packed, run_ours(name, [case])[0]) <= REL


@pytest.mark.parametrize("name", ["sana-2k", "sana-4k"])
def test_positions_equal_those_stored_by_diffusers(name: str) -> None:
    theirs, ours = models(name)
    side = theirs.config.sample_size
    layout = TokenLayout(((4, 4), (side, side), (4, 4)), ((0, 2), (2, 4), (0, 2)), CPU)
    first, stored, last = ours.positions(layout).split((16, side * side, 16))
    assert relative_error(stored, theirs.patch_embed.pos_embed[0]) <= REL
    assert torch.equal(first, last)


def test_reference_depends_on_time_text_and_guidance() -> None:
    """So parity could not pass with a model that ignores an input."""
    for name in ("sana-1.0", "sana-sprint"):
        latents, text = inputs(0)
        time, guidance = time_and_guidance(name, 0)
        arguments = {"encoder_hidden_states": text, "timestep": time, "guidance": guidance}
        changes = {"encoder_hidden_states": text.flip(2), "timestep": time / 2}
        if guidance is not None:
            changes["guidance"] = guidance * 3
        with torch.inference_mode():
            base = models(name)[0](latents, **arguments).sample
            for key, value in changes.items():
                changed = models(name)[0](latents, **(arguments | {key: value})).sample
                assert relative_error(changed, base) > 100 * REL, key


@pytest.mark.parametrize(
    ("setting", "value"),
    [("patch_size", 2), ("out_channels", 64), ("cross_attention_dim", 65), ("qk_norm", "layer_norm")],
)
def test_config_unsupported_is_refused_by_name(setting: str, value: object) -> None:
    with pytest.raises(CheckpointError, match=f"{setting} must be .*got {value!r}"):
        SanaConfig.from_dict(dict(random_transformer({}, 0).config) | {setting: value})


def test_config_absent_keys_take_diffusers_defaults() -> None:
    ours = SanaConfig.from_dict({})
    theirs = inspect.signature(SanaTransformer2DModel.__init__).parameters
    for name in SanaConfig.__dataclass_fields__.keys() & theirs.keys():
        assert getattr(ours, name) == theirs[name].default, name


@pytest.mark.parametrize("name", FAMILIES)
def test_qkv_in_one_product_equals_three(name: str) -> None:
    """Packed as on a GPU: the same values under the same names, in one tensor."""
    theirs, ours = models(name)
    packed = SanaTransformer(ours.config).eval()
    packed.load_state_dict(theirs.state_dict())
    packed.pack()
    attention, state = packed.blocks[0].attn1, packed.state_dict()
    assert attention.to_k.weight.untyped_storage().data_ptr() == attention.to_qkv.weight.untyped_storage().data_ptr()
    assert all(torch.equal(state[key], weight) for key, weight in theirs.state_dict().items())
    x, layout = torch.randn(17, ours.config.width), TokenLayout(((3, 4), (5, 1)), ((0, 2), (2, 3)), CPU)
    with torch.inference_mode():
        out, expected = (model.blocks[0].attn1.self_attention(x, layout) for model in (packed, ours))
    assert relative_error(out, expected) <= REL
