"""Decoding with and without graphs. On the CPU a graph is the decode itself, on the graph's own tensors."""

import math
import time
from collections.abc import Callable

import pytest
import torch

from benchmarks.random_models import make_runner, shape_of
from engine import GenerationFailed
from engine.models.dc_ae_blocks import recent_layouts
from engine.worker.decoder import GRAPH_SIZES, ImageDecoder
from engine.worker.recorder import Recorder

from .host_reads import HostReads

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def made() -> ImageDecoder:
    return make_runner(shape_of("tiny"), CPU, torch.float32, "none").decoder


def latents(size: tuple[int, int], seed: int = 0) -> torch.Tensor:
    return torch.randn(size[0] * size[1], 32, generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_a_graph_draws_the_same_picture(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 512), (256, 256)))
    decoder = ImageDecoder(made.decoder, made.scaling_factor, torch.float32)
    expected = [decoder.decode(latents(size, seed), size)() for seed, size in enumerate(((8, 16), (8, 8), (4, 4)))]
    decoder.capture(until=math.inf)
    assert set(decoder.graphs) == {(8, 16), (8, 8)}
    pending = [decoder.decode(latents(size, seed), size) for seed, size in enumerate(((8, 16), (8, 8), (4, 4)))]
    decoder.decode(latents((8, 16), 9), (8, 16))  # what was drawn before is nobody else's memory
    for wait, image in zip(pending, expected, strict=True):
        assert (wait() == image).all()


@torch.inference_mode()
def test_a_graph_tells_of_numbers_that_overflow(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 256),))
    decoder = ImageDecoder(made.decoder, made.scaling_factor, torch.float16)
    decoder.capture(until=math.inf)
    broken = latents((8, 8))
    broken[3, 3] = float("nan")
    wait, well = decoder.decode(broken, (8, 8)), decoder.decode(latents((8, 8)), (8, 8))
    with pytest.raises(GenerationFailed, match="overflowed in float16"):
        wait()
    assert well().shape == (256, 256, 3)


def test_sizes_are_captured_from_the_largest_on_while_there_is_time(made: ImageDecoder) -> None:
    assert [h * w for h, w in GRAPH_SIZES] == sorted((h * w for h, w in GRAPH_SIZES), reverse=True)
    made.capture(until=time.monotonic() - 1)
    assert made.graphs == {}


@torch.inference_mode()
def test_a_graph_keeps_the_layouts_it_reads(made: ImageDecoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Others push them out of those at hand, and a graph reads their tables where they were."""

    def run_once(recorder: Recorder, call: Callable[[], None]) -> Callable[[], None]:
        call()  # as a capture does
        return call

    monkeypatch.setattr("engine.worker.decoder.GRAPH_SIZES", ((256, 256),))
    monkeypatch.setattr(Recorder, "_capture", run_once)
    decoder = ImageDecoder(made.decoder, made.scaling_factor, torch.float32)
    recent_layouts.clear()
    decoder.capture(until=math.inf)
    used = list(recent_layouts)
    assert {(8, 8)} <= {size for layout in used for size in layout.sizes}
    for side in range(1, 40):
        decoder.decode(latents((1, side)), (1, side))
    assert not set(map(id, used)) & set(map(id, recent_layouts))
    assert set(map(id, used)) <= set(map(id, decoder.graphs[8, 8].layouts))


@torch.inference_mode()
def test_a_decode_waits_for_nothing(made: ImageDecoder, host_reads: HostReads) -> None:
    size = (8, 8)
    given = latents(size)
    made.decode(given, size)  # the tables of its layouts are copied to the device once
    with host_reads:
        made.decode(given, size)
    assert host_reads.found == []
