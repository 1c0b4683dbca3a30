"""The demo's tokenizer has Gemma's format, and training encodes text like the server."""

import re
from pathlib import Path
from random import Random

import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from engine.checkpoints.tokenizer import load_tokenizer
from engine.models.gemma2 import Gemma2, Gemma2Config
from engine.worker.prompts import COMPLEX_HUMAN_INSTRUCTION, PromptEncoder
from recipes.demo.captions import captions
from recipes.demo.export import TOKENIZER, write_json
from recipes.demo.settings import TEXT_ENCODER, VOCABULARY
from recipes.demo.text import SPECIAL, TextEncoder, train_tokenizer
from recipes.demo.world import sample_scene


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer()


@pytest.fixture(scope="module")
def folder(tokenizer: Tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tokenizer")
    tokenizer.save(str(path / "tokenizer.json"))
    write_json(path / "tokenizer_config.json", TOKENIZER)
    return path


def test_tokenizer_special_ids_equal_gemma(tokenizer: Tokenizer) -> None:
    assert [tokenizer.token_to_id(token) for token in SPECIAL] == [0, 1, 2, 3]
    assert tokenizer.get_vocab_size() <= VOCABULARY
    assert tokenizer.encode("").ids == [2]  # <bos> alone: the empty negative prompt


@pytest.mark.parametrize(
    "text", ["a red circle", "two  spaces, and: dots!", "ünïcode 猫 \N{PARTY POPPER}", "1 < 2\n- x"]
)
def test_tokenizer_round_trip(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_tokenizer_instruction_length(tokenizer: Tokenizer) -> None:
    assert 150 < len(tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION).ids) < 300


def test_tokenizer_caption_words_are_single_tokens(tokenizer: Tokenizer) -> None:
    rng = Random(8)
    for _ in range(40):
        for caption in captions(sample_scene(rng), rng):
            words = re.findall(r"[a-z0-9]+|[^a-z0-9 ]", caption.text)
            joined = caption.text.count("-") + caption.text.count("(")  # the word after them has no space before it
            assert len(tokenizer.encode(f" {caption.text}").ids) <= 1 + len(words) + joined


def test_tokenizer_loads_in_transformers(tokenizer: Tokenizer, folder: Path) -> None:
    loaded = AutoTokenizer.from_pretrained(folder)
    for text in ("", "a red circle", COMPLEX_HUMAN_INSTRUCTION + "ünïcode 猫"):
        assert loaded(text)["input_ids"] == tokenizer.encode(text).ids
    assert (loaded.pad_token_id, loaded.bos_token_id, loaded.eos_token_id) == (0, 2, 1)


def test_text_encoder_equals_the_served_one(tokenizer: Tokenizer, folder: Path) -> None:
    """Padded, shared-prefix training embeddings equal the engine's, prompt by prompt; the empty one is <bos> alone."""
    torch.manual_seed(0)
    encoder = TextEncoder(tokenizer).eval()
    model = Gemma2(Gemma2Config.from_dict(TEXT_ENCODER))
    model.load_state_dict(encoder.model.state_dict())
    served = PromptEncoder(model, load_tokenizer(folder))
    prompts = ["a red circle to the left of a blue square", "two hearts", "star, green", ""]
    with torch.no_grad():
        trained = encoder([encoder.token_ids(p) if p else [] for p in prompts])
        for prompt, embedding in zip(prompts, trained, strict=True):
            (expected,) = served.encode([prompt]) if prompt else served.encode_negative([prompt])
            assert embedding.shape == expected.shape
            torch.testing.assert_close(embedding, expected, rtol=1e-4, atol=1e-4)


def test_text_encoder_gradients_reach_the_prefix(tokenizer: Tokenizer) -> None:
    encoder = TextEncoder(tokenizer)
    torch.cat(encoder([encoder.token_ids("a red circle"), []])).square().sum().backward()
    gradient = encoder.model.embed_tokens.weight.grad
    assert gradient is not None
    assert gradient[encoder.prefix[5]].abs().sum() > 0
