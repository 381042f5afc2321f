"""Columns that compiled code fills are those of their definitions, written with NumPy here, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from weir.online.batch import FloatMatrix, FloatVector, all_of, filled, side_by_side
from weir.online.codec.judge import cut, within
from weir.online.codec.wire import FEATURE_MAX
from weir.online.decisions.histogram import bin_edges, bin_of
from weir.online.event_time import extremes
from weir.online.features.model_inputs import _show
from weir.online.features.timecolumns import DAY_S, time_columns
from weir.online.jit import plain

odd = st.sampled_from([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e18, -1e19, 3.5])
matrices = arrays.arrays(np.float64, arrays.array_shapes(min_dims=2, max_dims=2, max_side=5), elements=odd)


@pytest.mark.parametrize("offset", [0.0, 3_600.0, -19_800.0])
def test_time_columns(offset: float) -> None:
    rng = np.random.default_rng(3)
    days = rng.integers(-1_000, 30_000, 500) * DAY_S
    ts = np.concatenate([rng.uniform(-1e9, 4e9, 2_000), days, days + 7 * 3_600.0, np.nextafter(days, 0.0)])
    local = ts + offset
    day, second = np.floor(local / DAY_S), local % DAY_S
    defined = {"day": day, "hour": second / 3_600.0, "weekday": (day + 3) % 7}
    defined |= {"weekend": ((day + 3) % 7 >= 5) * 1.0, "night": (second < 7 * 3_600.0) * 1.0, "ts": ts}
    for name, values in defined.items():
        assert time_columns(ts, offset)[name].tobytes() == values.tobytes(), name


@given(matrices)
def test_cut(values: FloatMatrix) -> None:
    defined = np.clip(np.where(np.isinf(values), np.nan, values), -FEATURE_MAX, FEATURE_MAX)
    assert cut(values.copy()).tobytes() == defined.tobytes()


@given(matrices)
def test_matrix_of_a_model(made: FloatMatrix) -> None:
    width = made.shape[1]
    x, zero = np.full((len(made), width + 1), 7.0), np.where(np.arange(width) % 2, -0.0, 0.0)
    _show(x, made, np.arange(width), zero, np.zeros(width, np.int64))
    seen = cut(made.copy())
    missing = np.isnan(seen)
    defined = side_by_side(np.where(missing, -0.0, seen + zero), np.asarray(missing.any(axis=1), np.float64))
    assert x.tobytes() == defined.tobytes()


@given(st.integers(1, 40), st.lists(st.floats(0.0, 1.0), min_size=1, max_size=20))
def test_bins(bins: int, scores: list[float]) -> None:
    edges, score = bin_edges(bins), np.array(scores)
    index = bin_of(score, edges)
    assert np.all(edges[index] <= score)
    assert np.all((score < edges[index + 1]) | (index == bins - 1))


@given(arrays.arrays(np.float64, st.integers(1, 9), elements=st.floats(-1e6, 1e6)))
def test_looks_at_all(values: FloatVector) -> None:
    assert extremes(values) == (values.min(), values.max())
    assert within(values, -10.0, 10.0) == bool(((values >= -10.0) & (values <= 10.0)).all())
    assert not within(np.append(values, np.nan), -1e9, 1e9)
    assert all_of(values > 0.0) == bool((values > 0.0).all())
    assert filled(3, 2.5).tolist() == [2.5, 2.5, 2.5]


def test_of_a_message_or_with_gaps_a_copy_is_compiled_for() -> None:
    own, message = np.arange(4.0), np.frombuffer(bytes(32))
    assert plain(own) is own
    assert plain(message).flags.writeable
    assert plain(own[::2]).flags.c_contiguous
