"""A tiny text encoder in Gemma-2's format: a BPE tokenizer with byte fallback, and a random Gemma-2 decoder."""

import json
import string
from collections.abc import Sequence

import torch
from tokenizers import Regex, Tokenizer, normalizers, pre_tokenizers, processors
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import Gemma2Config, Gemma2Model, GemmaTokenizer

SPACE = "▁"
SPECIALS = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
CORPUS = [
    "Given a user prompt generate an Enhanced prompt that provides detailed visual descriptions for image generation",
    "User Prompt: A cat sleeping on a warm sunny windowsill surrounded by pots of blooming red flowers",
    "User Prompt: a bustling city street at dusk, featuring glowing street lamps and a diverse crowd of people",
    "a red circle left of a blue square and the small green triangle under it, soft light, detailed, photograph",
    "Please generate only the enhanced description for the prompt below and avoid additional commentary",
]
# Merges across the end of the instruction, "User Prompt: ", and the first letters of a prompt. Alone it ends in ":▁".
# Before "a" (whose "▁a" is an earlier merge) the ":" goes to "▁Prompt:" instead, so two tokens change; before "x" the
# last one grows; before anything else nothing changes.
BOUNDARY_MERGES = [(":", SPACE), (":" + SPACE, "x"), (SPACE + "Prompt", ":")]


def gemma_tokenizer(corpus: Sequence[str] = CORPUS, vocab_size: int = 420) -> GemmaTokenizer:
    """Special tokens have the ids 0 to 4; `<bos>` is added, `<eos>` is not."""
    vocab, merges = trained_vocab(corpus, vocab_size)
    tokenizer = GemmaTokenizer(vocab=vocab, merges=merges)  # type: ignore[arg-type]  # pairs are also read
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos> $B", special_tokens=[("<bos>", vocab["<bos>"])]
    )
    return tokenizer


def trained_vocab(corpus: Sequence[str], vocab_size: int) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Tokens for words of the corpus, characters for other ASCII text, and bytes for the rest of Unicode."""
    trained = Tokenizer(BPE())
    trained.normalizer = normalizers.Replace(" ", SPACE)
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(SPACE, "merged_with_next"), pre_tokenizers.Split(Regex("[^\\w▁]"), "isolated")]
    )
    alphabet = [SPACE, "\n", *string.ascii_letters, *string.digits, *string.punctuation]
    trained.train_from_iterator(
        corpus, BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    )
    model = json.loads(trained.to_str())["model"]
    merges = [tuple(pair) for pair in model["merges"]] + BOUNDARY_MERGES
    pieces = [piece for piece, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    pieces += [left + right for left, right in BOUNDARY_MERGES]
    tokens = [*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256)), *pieces]
    return {token: i for i, token in enumerate(dict.fromkeys(tokens))}, merges


def gemma_encoder(vocab_size: int, seed: int) -> Gemma2Model:
    """Random weights with attention logits of about 8, where the soft-cap at 50 bends the larger ones."""
    config = Gemma2Config(
        vocab_size=vocab_size,
        hidden_size=48,
        intermediate_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        query_pre_attn_scalar=16,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
        sliding_window=4096,
        max_position_embeddings=8192,
    )
    model = Gemma2Model(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            gain = 2.8 if "q_proj" in name or "k_proj" in name else 1.0
            std = 0.2 if weight.ndim == 1 else gain * weight.shape[-1] ** -0.5  # Gemma's norms multiply by 1 + weight
            weight.normal_(0.0, std, generator=generator)
    return model
