"""Prompts to text embeddings: Gemma-2 on SANA's complex human instruction followed by the prompt.

Gemma is causal and the instruction is constant, so its keys and values are computed once and every prompt uses them.
Only the prompt's own tokens are computed, padded to a multiple of `LENGTH_MULTIPLE` instead of to 300.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from tokenizers import Tokenizer

from kernels.layout import upload

from ..models.gemma2 import Gemma2, KeyValues
from ..models.sana import PackedText
from .recorder import GraphRecorder

MAX_TOKENS = 300
"""Maximum embeddings of one prompt, as in the training of every checkpoint."""
MAX_PROMPTS = 8
"""Prompts in one forward. Each needs its own copy of the instruction's keys and values, which for Gemma-2-2B and about
230 tokens is 24 MB."""
LENGTH_MULTIPLE = 16
"""Prompts are padded to a multiple of this, so that few lengths need a graph. It is at least `linear.MIN_ROWS`, so that
a single prompt is encoded to the last bit as among others."""
MAX_GRAPH_LENGTH = 128
"""Longest padded prompt with a CUDA graph. For longer ones launches should be the smaller part (not measured)."""
Prompt = tuple[str, bool]
"""Text of a prompt, and whether it is a negative one, which is encoded without the instruction."""
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
    """The encoded instruction.

    Args:
        ids: its token ids.
        hidden: last hidden states, [len(ids), C].
        layers: keys and values of each layer, [1, heads, len(ids), D].
    """

    ids: list[int]
    hidden: torch.Tensor
    layers: list[KeyValues]

    def first(self, tokens: int) -> list[KeyValues]:
        """Keys and values of the first `tokens` tokens, as views; none of no tokens."""
        return [(keys[:, :, :tokens], values[:, :, :tokens]) for keys, values in self.layers] if tokens else []


@dataclass(frozen=True)
class PromptGraph:
    """A captured forward of a fixed number of prompts of one padded length.

    Args:
        tokens: input ids, int64 [prompts, length].
        hidden: output, last hidden states [prompts, length, C].
        replay: function that runs the forward.
    """

    tokens: torch.Tensor
    hidden: torch.Tensor
    replay: Callable[[], None]


class PromptEncoder:
    """Prompts to embeddings [tokens, C] as in the released pipelines, without the tokens that their masks hide.

    Prompts share a forward if they have the same number of tokens in common with the instruction and the same padded
    length. The products of a forward then differ only in their number of rows, which on the CPU in fp32 changes no bit.

    Args:
        max_prompts: maximum prompts in one forward, which bounds its memory.

    Attributes:
        replayed, launched: number of forwards so far that a CUDA graph replayed, and that ran kernel by kernel.
    """

    def __init__(self, model: Gemma2, tokenizer: Tokenizer, max_prompts: int = MAX_PROMPTS) -> None:
        self.model = model
        self.device = model.embed_tokens.weight.device
        self.tokenizer = tokenizer
        self.max_prompts = max_prompts
        self.prefix = self._encode_prefix()
        self.replayed = self.launched = 0
        self.graphs: dict[tuple[int, int], PromptGraph] = {}
        # Tokens that most prompts share with the instruction: all but its last one, a space, which becomes part of
        # their first word.
        usual = common_prefix_length(self._tokenize(COMPLEX_HUMAN_INSTRUCTION + "a"), self.prefix.ids)
        self._usual_shared = min(usual, len(self.prefix.ids) - 1)

    def capture(self, recorder: GraphRecorder) -> None:
        """Captures graphs for short prompts after the instruction, the largest until time or memory runs out.

        The number of prompts is a power of two: a forward of three uses the graph of four.
        """
        counts = [2**i for i in range(self.max_prompts.bit_length()) if 2**i <= self.max_prompts]
        for length in range(MAX_GRAPH_LENGTH, 0, -LENGTH_MULTIPLE):
            for count in reversed(counts):
                tokens = torch.zeros(count, length, dtype=torch.long, device=self.device)
                hidden = self.prefix.hidden.new_zeros(count, length, self.prefix.hidden.shape[-1])
                replay = recorder.capture(partial(self.forward_into, tokens, hidden))
                if replay is None:
                    return
                self.graphs[count, length] = PromptGraph(tokens, hidden, replay)

    def encode(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Embeddings of <bos>, of the last token of the instruction and of at most 298 tokens of each prompt.

        Instruction and prompt are tokenized together, because tokens may merge across their border. The tokens that the
        result has in common with the instruction alone are taken from the prefix, at most as many as is usual, so that
        more prompts share a forward.
        """
        instruction, length = self.prefix.ids, len(self.prefix.ids) + MAX_TOKENS - 2
        texts = [self._tokenize(COMPLEX_HUMAN_INSTRUCTION + normalize_prompt(prompt), length) for prompt in prompts]
        shared = [min(common_prefix_length(ids, instruction), self._usual_shared) for ids in texts]
        tails = self._encode([(count, tuple(ids[count:])) for ids, count in zip(texts, shared, strict=True)])
        whole = [torch.cat([self.prefix.hidden[:count], tail]) for count, tail in zip(shared, tails, strict=True)]
        return [torch.cat([hidden[:1], hidden[len(instruction) - 1 :]]) for hidden in whole]

    def encode_negative(self, prompts: Sequence[str]) -> list[torch.Tensor]:
        """Embeddings without the instruction, of at most 300 tokens each; the empty prompt is <bos> alone."""
        return self._encode([(0, tuple(self._tokenize(normalize_prompt(prompt), MAX_TOKENS))) for prompt in prompts])

    def forward_into(self, tokens: torch.Tensor, hidden: torch.Tensor) -> None:
        """Writes the last hidden states of prompts after the usual part of the instruction to `hidden`.

        Reads nothing back to the host, so that a CUDA graph can hold all of it.

        Args:
            tokens: int64 [prompts, length].
            hidden: [prompts, length, C].
        """
        hidden.copy_(self.model(tokens, self.prefix.first(self._usual_shared)))

    def _encode(self, tails: list[tuple[int, tuple[int, ...]]]) -> list[torch.Tensor]:
        """Last hidden states, [tokens, C] each, in as few forwards as possible.

        Args:
            tails: for each text, the number of tokens it takes from the prefix, and the ids of the tokens after them.
        """
        groups: dict[tuple[int, int], list[int]] = {}
        for i, (shared, ids) in enumerate(tails):
            padded_length = -(-len(ids) // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
            groups.setdefault((shared, padded_length), []).append(i)
        hidden: dict[int, torch.Tensor] = {}
        for (shared, length), group in groups.items():
            for first in range(0, len(group), self.max_prompts):
                members = group[first : first + self.max_prompts]
                outputs = self._encode_group(shared, pad_tokens([tails[i][1] for i in members], length))
                hidden |= {i: output[: len(tails[i][1])] for i, output in zip(members, outputs, strict=True)}
        return [hidden[i] for i in range(len(tails))]

    def _encode_group(self, shared: int, tokens: torch.Tensor) -> torch.Tensor:
        """One forward, with a graph if there is one, to last hidden states [prompts, length, C].

        Args:
            shared: number of tokens taken from the prefix.
            tokens: int64 [prompts, length] on the host, the tokens after them.
        """
        prompts, length = tokens.shape
        tokens = upload(tokens, self.device)
        graph = self._find_graph(prompts, length) if shared == self._usual_shared else None
        if graph is None:
            self.launched += 1
            return self.model(tokens, self.prefix.first(shared))
        self.replayed += 1
        graph.tokens[:prompts].copy_(tokens)  # the others keep old tokens, and their output is not read
        graph.replay()
        return graph.hidden[:prompts].clone()

    def _find_graph(self, prompts: int, length: int) -> PromptGraph | None:
        """The graph for the smallest number of prompts that is large enough."""
        counts = [count for count, graph_length in self.graphs if graph_length == length and count >= prompts]
        return self.graphs[min(counts), length] if counts else None

    def _encode_prefix(self) -> Prefix:
        ids, layers = self._tokenize(COMPLEX_HUMAN_INSTRUCTION), list[KeyValues]()
        (hidden,) = self.model(torch.tensor([ids], device=self.device), recorded=layers)
        return Prefix(ids, hidden, layers)

    def _tokenize(self, text: str, length: int | None = None) -> list[int]:
        """Token ids of a text, <bos> first; at most the first `length`."""
        ids: list[int] = self.tokenizer.encode(text).ids
        return ids[:length]


def pad_tokens(texts: Sequence[Sequence[int]], length: int) -> torch.Tensor:
    """Token ids [texts, length], padded at the end, where a causal model lets no token of the text attend to them."""
    return torch.tensor([[*ids, *[0] * (length - len(ids))] for ids in texts])


def common_prefix_length(a: Sequence[int], b: Sequence[int]) -> int:
    """Number of leading tokens that are equal."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def normalize_prompt(prompt: str) -> str:
    """`prompt` in lower case without surrounding white space, as diffusers prepares it."""
    return prompt.lower().strip()


class PromptCache:
    """LRU cache of projected prompts.

    Args:
        capacity: maximum bytes of all entries; an entry larger than that is not kept.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.nbytes = 0
        self.hits = self.misses = 0
        self._entries: OrderedDict[Prompt, PackedText] = OrderedDict()

    def get(self, prompts: Sequence[Prompt], compute: Callable[[list[Prompt]], list[PackedText]]) -> list[PackedText]:
        """The entry of each prompt. Those that are missing are computed in one call of `compute`, each once."""
        keys = [(normalize_prompt(text), negative) for text, negative in prompts]
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
