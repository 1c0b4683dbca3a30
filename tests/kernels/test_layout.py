import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kernels.layout import TokenLayout

from .packs import DEVICE, SIZES, make_layout

sizes_strategy = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=8)


def test_layout_offsets_and_image_index() -> None:
    layout = make_layout()
    assert layout.offsets == (0, 15, 30, 31, 39, 46, 71)
    assert layout.total == 71
    expected = [i for i, (h, w) in enumerate(SIZES) for _ in range(h * w)]
    assert layout.image_index.tolist() == expected


def test_layout_single_token_texts_last() -> None:
    layout = make_layout()
    assert list(layout.single_text_images) == [4, 5]
    assert layout.attended == 39
    with pytest.raises(ValueError, match="must be the last ones"):
        make_layout(((1, 1), (1, 1)), (1, 2))


@pytest.mark.parametrize(("lengths", "attended"), [((2, 3), 5), ((1, 1), 0), ((2, 1), 2)])
def test_layout_attended_tokens(lengths: tuple[int, ...], attended: int) -> None:
    assert make_layout(((1, 2), (3, 1)), lengths).attended == attended


def test_layout_rejects_invalid_images_and_texts() -> None:
    with pytest.raises(ValueError, match="at least 1, got 0 and 0"):
        TokenLayout((), (), DEVICE)
    with pytest.raises(ValueError, match="got 1 and 2"):
        TokenLayout(((1, 1),), ((0, 1), (1, 2)), DEVICE)
    with pytest.raises(ValueError, match="at least 1 token, got 0"):
        TokenLayout(((1, 1),), ((3, 3),), DEVICE)


@settings(deadline=None)  # a slow machine must not fail it
@given(sizes_strategy)
def test_runs_cover_tokens_in_order(sizes: list[tuple[int, int]]) -> None:
    layout = TokenLayout(tuple(sizes), tuple((0, 2) for _ in sizes), DEVICE)
    shapes = [(run.height, run.width) for run in layout.runs for _ in range(run.count)]
    assert shapes == sizes
    starts = [run.tokens.start for run in layout.runs]
    stops = [run.tokens.stop for run in layout.runs]
    assert starts == [0, *stops[:-1]]
    assert stops[-1] == layout.total == len(layout.image_index)
    assert all(r.tokens.stop - r.tokens.start == r.count * r.height * r.width for r in layout.runs)
    adjacent = zip(layout.runs, layout.runs[1:], strict=False)
    assert all((a.height, a.width) != (b.height, b.width) for a, b in adjacent)


@settings(deadline=None)  # a slow machine must not fail it
@given(sizes_strategy, st.data())
def test_text_runs_cover_attended_tokens(sizes: list[tuple[int, int]], data: st.DataObject) -> None:
    lengths = data.draw(st.lists(st.integers(1, 3), min_size=len(sizes), max_size=len(sizes)))
    layout = make_layout(tuple(sizes), tuple(sorted(lengths, reverse=True)))
    covered = [0]
    for run in layout.text_runs:
        assert run.tokens.start == covered[-1]
        assert (run.tokens.stop - run.tokens.start) % len(run.texts) == 0
        assert len({text.stop - text.start for text in run.texts}) == 1
        covered.append(run.tokens.stop)
    assert covered[-1] == layout.attended


def test_text_runs_shared_text() -> None:
    layout = TokenLayout(((1, 2), (1, 2)), ((0, 5), (0, 5)), DEVICE)
    assert layout.text_runs[0].texts == (slice(0, 5), slice(0, 5))


def test_tables_on_layout_device() -> None:
    tables = TokenLayout(((1, 2),), ((0, 2),), torch.device("meta")).tables
    tensors = (tables.image_index, tables.starts, tables.sizes, tables.texts, tables.text_index)
    assert [tensor.device.type for tensor in tensors] == ["meta"] * 5
    wide, narrow = torch.int64, torch.int32
    assert [tensor.dtype for tensor in tensors] == [wide, narrow, narrow, narrow, wide]


def test_text_index_follows_packed_text() -> None:
    layout = TokenLayout(((1, 2), (1, 2), (2, 2), (1, 1)), ((3, 5), (0, 3), (3, 5), (5, 6)), DEVICE)
    assert layout.tables.text_index.tolist() == [1, 0, 1, 2]
