"""Stored rows: what comes back is what went in, it never takes more, and what is no row is refused."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from weir.online.errors import StateError
from weir.online.features.compact_rows import MOST_WORDS, compact, expand

Rows = NDArray[np.uint8]

bytes_ = st.integers(0, 255)
half = st.integers(1, 2**32 - 1)
word = st.one_of(
    st.just(0),
    st.tuples(bytes_, bytes_).map(lambda two: two[0] | two[1] << 32),
    half.map(lambda high: high << 32),
    half,
    st.integers(0, 2**64 - 1),
    st.sampled_from([1 << at for at in range(64)]),
    st.floats(width=64).map(lambda x: int(np.float64(x).view(np.uint64))),
)


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Rows of every width modulo four, sparse and full ones."""
    n, width = draw(st.integers(0, 4)), draw(st.integers(0, 13))
    words = draw(st.lists(draw(st.sampled_from([word, st.just(0), st.integers(0, 2**64 - 1)])), max_size=n * width))
    flat = np.zeros(n * width, np.uint64)
    flat[: len(words)] = np.array(words, np.uint64)
    return flat.reshape(n, width).view(np.uint8)


@given(given_rows=rows(), skip=st.integers(0, 3))
def test_rows_come_back_and_none_takes_more_than_it_is_wide(given_rows: Rows, skip: int) -> None:
    before = given_rows.copy()
    stored, sizes = compact(given_rows)
    n, row_bytes = given_rows.shape
    assert len(stored) == sizes.sum()
    assert (sizes <= row_bytes).all()
    assert (expand(stored, sizes, row_bytes) == before).all()
    assert (given_rows == before).all()
    parts = np.split(stored, np.cumsum(sizes)[:-1]) if n else []
    led = np.concatenate([np.zeros(0, np.uint8), *(np.append(np.full(skip, 255, np.uint8), part) for part in parts)])
    assert (expand(led.astype(np.uint8), sizes + skip, row_bytes, skip=skip) == before).all()


@given(given_rows=rows(), data=st.data())
def test_what_is_no_row_is_refused_or_another_row_of_that_width(given_rows: Rows, data: st.DataObject) -> None:
    """Bytes that somebody damaged are never read beyond their end."""
    stored, sizes = compact(given_rows)
    if not len(stored):
        return
    at = data.draw(st.integers(0, len(stored) - 1))
    damaged = stored.copy()
    damaged[at] ^= data.draw(st.integers(1, 255))
    wrong = sizes + data.draw(st.lists(st.integers(-3, 3), min_size=len(sizes), max_size=len(sizes)).map(np.array))
    for some, lengths in (damaged, sizes), (stored, wrong), (stored[:-1], sizes), (stored[:0], wrong):
        with contextlib.suppress(StateError):
            assert expand(some, lengths, given_rows.shape[1]).shape == given_rows.shape


def test_damage_to_the_codes_and_to_sizes_is_noticed() -> None:
    stored, sizes = compact(np.array([[1.5, 0.0, 0.1]]).view(np.uint8))
    for codes in range(256):
        damaged = np.concatenate([np.array([codes], np.uint8), stored[1:]])
        kept = sum((0, 2, 4, 8)[codes >> at & 3] for at in (0, 2, 4, 6))
        if kept != 12:
            with pytest.raises(StateError, match="13 stored bytes are no row of 24 B"):
                expand(damaged, sizes, 24)
    for wrong, lengths in (stored[:-1], sizes), (stored[:-1], sizes - 1), (stored, sizes - 1), (stored, -sizes):
        with pytest.raises(StateError, match="stored bytes are no row of 24 B"):
            expand(wrong, lengths, 24)


def test_counts_whole_numbers_and_zeros_take_less() -> None:
    counts = np.array([[3, 255], [0, 0], [256, 0], [0, 1]], np.uint32).reshape(1, 8)
    floats = np.array([[0.0, 12.0, -3.5, 0.1]])
    assert compact(counts.view(np.uint8))[1].tolist() == [1 + 2 + 0 + 8 + 2]
    assert compact(floats.view(np.uint8))[1].tolist() == [1 + 0 + 4 + 4 + 8]


@pytest.mark.parametrize("width", [1, 4, 7, 148])
def test_a_row_that_does_not_get_smaller_stays_as_it_is(width: int) -> None:
    full = np.random.default_rng(width).integers(1, 256, (2, 8 * width)).astype(np.uint8)
    stored, sizes = compact(full)
    assert sizes.tolist() == [8 * width] * 2
    assert (stored == full.reshape(-1)).all()


def test_a_row_too_wide_for_its_header_stays_as_it_is() -> None:
    wide = np.zeros((1, 8 * (MOST_WORDS + 1)), np.uint8)
    assert compact(wide)[1].tolist() == [wide.size]
    assert compact(wide[:, 8:])[1].tolist() == [-(-MOST_WORDS // 4)]
