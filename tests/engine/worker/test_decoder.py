"""Decoding with and without graphs. On the CPU a graph is the decode itself, on the graph's tensors."""

import math
from collections.abc import Callable, Iterator

import pytest
import torch

from benchmarks.random_models import make_runner, shape_of
from engine import GenerationFailed
from engine.costs import MemoryModel
from engine.models.dc_ae_blocks import MAX_LAYOUTS
from engine.worker import recorder
from engine.worker.decoder import GRAPH_SIZES, ImageDecoder

from .host_reads import HostReads

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made() -> ImageDecoder:
    return make_runner(shape_of("tiny"), CPU, torch.float32, "none").decoder


@pytest.fixture
def capturing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Captures run the call, as they do on a GPU."""

    def run_once(call: Callable[[], None], *args: object) -> Callable[[], None]:
        call()
        return call

    monkeypatch.setattr(recorder, "capture_graph", run_once)


def latents(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(size[0] * size[1], 32, generator=torch.Generator().manual_seed(seed))


def new_decoder(made: ImageDecoder, dtype: torch.dtype = torch.float32) -> ImageDecoder:
    """The same network, without graphs."""
    return ImageDecoder(made.decoder, made.scaling_factor, dtype)


@torch.inference_mode()
def test_decode_graph_equals_decode_without(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 512), (256, 256)))
    decoder = new_decoder(made)
    expected = [decoder.decode(latents(size, seed), size)() for seed, size in enumerate(((8, 16), (8, 8), (4, 4)))]
    decoder.capture(seconds=math.inf)
    assert set(decoder.graphs) == {(8, 16), (8, 8)}
    pending = [decoder.decode(latents(size, seed), size) for seed, size in enumerate(((8, 16), (8, 8), (4, 4)))]
    decoder.decode(latents((8, 16), 9), (8, 16))  # must not overwrite the images decoded before it
    for wait, image in zip(pending, expected, strict=True):
        assert (wait() == image).all()


@torch.inference_mode()
def test_decode_graph_overflow_fails_that_image_only(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 256),))
    decoder = new_decoder(made, torch.float16)
    decoder.capture(seconds=math.inf)
    broken = latents((8, 8))
    broken[3, 3] = float("nan")
    wait, wait_intact = decoder.decode(broken, (8, 8)), decoder.decode(latents((8, 8)), (8, 8))
    with pytest.raises(GenerationFailed, match="overflowed in float16"):
        wait()
    assert wait_intact().shape == (256, 256, 3)


def test_decode_graph_sizes_are_largest_first() -> None:
    pixels = [height * width for height, width in GRAPH_SIZES]
    assert pixels == sorted(pixels, reverse=True)


def test_decoder_capture_time_over_captures_nothing(made: ImageDecoder) -> None:
    decoder = new_decoder(made)
    decoder.capture(seconds=-1)
    assert decoder.graphs == {}


@pytest.mark.usefixtures("capturing")
@torch.inference_mode()
def test_decode_graph_keeps_the_layouts_it_used(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """No others, and also after newer layouts have evicted them from the cache: the graph reads their tables."""
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 512), (256, 256)))
    decoder = new_decoder(made)
    decoder.decode(latents((3, 5)), (3, 5))
    decoder.capture(seconds=math.inf)
    sizes = {size: {layout.sizes for layout in graph.layouts} for size, graph in decoder.graphs.items()}
    assert sizes[8, 8] == {((side, side),) for side in (8, 16, 32)}
    assert sizes[8, 16] == {((side, 2 * side),) for side in (8, 16, 32)}
    for width in range(1, MAX_LAYOUTS + 1):
        decoder.decode(latents((1, width)), (1, width))
    kept = {id(layout) for graph in decoder.graphs.values() for layout in graph.layouts}
    assert kept.isdisjoint(map(id, made.decoder.layouts.layouts))


@torch.inference_mode()
def test_decode_reads_nothing_back_to_the_host(made: ImageDecoder, host_reads: HostReads) -> None:
    size = (8, 8)
    given = latents(size)
    made.decode(given, size)  # copies the tables of its layouts, once
    with host_reads:
        made.decode(given, size)
    assert host_reads.found == []


@torch.inference_mode()
def test_decode_bands_fit_memory(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Bands are as large as what the image leaves of the memory, and at least one row; the pixels are the same."""
    size = (8, 4)
    bands: list[int] = []
    decode = made.decoder.bands

    def counted(latents: torch.Tensor, band_elements: int) -> Iterator[tuple[slice, torch.Tensor]]:
        parts = list(decode(latents, band_elements))
        bands.append(len(parts))
        yield from parts

    monkeypatch.setattr(made.decoder, "bands", counted)
    decoder = new_decoder(made)
    expected = decoder.decode(latents(size), size)()
    for spare in (0, 2**20, 2**40):
        decoder.memory = MemoryModel(capacity=1000 + spare, token=0, pixel=0, band=1000 // 128)
        assert abs(decoder.decode(latents(size), size)().astype(int) - expected).max() <= 1
    whole, smallest, some, ample = bands
    assert whole == ample == 1
    assert smallest > some > 1
