"""The text encoder learns to read before anything is drawn: captions to the map of their scene.

The paper takes a language model that was trained on text; here a map of cells stands in for that training. A reader of
one cross-attention layer, thrown away afterwards, must find every cell's object in the encoder's output, so binding,
place and number end up where the transformer's own cross-attention can find them.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from engine.models.embeddings import position_embedding

from .captions import draw_caption, with_noise
from .cells import CLASSES, cell_loss, scene_cells
from .optimizer import Muon, schedule
from .run import Run, Stateful
from .settings import GRID, TEXT_WIDTH
from .text import TextEncoder
from .world import sample_scene

WIDTH, HEADS = 192, 6
BATCH = 64


class Reader(nn.Module):
    """Queries are places, keys and values the text: logits of every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.place = nn.Linear(WIDTH, WIDTH)
        self.keys = nn.Linear(TEXT_WIDTH, WIDTH)
        self.values = nn.Linear(TEXT_WIDTH, WIDTH)
        self.hidden = nn.Linear(WIDTH, 2 * WIDTH)
        self.logits = nn.Linear(2 * WIDTH, sum(CLASSES))

    def forward(self, texts: list[torch.Tensor]) -> torch.Tensor:
        """Embeddings [tokens, TEXT_WIDTH] each to logits [N, GRID * GRID, sum(CLASSES)]."""
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts], device=padded.device)
        hidden = torch.arange(padded.shape[1], device=padded.device) >= lengths[:, None]
        places = self.place(position_embedding((GRID, GRID), WIDTH, GRID, 1.0, padded.device))
        q = places.unflatten(-1, (HEADS, -1)).transpose(0, 1) * (WIDTH // HEADS) ** -0.5  # [heads, cells, D]
        k, v = (layer(padded).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.keys, self.values))
        scores = (q @ k.mT).masked_fill(hidden[:, None, None], float("-inf"))
        read = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        return self.logits(nn.functional.gelu(self.hidden(read + places)))


def reading_batch(rng: Random, size: int) -> tuple[list[str], torch.Tensor]:
    scenes = [sample_scene(rng) for _ in range(size)]
    cells = np.stack([scene_cells(scene, GRID, GRID) for scene in scenes])
    return [with_noise(draw_caption(scene, rng), rng) for scene in scenes], torch.from_numpy(cells).flatten(1, 2)


def train_reading(encoder: TextEncoder, work: Path, minutes: float, lr: float = 3e-3) -> TextEncoder:
    """Train `encoder` for `minutes` in all, resuming from work/reading.pt."""
    torch.manual_seed(2)
    reader = Reader().to(encoder.device)
    optimizer = Muon([*encoder.named_parameters(), *reader.named_parameters()], lr=lr, adam_lr=lr, decay=0.01)
    parts: dict[str, Stateful] = {"encoder": encoder, "reader": reader, "optimizer": optimizer}
    run = Run(work / "reading.pt", minutes, parts, encoder.device)
    rng = Random(run.step + 2)
    for progress in run.steps():
        captions, cells = reading_batch(rng, BATCH)
        texts = encoder([encoder.token_ids(caption) for caption in captions])
        loss = cell_loss(reader(texts), cells.to(encoder.device))
        optimizer.zero_grad()
        loss.backward()
        optimizer.set_scale(schedule(progress))
        optimizer.step()
        run.record(cells=loss.item())
    return encoder
