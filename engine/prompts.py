"""Prompts to text embeddings: Gemma-2 after SANA's complex human instruction, whose part is computed once.

Gemma is causal and the instruction is constant, so its keys and values serve every prompt; no padding is ever computed.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import DynamicCache, Gemma2Model, PreTrainedTokenizerBase

from .models.sana import PackedText

MAX_TOKENS = 300
COMPLEX_HUMAN_INSTRUCTION = "\n".join(
    [
        "Given a user prompt, generate an 'Enhanced prompt' that provides detailed visual descriptions suitable for "
        "image generation. Evaluate the level of detail in the user prompt:",
        "- If the prompt is simple, focus on adding specifics about colors, shapes, sizes, textures, and spatial "
        "relationships to create vivid and concrete scenes.",
        "- If the prompt is already detailed, refine and enhance the existing details slightly without "
        "overcomplicating.",
        "Here are examples of how to transform or refine prompts:",
        "- User Prompt: A cat sleeping -> Enhanced: A small, fluffy white cat curled up in a round shape, sleeping "
        "peacefully on a warm sunny windowsill, surrounded by pots of blooming red flowers.",
        "- User Prompt: A busy city street -> Enhanced: A bustling city street scene at dusk, featuring glowing street "
        "lamps, a diverse crowd of people in colorful clothing, and a double-decker bus passing by towering glass "
        "skyscrapers.",
        "Please generate only the enhanced description for the prompt below and avoid including any additional "
        "commentary or evaluations:",
        "User Prompt: ",
    ]
)


@dataclass(frozen=True)
class Prefix:
    """The instruction, encoded: token ids, last hidden states [L, C], and each layer's keys and values."""

    ids: list[int]
    hidden: torch.Tensor
    layers: list[tuple[torch.Tensor, torch.Tensor]]


class PromptEncoder:
    """Text to embeddings [tokens, C] as the released pipelines compute them, unmasked tokens only."""

    def __init__(self, model: Gemma2Model, tokenizer: PreTrainedTokenizerBase) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.prefix = self._encode_prefix()

    def encode(self, prompt: str) -> torch.Tensor:
        """<bos>, the last token of the instruction and at most 298 tokens of the prompt.

        The joined text is tokenised, since its tokens may merge across the border; the longest common beginning with
        the instruction alone is taken from the prefix.
        """
        length = len(self.prefix.ids) + MAX_TOKENS - 2
        ids = self._tokens(COMPLEX_HUMAN_INSTRUCTION + clean(prompt), length)
        pairs = zip(ids, self.prefix.ids, strict=False)
        shared = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(ids), len(self.prefix.ids)))
        hidden = self.prefix.hidden[:shared]
        if shared < len(ids):
            cache = DynamicCache()
            for layer, (keys, values) in enumerate(self.prefix.layers):
                cache.update(keys[:, :, :shared], values[:, :, :shared], layer)
            hidden = torch.cat([hidden, self._forward(ids[shared:], cache)])
        return torch.cat([hidden[:1], hidden[len(self.prefix.ids) - 1 :]])

    def encode_negative(self, prompt: str) -> torch.Tensor:
        """Without the instruction; <bos> alone for the empty prompt. At most 300 tokens."""
        return self._forward(self._tokens(clean(prompt), MAX_TOKENS), DynamicCache())

    def _encode_prefix(self) -> Prefix:
        ids = self.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION)
        cache = DynamicCache()
        hidden = self._forward(ids, cache)
        return Prefix(ids, hidden, [(layer.keys, layer.values) for layer in cast(list[Any], cache.layers)])

    def _tokens(self, text: str, length: int) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=length)["input_ids"]
        return ids

    def _forward(self, ids: list[int], cache: DynamicCache) -> torch.Tensor:
        tokens = torch.tensor([ids], device=self.model.device)
        hidden: torch.Tensor = self.model(tokens, past_key_values=cache, use_cache=True).last_hidden_state
        return hidden[0]


def clean(prompt: str) -> str:
    """As diffusers prepares every prompt."""
    return prompt.lower().strip()


class PromptCache:
    """Prompt to what the transformer needs of it, least recently used out first.

    Args:
        capacity: bytes of keys and values held; an entry larger than that is not kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[tuple[str, bool], PackedText] = OrderedDict()

    def get(self, prompt: str, negative: bool, compute: Callable[[], PackedText]) -> PackedText:
        """The entry of a prompt (or negative prompt: another encoding), computed at most once while it is held."""
        key = (clean(prompt), negative)
        if key in self._entries:
            self._entries.move_to_end(key)
            self.hits += 1
            return self._entries[key]
        self.misses += 1
        entry = compute()
        self._entries[key] = entry
        self.nbytes += entry.nbytes
        while self.nbytes > self.capacity:
            _, evicted = self._entries.popitem(last=False)
            self.nbytes -= evicted.nbytes
        return entry
