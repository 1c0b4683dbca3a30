"""The text encoder learns the map of a scene from captions."""

from pathlib import Path
from random import Random

import torch

from recipes.demo.cells import CLASSES, cell_loss
from recipes.demo.reading import Reader, reading_batch, train_reading
from recipes.demo.settings import GRID, TEXT_WIDTH
from recipes.demo.text import TextEncoder, load_tokenizer


def test_reader_ignores_padding() -> None:
    torch.manual_seed(0)
    reader, short, long = Reader(), torch.randn(3, TEXT_WIDTH), torch.randn(9, TEXT_WIDTH)
    both = reader([short, long])
    assert both.shape == (2, GRID * GRID, sum(CLASSES))
    torch.testing.assert_close(both[0], reader([short])[0])
    torch.testing.assert_close(both[1], reader([long])[0])


def test_reading_batch_has_captions_and_maps() -> None:
    captions, cells = reading_batch(Random(0), 5)
    assert len(captions) == 5
    assert all(captions)
    assert cells.shape == (5, GRID * GRID, 4)


def test_reading_loss_falls_within_twelve_steps(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder, reader = TextEncoder(load_tokenizer(tmp_path)), Reader()
    optimizer = torch.optim.AdamW([*encoder.parameters(), *reader.parameters()], lr=2e-3)
    captions, cells = reading_batch(Random(0), 8)
    texts = [encoder.token_ids(caption) for caption in captions]
    losses = []
    for _ in range(12):
        loss = cell_loss(reader(encoder(texts)), cells)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_reading_resumes_from_its_checkpoint(tmp_path: Path) -> None:
    torch.manual_seed(0)
    encoder = train_reading(TextEncoder(load_tokenizer(tmp_path)), tmp_path, minutes=1e-4)
    torch.manual_seed(1)
    again = train_reading(TextEncoder(load_tokenizer(tmp_path)), tmp_path, minutes=1e-4)
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, again.model.state_dict()[name]), name
