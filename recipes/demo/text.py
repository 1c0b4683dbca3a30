"""Text side of the demo: a small tokenizer in Gemma's format, and caption embeddings as in the pipeline of diffusers.

The complex human instruction (CHI) precedes every caption in training exactly as in serving. Its tokens are the same
for every caption, so they run once per step with batch 1 and their keys and values are shared, with gradients.
"""

import itertools
import json
from collections.abc import Iterable
from inspect import signature
from pathlib import Path
from random import Random
from typing import Any, cast

import torch
from tokenizers import Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from torch import nn
from transformers import DynamicCache, Gemma2Config, Gemma2Model

from engine.worker.prompts import COMPLEX_HUMAN_INSTRUCTION as CHI

from .captions import captions
from .phrases import plural
from .settings import TEXT_ENCODER, VOCABULARY
from .words import ADJECTIVES, FILLERS, OPENINGS, STYLES, SYNONYMS
from .world import sample_scene

CACHE = "cache" if "cache" in signature(Gemma2Model.forward).parameters else "past_key_values"
"""The argument of Gemma-2 that takes the cache: transformers 5.24 renames it, and 5.40 will drop the old name."""
SPECIAL = ("<pad>", "<eos>", "<bos>", "<unk>")


def train_tokenizer(scenes: int = 1200) -> Tokenizer:
    """Byte-fallback BPE with spaces as U+2581, trained on captions and the CHI; deterministic."""
    learner = Tokenizer(BPE(unk_token="<unk>"))
    learner.normalizer = normalizers.Replace(" ", "▁")
    # While merges are learned, a word is joined to the space before it and punctuation is separate.
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split("▁", "merged_with_next"),
            pre_tokenizers.Split(Regex(r"[^\w▁]"), "isolated"),
        ]
    )
    reserved = [*SPECIAL, *(f"<0x{byte:02X}>" for byte in range(256))]
    alphabet = ["\n", "▁", *(chr(code) for code in range(33, 127))]
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=reserved, show_progress=False, initial_alphabet=alphabet, min_frequency=1
    )
    learner.train_from_iterator(_corpus(scenes), trainer)
    model = json.loads(learner.to_str())["model"]
    merges = [tuple(merge) for merge in model["merges"]]
    # A new tokenizer, because the trainer leaves the bytes marked as special and decoding would drop them.
    tokenizer = Tokenizer(BPE(model["vocab"], merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_previous")  # as in Gemma: never cuts
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A", pair="<bos> $A <bos>:1 $B:1", special_tokens=[("<bos>", SPECIAL.index("<bos>"))]
    )
    return tokenizer


def _corpus(scenes: int) -> Iterable[str]:
    rng = Random(0)
    for _ in range(scenes):
        for caption in captions(sample_scene(rng), rng):
            yield f" {caption.text}"
    for synonym in itertools.chain(*SYNONYMS.values(), OPENINGS, STYLES, ADJECTIVES, FILLERS):
        for _ in range(4):
            yield f" {synonym}"
            yield f" {plural(synonym)}"
    for _ in range(20):
        yield CHI
        yield CHI.lower()


def load_tokenizer(work: Path) -> Tokenizer:
    path = work / "tokenizer.json"
    if not path.exists():
        train_tokenizer().save(str(path))
    return Tokenizer.from_file(str(path))


def carried_embeddings(old: Tokenizer, weight: torch.Tensor, new: Tokenizer) -> torch.Tensor:
    """Embeddings for the tokens of `new`: those of `old` [tokens, width], or the mean over a new token's pieces."""
    known, rows = old.get_vocab(), []
    for token, _ in sorted(new.get_vocab().items(), key=lambda item: item[1]):
        pieces = old.encode(token.replace("▁", " "), add_special_tokens=False).ids
        rows.append(weight[[known[token]] if token in known else pieces].mean(0))
    return torch.stack(rows)


class TextEncoder(nn.Module):
    """The tiny Gemma-2. As in the pipeline, the transformer sees <bos> and the tokens after the CHI."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.model = Gemma2Model(Gemma2Config(**TEXT_ENCODER))
        self.model.set_attn_implementation("eager")  # the one that applies Gemma-2's soft-cap
        # Without the last token of the CHI, a single space, which merges into the first word of the prompt.
        self.prefix = tokenizer.encode(CHI).ids[:-1]

    @property
    def device(self) -> torch.device:
        return self.model.embed_tokens.weight.device

    def token_ids(self, caption: str) -> list[int]:
        """Token ids of CHI + caption after the shared prefix."""
        ids: list[int] = self.tokenizer.encode(CHI + caption).ids
        if ids[: len(self.prefix)] != self.prefix:
            raise ValueError(f"the caption must not change the tokens of the instruction, got {caption!r}")
        return ids[len(self.prefix) :]

    def forward(self, captions: list[list[int]]) -> list[torch.Tensor]:
        """Embeddings [1 + tokens, width] of captions given as token ids, <bos> first; [] is the negative prompt."""
        cache = DynamicCache()
        tokens = torch.tensor([self.prefix], device=self.device)
        head = self.model(tokens, **{CACHE: cache}, use_cache=True).last_hidden_state[0, :1]
        texts = [caption for caption in captions if caption]
        length = max(map(len, texts), default=0)
        shared = DynamicCache()
        for index, layer in enumerate(cast(list[Any], cache.layers)):
            keys, values = (part.expand(len(texts), -1, -1, -1) for part in (layer.keys, layer.values))
            shared.update(keys, values, index)
        # Padding is on the right and the model is causal: no mask is needed.
        padded = torch.tensor([text + [0] * (length - len(text)) for text in texts], device=self.device)
        hidden = self.model(padded, **{CACHE: shared}, use_cache=True).last_hidden_state
        embeddings = iter(torch.cat([head, states[: len(text)]]) for states, text in zip(hidden, texts, strict=True))
        return [next(embeddings) if caption else head for caption in captions]
