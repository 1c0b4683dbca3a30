"""Prompt embeddings against diffusers' unmasked ones."""

from collections.abc import Callable

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from engine.models.sana import PackedText
from engine.prompts import COMPLEX_HUMAN_INSTRUCTION, MAX_TOKENS, PromptCache, PromptEncoder, clean

from ..reference import REL, relative_error

Reference = Callable[[str], SanaPipeline | SanaSprintPipeline]
PROMPTS = {
    "no merge across the border": "zebra",
    "two tokens change at the border": "a red circle left of a blue square",
    "the last token grows": "xylophone on a table",
    "a new line follows": "\n\nstreet",  # stripped
    "case": "A CAT Sleeping",
    "spaces": "  a \t cat   ",
    "unicode": "Ein Kätzchen 猫 🐱 на столе e\u0301",
    "special tokens in the text": "<eos> cat <bos><pad>",
    "the instruction again": COMPLEX_HUMAN_INSTRUCTION,
    "empty": "",
    "blank": " \n ",
    "one token": "a",
    "297 tokens": "z" * 297,
    "298 tokens": "z" * 298,
    "299 tokens": "z" * 299,
    "truncated": "a cat on a red table under glowing street lamps, " * 200,
    "truncated inside a character": "猫" * 200,
}


@pytest.fixture(scope="module")
def encoder(reference: Reference) -> PromptEncoder:
    pipeline = reference("sana-1.0")
    with torch.inference_mode():
        return PromptEncoder(pipeline.text_encoder, pipeline.tokenizer)


def theirs(
    pipeline: SanaPipeline | SanaSprintPipeline, prompt: str, negative: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' embeddings of both, without the rows its masks hide."""
    with torch.inference_mode():
        embeds, mask, negative_embeds, negative_mask = pipeline.encode_prompt(
            prompt,
            True,
            negative_prompt=negative,
            complex_human_instruction=COMPLEX_HUMAN_INSTRUCTION.split("\n"),
        )
    return embeds[0][mask[0].bool()], negative_embeds[0][negative_mask[0].bool()]


def test_the_instruction_is_that_of_diffusers() -> None:
    import inspect

    for pipeline in (SanaPipeline, SanaSprintPipeline):
        default = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        assert "\n".join(default) == COMPLEX_HUMAN_INSTRUCTION


def test_the_tokenizer_of_these_tests_has_the_traps(reference: Reference) -> None:
    tokenizer = reference("sana-1.0").tokenizer
    alone = tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION)
    assert tokenizer.convert_ids_to_tokens(alone)[-2:] == ["▁Prompt", ":▁"]

    def shared(prompt: str) -> int:
        joined = tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION + prompt)
        return next(i for i, (a, b) in enumerate(zip(joined, alone, strict=False)) if a != b) - len(alone)

    assert shared("a cat") == -2
    assert shared("xylophone") == -1
    assert tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION + "zebra")[: len(alone)] == alone
    assert len(tokenizer.encode("z" * 298)) == 299  # <bos> and one token per letter
    assert tokenizer.encode("") == [2]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS.keys())
@torch.inference_mode()
def test_embeddings_equal_the_unmasked_ones_of_diffusers(
    encoder: PromptEncoder, reference: Reference, prompt: str
) -> None:
    expected, expected_negative = theirs(reference("sana-1.0"), prompt, prompt)
    positive, negative = encoder.encode(prompt), encoder.encode_negative(prompt)
    assert positive.shape == expected.shape
    assert negative.shape == expected_negative.shape
    assert relative_error(positive, expected) <= REL
    assert relative_error(negative, expected_negative) <= REL


@torch.inference_mode()
def test_counts_of_rows(encoder: PromptEncoder) -> None:
    """<bos>, the last token of the instruction, and at most 298 of the prompt; 300 without the instruction."""
    assert len(encoder.encode("z" * 298)) == MAX_TOKENS == len(encoder.encode("z" * 5000))
    assert len(encoder.encode("z" * 297)) == MAX_TOKENS - 1
    assert len(encoder.encode("")) == 2
    assert len(encoder.encode_negative("")) == 1
    assert len(encoder.encode_negative("z" * 5000)) == MAX_TOKENS


@torch.inference_mode()
def test_the_soft_cap_matters_and_is_applied(encoder: PromptEncoder, reference: Reference) -> None:
    """Otherwise an attention without it would pass unseen."""
    model = reference("sana-1.0").text_encoder
    before = encoder.encode_negative("a cat")
    layers = [layer.self_attn for layer in model.layers]
    try:
        for attention in layers:
            attention.attn_logit_softcapping = None
        assert relative_error(encoder.encode_negative("a cat"), before) > 100 * REL
    finally:
        for attention in layers:
            attention.attn_logit_softcapping = model.config.attn_logit_softcapping


@torch.inference_mode()
def test_encoding_leaves_no_trace_in_the_prefix(encoder: PromptEncoder) -> None:
    first = encoder.encode("a cat")
    for prompt in PROMPTS.values():
        encoder.encode(prompt)
    assert torch.equal(encoder.encode("a cat"), first)


def entry(rows: int) -> PackedText:
    return PackedText(torch.zeros(1, rows, 2, 4), torch.zeros(1, rows, 2, 4))  # 64 bytes a row


def test_cache_computes_once_and_keeps_both_encodings_apart() -> None:
    cache, computed = PromptCache(10_000), []

    def compute(name: str) -> Callable[[], PackedText]:
        return lambda: computed.append(name) or entry(2)

    first = cache.get("A cat ", False, compute("positive"))
    assert cache.get(clean("a CAT"), False, compute("again")) is first
    assert cache.get("a cat", True, compute("negative")) is not first
    assert computed == ["positive", "negative"]


def test_cache_is_bounded_in_bytes_and_forgets_the_least_recently_used() -> None:
    cache = PromptCache(3 * 64)
    a = cache.get("a", False, lambda: entry(1))
    cache.get("b", False, lambda: entry(1))
    cache.get("a", False, lambda: entry(1))
    cache.get("c", False, lambda: entry(2))
    assert cache.nbytes == 3 * 64
    assert cache.get("a", False, lambda: entry(1)) is a
    b = entry(1)
    assert cache.get("b", False, lambda: b) is b  # was forgotten
    huge = entry(50)
    assert cache.get("huge", False, lambda: huge) is huge
    assert cache.nbytes <= 3 * 64
    assert cache.get("huge", False, lambda: b) is b
