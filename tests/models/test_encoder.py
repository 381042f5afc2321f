"""The encoder: step, sequence and any cut of it are one function; its normaliser takes whatever is logged."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.models.encoder import Encoder, EncoderConfig
from weir.models.errors import ModelError
from weir.models.training.training_run import fit
from weir.models.types import Float32Matrix

torch.set_num_threads(1)
CLOSE = 1e-5


def raw(rows: int, width: int, seed: int) -> Float32Matrix:
    """Columns of several scales: normal, heavy-tailed, a flag, a constant."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, width))
    x[:, 1::4] = np.exp(3 * x[:, 1::4])
    x[:, 2::4] = x[:, 2::4] > 1
    x[:, 3::4] = 7
    return x.astype(np.float32)


def encoder(width: int, hidden: int = 4, embedding: int = 0, knots: int = 3, seed: int = 0) -> Encoder:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Encoder(EncoderConfig(tuple(f"c{j}" for j in range(width)), hidden, embedding, knots))
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.5)
    fit(made.normalise, raw(500, width, seed))
    return made.eval()


def start(b: int, hidden: int, seed: int) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).uniform(-1, 1, (b, hidden)).astype(np.float32))


@settings(max_examples=25)
@given(
    b=st.integers(1, 4), length=st.integers(1, 9), width=st.integers(1, 6), hidden=st.integers(1, 6),
    embedding=st.integers(0, 3), knots=st.integers(0, 4), seed=st.integers(0, 99),
)  # fmt: skip
def test_steps_are_the_sequence(
    b: int, length: int, width: int, hidden: int, embedding: int, knots: int, seed: int
) -> None:
    e = encoder(width, hidden, embedding, knots, seed)
    x = torch.from_numpy(raw(b * length, width, seed + 1).reshape(b, length, width))
    state = begin = start(b, hidden, seed)
    with torch.no_grad():
        logit, after, embedded = e.sequence(x, begin)
        assert logit.shape == (b, length)
        assert after.shape == (b, hidden)
        assert embedded.shape == (b, length, embedding)
        for t in range(length):
            one, state, point = e.step(x[:, t], state)
            assert torch.allclose(one, logit[:, t], atol=CLOSE, rtol=CLOSE)
            assert torch.allclose(point, embedded[:, t], atol=CLOSE, rtol=CLOSE)
    assert torch.allclose(state, after, atol=CLOSE, rtol=CLOSE)


def test_a_sequence_may_be_cut_anywhere() -> None:
    e, x, state = encoder(3), torch.from_numpy(raw(20, 3, 1).reshape(2, 10, 3)), start(2, 4, 0)
    with torch.no_grad():
        whole, end, _ = e.sequence(x, state)
        for cut in (0, 1, 6, 10):
            first, middle, _ = e.sequence(x[:, :cut], state) if cut else (whole[:, :0], state, None)
            rest, after, _ = e.sequence(x[:, cut:], middle) if cut < 10 else (whole[:, 10:], middle, None)
            assert torch.allclose(torch.cat([first, rest], 1), whole, atol=CLOSE)
            assert torch.allclose(after, end, atol=CLOSE)


def test_what_came_before_matters_and_what_comes_after_does_not() -> None:
    e, x, state = encoder(3), torch.from_numpy(raw(10, 3, 2).reshape(1, 10, 3)), torch.zeros(1, 4)
    changed = x.clone()
    changed[0, 5] += 1
    with torch.no_grad():
        one, other = e.sequence(x, state)[0][0], e.sequence(changed, state)[0][0]
    assert torch.equal(one[:5], other[:5])
    assert not torch.isclose(one[6:], other[6:]).any()


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, 3e38, -3e38])
def test_no_logged_value_makes_it_infinite(value: float) -> None:
    e = encoder(5)
    with torch.no_grad():
        outputs = e.step(torch.full((2, 5), value), torch.zeros(2, 4))
    assert all(torch.isfinite(o).all() for o in outputs)


def test_columns_are_scaled_cut_and_the_constant_one_says_nothing() -> None:
    e, x = encoder(4, knots=6), raw(5000, 4, 0)
    v, pieces = (t.numpy() for t in e.normalise(torch.from_numpy(x)))
    assert pieces.shape == (5000, 4 * 7)
    assert np.abs(v).max() <= e.config.clip
    assert abs(v[:, 1].mean()) < 0.2
    assert 0.8 < v[:, 1].std() < 1.2
    assert np.ptp(v[:, 3]) == 0
    assert pieces[:, 4:].min() == 0
    assert pieces[:, 4:].max() == 1


def test_pieces_bend_at_quantiles_even_beside_a_frequent_value() -> None:
    x = np.r_[np.zeros(900), np.linspace(1, 100, 100)].astype(np.float32)[:, None]
    e = Encoder(EncoderConfig(("a",), 2, 0, 5))
    fit(e.normalise, x)
    used = int((e.normalise.slope > 0).sum())
    _, pieces = e.normalise(torch.tensor([[0.0], [1.0], [50.0], [100.0]]))
    told = pieces[:, 1:].sum(1)
    assert used >= 4
    assert (torch.diff(told) > 0).all()


@pytest.mark.parametrize("shape", [{"inputs": ()}, {"inputs": ("a",), "hidden": 0}, {"inputs": ("a",), "knots": -1}])
def test_a_shape_that_cannot_be_is_refused(shape: dict[str, object]) -> None:
    with pytest.raises(ModelError, match="at least 1, 1, 0 and 0"):
        EncoderConfig(**shape)  # type: ignore[arg-type]
