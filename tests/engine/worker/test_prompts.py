"""Prompt embeddings against diffusers' unmasked ones."""

import inspect
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import SanaPipeline, SanaSprintPipeline

from engine.checkpoints.loader import load_text_encoder
from engine.checkpoints.tokenizer import load_tokenizer
from engine.models.gemma2 import Gemma2
from engine.models.sana import PackedText
from engine.worker.prompts import (
    COMPLEX_HUMAN_INSTRUCTION,
    LENGTH_MULTIPLE,
    MAX_GRAPH_LENGTH,
    MAX_PROMPTS,
    MAX_TOKENS,
    Prompt,
    PromptCache,
    PromptEncoder,
    normalize_prompt,
)
from engine.worker.recorder import GraphRecorder

from ...reference import REL, relative_error
from .host_reads import HostReads

Reference = Callable[[str], SanaPipeline | SanaSprintPipeline]
PROMPTS = {
    "no merge across the border": "zebra",
    "two tokens change at the border": "a red circle left of a blue square",
    "the last token grows": "xylophone on a table",
    "leading new lines": "\n\nstreet",  # stripped
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


def load_encoder(folder: Path, max_prompts: int = MAX_PROMPTS) -> PromptEncoder:
    model = load_text_encoder(folder / "text_encoder", torch.float32, torch.device("cpu"))
    with torch.inference_mode():
        return PromptEncoder(model, load_tokenizer(folder / "tokenizer"), max_prompts)


@pytest.fixture(scope="module")
def encoder(checkpoint: Callable[[str], Path]) -> PromptEncoder:
    return load_encoder(checkpoint("sana-1.0"))


def theirs(
    pipeline: SanaPipeline | SanaSprintPipeline, prompt: str, negative: str
) -> tuple[torch.Tensor, torch.Tensor]:
    """diffusers' embeddings of both prompts, without the tokens that its masks hide."""
    with torch.inference_mode():
        embeds, mask, negative_embeds, negative_mask = pipeline.encode_prompt(
            prompt,
            True,
            negative_prompt=negative,
            complex_human_instruction=COMPLEX_HUMAN_INSTRUCTION.split("\n"),
        )
    return embeds[0][mask[0].bool()], negative_embeds[0][negative_mask[0].bool()]


def test_instruction_equals_diffusers() -> None:
    for pipeline in (SanaPipeline, SanaSprintPipeline):
        default = inspect.signature(pipeline.__call__).parameters["complex_human_instruction"].default
        assert "\n".join(default) == COMPLEX_HUMAN_INSTRUCTION


def test_tokenizer_of_tests_merges_across_the_border(reference: Reference) -> None:
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
def test_embeddings_equal_diffusers(encoder: PromptEncoder, reference: Reference, prompt: str) -> None:
    expected, expected_negative = theirs(reference("sana-1.0"), prompt, prompt)
    (positive,), (negative,) = encoder.encode([prompt]), encoder.encode_negative([prompt])
    assert positive.shape == expected.shape
    assert negative.shape == expected_negative.shape
    assert relative_error(positive, expected) <= REL
    assert relative_error(negative, expected_negative) <= REL


@torch.inference_mode()
def test_embeddings_count_is_bounded(encoder: PromptEncoder) -> None:
    """<bos>, the last token of the instruction, and at most 298 of the prompt; 300 without the instruction."""
    assert len(encoder.encode(["z" * 298])[0]) == MAX_TOKENS == len(encoder.encode(["z" * 5000])[0])
    assert len(encoder.encode(["z" * 297])[0]) == MAX_TOKENS - 1
    assert len(encoder.encode([""])[0]) == 2
    assert len(encoder.encode_negative([""])[0]) == 1
    assert len(encoder.encode_negative(["z" * 5000])[0]) == MAX_TOKENS


@torch.inference_mode()
def test_attention_soft_cap_changes_embeddings(encoder: PromptEncoder) -> None:
    """So the comparison with diffusers would fail without it."""
    uncapped = Gemma2(replace(encoder.model.config, attn_logit_softcapping=None))
    uncapped.load_state_dict(encoder.model.state_dict())
    expected = encoder.encode_negative(["a cat"])[0]
    assert (
        relative_error(PromptEncoder(uncapped, encoder.tokenizer).encode_negative(["a cat"])[0], expected) > 100 * REL
    )


@torch.inference_mode()
def test_prefix_is_unchanged_by_encoding(encoder: PromptEncoder) -> None:
    first = encoder.encode(["a cat"])[0]
    encoder.encode(list(PROMPTS.values()))
    assert torch.equal(encoder.encode(["a cat"])[0], first)


@torch.inference_mode()
def test_prompts_in_one_forward_equal_single_ones(encoder: PromptEncoder) -> None:
    prompts = [*PROMPTS.values(), *(f"{n} cats" for n in range(20))]
    shapes = list[torch.Size]()
    hook = encoder.model.register_forward_pre_hook(lambda model, inputs: shapes.append(inputs[0].shape))
    together, negatives = encoder.encode(prompts), encoder.encode_negative(prompts)
    hook.remove()
    assert len(shapes) < len(prompts)
    assert max(count for count, _ in shapes) == MAX_PROMPTS
    for prompt, positive, negative in zip(prompts, together, negatives, strict=True):
        assert torch.equal(encoder.encode([prompt])[0], positive)
        assert torch.equal(encoder.encode_negative([prompt])[0], negative)


@torch.inference_mode()
def test_prompt_graphs_equal_forwards_without(encoder: PromptEncoder) -> None:
    """On the CPU a graph is the forward itself, on the graph's tensors."""
    prompts = [*PROMPTS.values(), *(f"{n} cats" for n in range(20))]
    expected, launched = encoder.encode(prompts), encoder.launched
    try:
        encoder.capture(GraphRecorder(torch.device("cpu"), math.inf))
        actual = encoder.encode(prompts)
    finally:
        encoder.graphs.clear()
    assert encoder.replayed > 3
    assert 0 < encoder.launched - launched < launched  # long prompts, and those with less shared
    for ours, theirs in zip(actual, expected, strict=True):
        assert relative_error(ours, theirs) <= REL


@pytest.mark.parametrize("max_prompts", [1, 6, 8])
def test_prompt_graphs_cover_counts_and_lengths(checkpoint: Callable[[str], Path], max_prompts: int) -> None:
    encoder = load_encoder(checkpoint("sana-1.0"), max_prompts)
    encoder.capture(GraphRecorder(torch.device("cpu"), math.inf))
    lengths = range(LENGTH_MULTIPLE, MAX_GRAPH_LENGTH + 1, LENGTH_MULTIPLE)
    counts = [count for count in (1, 2, 4, 8) if count <= max_prompts]
    assert set(encoder.graphs) == {(count, length) for count in counts for length in lengths}


@torch.inference_mode()
def test_prompt_forward_reads_nothing_back_to_the_host(encoder: PromptEncoder, host_reads: HostReads) -> None:
    tokens = torch.ones(2, 16, dtype=torch.long)
    hidden = torch.zeros(2, 16, encoder.prefix.hidden.shape[-1])
    with host_reads:
        encoder.forward_into(tokens, hidden)
    assert host_reads.found == []
    assert hidden.any()


def entry(tokens: int) -> PackedText:
    """64 bytes per token."""
    return PackedText(torch.zeros(1, tokens, 2, 4), torch.zeros(1, tokens, 2, 4), torch.zeros(1, 0, 8))


def test_cache_computes_each_prompt_and_negative_once() -> None:
    cache, computed = PromptCache(10_000), list[Prompt]()

    def compute(prompts: list[Prompt]) -> list[PackedText]:
        computed.extend(prompts)
        return [entry(2) for _ in prompts]

    first, again, negative = cache.get(
        [("A cat ", False), (normalize_prompt("a CAT"), False), ("a cat", True)], compute
    )
    assert first is again
    assert first is not negative
    assert cache.get([("a cat", True), ("a cat", False), ("a dog", False)], compute)[:2] == [negative, first]
    assert computed == [("a cat", False), ("a cat", True), ("a dog", False)]
    assert (cache.hits, cache.misses) == (3, 3)


def test_cache_is_bounded_in_bytes_and_evicts_lru() -> None:
    cache, computed = PromptCache(3 * 64), list[str]()

    def get(*prompts: str, tokens: int = 1) -> list[PackedText]:
        def compute(missing: list[Prompt]) -> list[PackedText]:
            computed.extend(text for text, _ in missing)
            return [entry(tokens) for _ in missing]

        return cache.get([(text, False) for text in prompts], compute)

    (a,) = get("a")
    get("b")
    get("a")
    get("c", tokens=2)
    assert cache.nbytes == 3 * 64
    assert get("a") == [a]
    get("b")  # was evicted
    assert computed == ["a", "b", "c", "b"]
    assert len(get("huge", "a", "b", tokens=50)) == 3  # returned although it does not fit
    assert cache.nbytes <= 3 * 64
    assert len(get("d", "e", "f", "g", "d")) == 5  # more than it holds, at once
    assert cache.nbytes <= 3 * 64
