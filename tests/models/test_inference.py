"""One graph on ONNX Runtime: batches of any size, its contract, its providers; and a whole history through it."""

from __future__ import annotations

import sys
from itertools import pairwise
from typing import Any

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper
from onnxruntime import OrtValue

from tests.models.served_graphs import INPUTS, E, S, graph, history, load, model_of, rows, stateless, value, weights
from weir.models.errors import ModelError
from weir.models.onnx.graph import declared
from weir.models.serving import session as sessions
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import BUCKETS, Buckets, OrtModel
from weir.models.serving.packed_rows import rounds_of
from weir.models.serving.session import choose_provider
from weir.models.types import Float32Matrix

CPU, BOTH = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


def identity(takes: str, gives: str, n: str | int = "n") -> bytes:
    """Gives what it takes; no model."""
    node = helper.make_node("Identity", [takes], [gives])
    return model_of([node], [value(takes, n, 3)], [value(gives, n, 3)], [])


MODEL = load()


# -- one call ----------------------------------------------------------------------------------------------------------


def test_a_step_is_what_the_graph_says() -> None:
    x, state, w = rows(7), np.random.default_rng(3).normal(size=(7, S)).astype(np.float32), weights()
    logit, after, embedding = MODEL.step(x, state)
    expected = np.tanh(x @ w["wx"] + state @ w["ws"])
    np.testing.assert_allclose(after, expected, atol=1e-6)
    np.testing.assert_allclose(logit, (expected @ w["wo"])[:, 0], atol=1e-5)
    assert np.array_equal(embedding, after[:, :E])
    assert logit.dtype == after.dtype == embedding.dtype == np.float32
    assert (MODEL.provider, MODEL.state, MODEL.embedding) == ("cpu", S, E)


@settings(max_examples=40)
@given(st.integers(0, 70), st.integers(0, 1000))
def test_the_size_of_a_batch_cannot_be_seen(n: int, seed: int) -> None:
    x, state = rows(n, seed), rows(n, seed + 1) @ weights()["wx"]
    whole = MODEL.step(x, state)
    single = [MODEL.step(x[i : i + 1], state[i : i + 1]) for i in range(n)]
    for k, part in enumerate(whole):
        assert part.shape[0] == n
        np.testing.assert_allclose(part, np.concatenate([s[k] for s in single] or [part]), atol=1e-5)


def test_a_result_is_not_overwritten_by_the_next_call() -> None:
    zero = np.zeros((3, S), np.float32)
    first = MODEL.step(rows(3), zero)
    kept = [part.copy() for part in first]
    MODEL.step(rows(3, seed=9), zero)
    assert all(np.array_equal(a, b) for a, b in zip(first, kept, strict=True))


def test_inputs_are_not_changed() -> None:
    x, state = rows(5), np.ones((5, S), np.float32)
    MODEL.step(x, state)
    assert np.array_equal(x, rows(5))
    assert (state == 1).all()


@given(st.integers(0, 5000), st.sampled_from([0, 32, 4096]))
def test_a_plan_covers_every_row_once(n: int, call_rows: int) -> None:
    plan = Buckets(BUCKETS, call_rows).plan(n)
    assert sum(rows for rows, _ in plan) == n
    assert all(0 < rows <= size and size in BUCKETS for rows, size in plan)
    assert sum(size for _, size in plan) + call_rows * len(plan) <= -(-n // 2048) * (2048 + call_rows)


def test_a_cpu_does_not_pad_600_rows_to_2048() -> None:
    assert sum(size for _, size in Buckets(BUCKETS, 32).plan(600)) < 800
    assert Buckets(BUCKETS, 4096).plan(600) == ((600, 2048),)


@pytest.mark.parametrize("sizes", [(), (0, 4), (8, 4), (4, 4)])
def test_buckets_that_are_not_ascending_are_refused(sizes: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match="ascending"):
        Buckets(sizes, 1)


# -- what is refused -----------------------------------------------------------------------------------------------


NAN = np.full((S, 1), np.nan, np.float32)


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "refused the graph"),
        (b"not a graph", "refused the graph"),
        (graph()[:-200], "refused the graph"),
        (graph(wx=np.ones((9, S), np.float32), inputs=9), "x of 9 columns, its manifest names 3"),
        (graph(wo=NAN), "not finite"),
        (identity("y", "logit"), "must be x and"),
        (identity("x", "p"), "must be logit, and"),
        (identity("x", "logit", 8), "dynamic first axis"),
        (identity("x", "logit"), "logit has shape"),
    ],
)  # fmt: skip
def test_a_graph_that_cannot_serve_is_refused_when_it_is_loaded(raw: bytes, says: str) -> None:
    with pytest.raises(ModelError, match=says):
        load(raw)


def test_a_provider_that_is_missing_is_an_error_that_names_what_there_is_and_the_fix() -> None:
    with pytest.raises(ModelError, match=r"'cuda' was asked for.*CPUExecutionProvider.*pip install 'weir\[gpu\]'"):
        choose_provider("cuda", CPU)
    with pytest.raises(ModelError, match="'auto', 'cpu' or 'cuda'"):
        choose_provider("tpu", BOTH)
    assert [choose_provider("auto", CPU), choose_provider("auto", BOTH), choose_provider("cpu", BOTH)] == [
        "cpu", "cuda", "cpu",
    ]  # fmt: skip


class Fallen:
    """An ONNX Runtime whose CUDA libraries do not load: it takes the CPU without an error, or has one."""

    def __init__(self, real: Any, error: str = "") -> None:
        self.real, self.error = real, error

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def get_available_providers(self) -> list[str]:
        return BOTH

    def preload_dlls(self) -> None: ...

    def InferenceSession(self, raw: bytes, options: Any, providers: Any, **_: Any) -> Any:  # noqa: N802 - the library's
        if self.error and providers != CPU:
            raise RuntimeError(self.error)
        return self.real.InferenceSession(raw, options, providers=CPU)


@pytest.mark.parametrize(
    ("error", "says"),
    [("", "libraries, or the driver, do not fit"), ("no CUDA-capable device", "no CUDA-capable device")],
)
def test_a_session_that_falls_back_to_the_cpu_is_an_error_where_cuda_was_asked_for(
    monkeypatch: pytest.MonkeyPatch, error: str, says: str
) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", Fallen(onnxruntime, error))
    with pytest.raises(ModelError, match=says):
        load(provider="cuda")
    assert load(provider="auto").provider == "cpu"


def test_the_cuda_arena_is_capped_and_grows_by_what_is_asked() -> None:
    (name, options), rest = sessions._providers("cuda")
    assert (name, rest) == tuple(BOTH)
    assert (options["gpu_mem_limit"], options["arena_extend_strategy"]) == (sessions.GPU_MEM_LIMIT, "kSameAsRequested")


def test_the_copies_to_and_from_a_device_are_the_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """The way over a device, with the CPU in its place."""
    real = OrtValue.ortvalue_from_numpy

    def on_the_cpu(array: Float32Matrix, _: str, number: int) -> OrtValue:
        return real(np.array(array), "cpu", number)

    monkeypatch.setattr(OrtValue, "ortvalue_from_numpy", staticmethod(on_the_cpu))
    session, _ = sessions.open_session(graph(), "cpu")
    made = OrtModel(session, "cuda", 1, INPUTS, declared(session), Buckets((1, 4, 16), 0))
    made.warm_up()
    x, state = rows(23), np.full((23, S), 0.25, np.float32)
    for ours, theirs in zip(made.step(x, state), MODEL.step(x, state), strict=True):
        assert np.array_equal(ours, theirs)


# -- rounds and whole histories --------------------------------------------------------------------------------------


@given(st.lists(st.sampled_from("abcdefgh"), max_size=60))
def test_rounds_take_every_row_once_and_each_entity_in_order(keys: list[str]) -> None:
    names, order = rounds_of(keys)
    assert sorted(order.rows.tolist()) == list(range(len(keys)))
    assert [names[slot] for slot in order.slots.tolist()] == keys
    seen: list[str] = []
    for start, stop in pairwise([0, *np.cumsum(order.sizes).tolist()]):
        part = [keys[i] for i in order.rows[start:stop].tolist()]
        assert part == names[: len(part)]
        seen += part
    for name in names:
        assert [i for i in order.rows.tolist() if keys[i] == name] == [i for i, key in enumerate(keys) if key == name]
    assert len(seen) == len(keys)


@pytest.mark.parametrize(("n", "entities"), [(0, 1), (1, 1), (300, 1), (300, 40), (50, 5000)])
def test_a_replay_is_each_entity_step_by_step(n: int, entities: int) -> None:
    given_ = history(n, entities)
    state: dict[int, Float32Matrix] = {}
    expected = np.empty(n, np.float32)
    for i, entity in enumerate(given_.entity.tolist()):
        logit, after, _ = MODEL.step(given_.x[i : i + 1], state.get(entity, np.zeros((1, S), np.float32)))
        state[entity], expected[i] = after, logit[0]
    np.testing.assert_allclose(replay(MODEL, given_), expected, atol=1e-5)


def test_a_replay_without_a_state_and_with_inputs_in_another_order() -> None:
    given_ = history(30, 5)
    np.testing.assert_allclose(replay(load(stateless()), given_), given_.x[:, 0], atol=1e-6)
    turned = OrtModel.load(stateless(), 1, ("c", "b", "a"), provider="cpu", buckets=(16,))
    np.testing.assert_allclose(replay(turned, given_), given_.x[:, 2], atol=1e-6)


def test_a_replay_says_what_the_history_lacks_and_where_a_model_breaks() -> None:
    other = OrtModel.load(stateless(), 4, ("a", "b", "d"), provider="cpu", buckets=(4,))
    with pytest.raises(ModelError, match=r"no \['d'\], which version 4"):
        replay(other, history(5, 2))
    given_ = history(9, 2)
    given_.x[4, 0] = np.float32(3e38)
    broken = load(stateless(bias=3e38))
    with pytest.raises(ModelError, match="not finite for 1 of 9 events, the first 'e4'"):
        replay(broken, given_)
