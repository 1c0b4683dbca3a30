"""Pretraining of the text encoder before diffusion: from captions to the map of their scene.

The paper uses a language model trained on text; here the map of cells replaces that training. A reader of one
cross-attention layer, discarded afterwards, predicts each cell's object from the encoder's output, so that binding,
position and number are encoded where the transformer's cross-attention can find them.
"""

from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn

from engine.models.embeddings import position_embedding

from .captions import sample_caption
from .cells import CLASSES, cell_loss, scene_cells
from .noise import with_noise
from .optimizer import Muon, schedule
from .run import Run, Stateful
from .settings import GRID, TEXT_WIDTH
from .text import TextEncoder
from .world import sample_scene

WIDTH, HEADS = 192, 6
BATCH = 64


class Reader(nn.Module):
    """One cross-attention layer from cell positions (queries) to the text (keys, values): logits of every cell."""

    def __init__(self) -> None:
        super().__init__()
        self.position = nn.Linear(WIDTH, WIDTH)
        self.keys = nn.Linear(TEXT_WIDTH, WIDTH)
        self.values = nn.Linear(TEXT_WIDTH, WIDTH)
        self.hidden = nn.Linear(WIDTH, 2 * WIDTH)
        self.logits = nn.Linear(2 * WIDTH, sum(CLASSES))

    def forward(self, texts: list[torch.Tensor]) -> torch.Tensor:
        """Logits [N, GRID * GRID, sum(CLASSES)] from N embeddings [tokens, TEXT_WIDTH]."""
        padded = nn.utils.rnn.pad_sequence(texts, batch_first=True)
        lengths = torch.tensor([len(text) for text in texts], device=padded.device)
        padding = torch.arange(padded.shape[1], device=padded.device) >= lengths[:, None]
        positions = self.position(position_embedding((GRID, GRID), WIDTH, GRID, 1.0, padded.device))
        q = positions.unflatten(-1, (HEADS, -1)).transpose(0, 1) * (WIDTH // HEADS) ** -0.5  # [heads, cells, D]
        k, v = (layer(padded).unflatten(-1, (HEADS, -1)).transpose(1, 2) for layer in (self.keys, self.values))
        scores = (q @ k.mT).masked_fill(padding[:, None, None], float("-inf"))
        read = (scores.softmax(-1) @ v).transpose(1, 2).flatten(-2)
        return self.logits(nn.functional.gelu(self.hidden(read + positions)))


def reading_batch(rng: Random, size: int) -> tuple[list[str], torch.Tensor]:
    """Captions, and cells int64 [size, GRID * GRID, 4] of their scenes."""
    scenes = [sample_scene(rng) for _ in range(size)]
    cells = np.stack([scene_cells(scene, GRID, GRID) for scene in scenes])
    return [with_noise(sample_caption(scene, rng), rng) for scene in scenes], torch.from_numpy(cells).flatten(1, 2)


def train_reading(encoder: TextEncoder, work: Path, minutes: float, lr: float = 3e-3) -> TextEncoder:
    """Trains `encoder` for `minutes` in total, resuming from work/reading.pt."""
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
