"""Prompts to text embeddings: Gemma-2 after SANA's complex human instruction, whose part is computed once.

Gemma is causal and the instruction is constant, so its keys and values serve every prompt; no padding is ever computed.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

import torch
from transformers import DynamicCache, Gemma2Model, PreTrainedTokenizerBase

from kernels.layout import upload

from ..models.sana import PackedText
from .recorder import Recorder

MAX_TOKENS = 300
MAX_PROMPTS = 8
"""In one forward: Gemma-2-2B's keys and values of the instruction, about 230 tokens, are 24 MB for each of them."""
TOKENS_STEP = 16
"""Prompts are filled up to a multiple. At least `linear.MIN_ROWS`, so that one prompt alone has as many rows."""
GRAPH_TOKENS = 128
"""Longest prompts that run as a CUDA graph: beyond, launching should be the lesser part (not measured)."""
Prompt = tuple[str, bool]
"""Its text, and whether it is a negative one, which is encoded without the instruction."""
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


class PrefixCache:
    """Stands where transformers has a cache: puts so many tokens of the prefix before those of the prompts.

    Unlike a DynamicCache it keeps nothing: the joined keys and values of a layer are released behind it.
    """

    def __init__(self, prefix: Prefix, shared: int) -> None:
        self.prefix = prefix
        self.shared = shared

    def get_seq_length(self) -> int:
        return self.shared

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int) -> tuple[torch.Tensor, torch.Tensor]:
        """keys, values: [prompts, heads, length, D]."""
        if not self.shared:
            return keys, values
        before = (x[:, :, : self.shared].expand(len(keys), -1, -1, -1) for x in self.prefix.layers[layer])
        keys, values = (torch.cat(pair, dim=2) for pair in zip(before, (keys, values), strict=True))
        return keys, values


@dataclass(frozen=True)
class PromptGraph:
    """A forward of so many prompts of one length, from its own tokens [prompts, length] to hidden states."""

    tokens: torch.Tensor
    hidden: torch.Tensor
    replay: Callable[[], None]


class PromptEncoder:
    """Texts to embeddings [tokens, C] as the released pipelines compute them, unmasked tokens only.

    Prompts share a forward where they leave the instruction at the same token and fill up to the same length. So every
    row is computed by products of one shape but for their number, which on the CPU in fp32 changes no bit.

    Args:
        max_prompts: in one forward; bounds its memory.
    """

    def __init__(self, model: Gemma2Model, tokenizer: PreTrainedTokenizerBase, max_prompts: int = MAX_PROMPTS) -> None:
        self.model = model
        self.tokenizer = tokenizer
        self.max_prompts = max_prompts
        self.prefix = self._encode_prefix()
        self.replayed = self.launched = 0
        self.graphs: dict[tuple[int, int], PromptGraph] = {}
        # Where prompts usually leave the instruction: its last token, a space, becomes part of their first word.
        usual = common(self.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION + "a"), self.prefix.ids)
        self._shared = min(usual, len(self.prefix.ids) - 1)

    def capture(self, recorder: Recorder) -> None:
        """CUDA graphs for short prompts behind the instruction, as many as there is time and memory for."""
        counts = [2**i for i in range(self.max_prompts.bit_length()) if 2**i <= self.max_prompts]
        for length in range(GRAPH_TOKENS, 0, -TOKENS_STEP):
            for count in reversed(counts):
                tokens = torch.zeros(count, length, dtype=torch.long, device=self.model.device)
                hidden = self.prefix.hidden.new_zeros(count, length, self.prefix.hidden.shape[-1])
                replay = recorder.record(partial(self._replayed, tokens, hidden))
                if replay is None:
                    return
                self.graphs[count, length] = PromptGraph(tokens, hidden, replay)

    def encode(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """<bos>, the last token of the instruction and at most 298 tokens of each prompt.

        The joined text is tokenised, since its tokens may merge across the border; the longest common beginning with
        the instruction alone is taken from the prefix, where prompts usually leave it at the latest.
        """
        start, length = self.prefix.ids, len(self.prefix.ids) + MAX_TOKENS - 2
        texts = [self._tokens(COMPLEX_HUMAN_INSTRUCTION + clean(prompt), length) for prompt in prompts]
        shared = [min(common(ids, start), self._shared) for ids in texts]
        tails = self._encode([(count, tuple(ids[count:])) for ids, count in zip(texts, shared, strict=True)])
        whole = [torch.cat([self.prefix.hidden[:count], tail]) for count, tail in zip(shared, tails, strict=True)]
        return [torch.cat([hidden[:1], hidden[len(start) - 1 :]]) for hidden in whole]

    def encode_negative(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Without the instruction; <bos> alone for the empty prompt. At most 300 tokens each."""
        return self._encode([(0, tuple(self._tokens(clean(prompt), MAX_TOKENS))) for prompt in prompts])

    def _encode(self, tails: list[tuple[int, tuple[int, ...]]]) -> list[torch.Tensor]:
        """Last hidden states of tokens that follow so many of the instruction, in as few forwards as allowed."""
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (shared, ids) in enumerate(tails):
            groups.setdefault((shared, -(-len(ids) // TOKENS_STEP) * TOKENS_STEP), []).append(i)
        hidden: dict[int, torch.Tensor] = {}
        for (shared, length), group in groups.items():
            for first in range(0, len(group), self.max_prompts):
                members = group[first : first + self.max_prompts]
                rows = self._run(shared, pad([tails[i][1] for i in members], length))
                hidden |= {i: row[: len(tails[i][1])] for i, row in zip(members, rows, strict=True)}
        return [hidden[i] for i in range(len(tails))]

    def _run(self, shared: int, tokens: torch.Tensor) -> torch.Tensor:
        """tokens [prompts, length], on the host, that follow so many of the instruction: hidden states of each."""
        prompts, length = tokens.shape
        tokens = upload(tokens, self.model.device)
        graph = self._graph(prompts, length) if shared == self._shared else None
        if graph is None:
            self.launched += 1
            return self._forward(tokens, PrefixCache(self.prefix, shared))
        self.replayed += 1
        graph.tokens[:prompts].copy_(tokens)  # the others stay what they were: nobody reads what becomes of them
        graph.replay()
        return graph.hidden[:prompts].clone()

    def _graph(self, prompts: int, length: int) -> PromptGraph | None:
        """The smallest that holds them."""
        counts = [count for count, tokens in self.graphs if tokens == length and count >= prompts]
        return self.graphs[min(counts), length] if counts else None

    def _replayed(self, tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        hidden.copy_(self._forward(tokens, PrefixCache(self.prefix, self._shared)))

    def _encode_prefix(self) -> Prefix:
        ids = self.tokenizer.encode(COMPLEX_HUMAN_INSTRUCTION)
        cache = DynamicCache()
        (hidden,) = self._forward(torch.tensor([ids], device=self.model.device), cache)
        return Prefix(ids, hidden, [(layer.keys, layer.values) for layer in cast(list[Any], cache.layers)])

    def _tokens(self, text: str, length: int) -> list[int]:
        ids: list[int] = self.tokenizer(text, truncation=True, max_length=length)["input_ids"]
        return ids

    def _forward(self, tokens: torch.Tensor, cache: DynamicCache | PrefixCache) -> torch.Tensor:
        """tokens [prompts, length] behind those of the cache: [prompts, length, C].

        With a mask of its own: transformers 5.17 copies a number for its mask from the host, which no graph can hold.
        """
        length, before = tokens.shape[1], cache.get_seq_length()
        hidden, dtype = tokens.new_ones(length, before + length, dtype=torch.bool).triu(before + 1), self.model.dtype
        mask = torch.zeros_like(hidden, dtype=dtype).masked_fill(hidden, torch.finfo(dtype).min)[None, None]
        masks = {"full_attention": mask, "sliding_attention": mask}  # of 4096 tokens, which no prompt has
        return self.model(tokens, attention_mask=masks, past_key_values=cast(Any, cache)).last_hidden_state


def pad(texts: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Token ids [texts, length]. Filled up behind, where in a causal model nobody looks."""
    return torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in texts])


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """Tokens that both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


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
        self._entries: OrderedDict[Prompt, PackedText] = OrderedDict()

    def get(self, prompts: Sequence[Prompt], compute: Callable[[list[Prompt]], list[PackedText]]) -> list[PackedText]:
        """The entry of each prompt; those that are not held are computed together, each once."""
        keys = [(clean(text), negative) for text, negative in prompts]
        missing = [key for key in dict.fromkeys(keys) if key not in self._entries]
        self.hits += len(keys) - len(missing)
        self.misses += len(missing)
        computed = dict(zip(missing, compute(missing), strict=True)) if missing else {}
        found = [computed[key] if key in computed else self._entries[key] for key in keys]
        for key, entry in zip(keys, found, strict=True):
            if key not in self._entries:
                self._entries[key] = entry
                self.nbytes += entry.nbytes
            self._entries.move_to_end(key)
        while self.nbytes > self.capacity:
            _, evicted = self._entries.popitem(last=False)
            self.nbytes -= evicted.nbytes
        return found
