"""Snapshots of trees and forests: complete, alike on every replica, and numbers only, whoever made them."""

from __future__ import annotations

import pickle
import random
import tracemalloc
from collections.abc import Callable
from functools import partial
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from weir.online.errors import StateError
from weir.online.learners.hoeffding.adaptive_forest import AdaptiveForest
from weir.online.learners.hoeffding.adaptive_tree import AdaptiveTree
from weir.online.learners.hoeffding.grove import ALTERNATE, FEATURE, LEAF, LEFT, NODES, WATCH, Grove
from weir.online.learners.state import MAX_STATE_BYTES, pack_arrays, seal, unpack_arrays, unseal

NAMES = ("zeta", "alpha", "mid", "beta")
LEAVES = ("mc", "nb", "nba")


def rows(n: int, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64]]:
    """Rows whose concept changes three times, so that trees grow, branch out and are replaced."""
    rng = np.random.default_rng(seed)
    x = rng.random((n, 4))
    column = np.arange(n) * 4 // n
    y = x[np.arange(n), column] + 0.2 * rng.random(n) > 0.6
    return x, y, rng.choice([0.5, 1.0, 3.0], n)


def tree(leaf: str = "nba", **more: Any) -> AdaptiveTree:
    return AdaptiveTree(NAMES, grace_period=40, delta=0.01, leaf_prediction=leaf, seed=3, **more)


def forest(leaf: str = "nba", **more: Any) -> AdaptiveForest:
    return AdaptiveForest(NAMES, n_models=3, leaf_prediction=leaf, seed=3, **more)


def learned(model: Any, n: int = 6000) -> Any:
    model.learn_many(*rows(n))
    return model


def arrays_of(model: Any) -> dict[str, NDArray[Any]]:
    return unpack_arrays(unseal(model.snapshot(), model.kind, NAMES))


def sealed(model: Any, arrays: dict[str, NDArray[Any]]) -> bytes:
    return seal(model.kind, NAMES, pack_arrays(arrays))


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("make", [tree, forest])
def test_a_restored_model_goes_on_as_the_one_that_was_stored(make: Any, leaf: str) -> None:
    model = learned(make(leaf))
    again = make(leaf)
    again.restore(model.snapshot())
    assert again.snapshot() == model.snapshot()
    x, y, w = rows(1500, seed=7)
    for one in (model, again):
        one.learn_many(x, y, w)
    assert again.snapshot() == model.snapshot()
    assert again.predict_many(x).tobytes() == model.predict_many(x).tobytes()


def kept(make: Any, holds: Callable[[Grove], Any]) -> bool:
    """Whether a model comes to a state of which something holds, and a restored one goes on from there alike."""
    model = make()
    x, y, w = rows(12_000)
    for i in range(0, len(x) - 800, 5):
        model.learn_many(x[i : i + 5], y[i : i + 5], w[i : i + 5])
        if not holds(model._grove):
            continue
        again = make()
        again.restore(model.snapshot())
        for one in (model, again):
            one.learn_many(x[i + 5 : i + 800], y[i + 5 : i + 800], w[i + 5 : i + 800])
        return bool(again.snapshot() == model.snapshot())
    return False


def test_alternates_background_trees_and_idle_leaves_are_kept() -> None:
    small = partial(tree, max_depth=2)
    assert kept(small, lambda held: ((held.links[:, FEATURE] >= 0) & (held.links[:, ALTERNATE] >= 0)).any())
    assert kept(small, lambda held: ((held.links[:, FEATURE] == LEAF) & (held.links[:, WATCH] == -1)).any())
    assert kept(partial(forest, warning_delta=0.3, drift_delta=1e-9), lambda held: (held.roots[:, 1] >= 0).any())


@pytest.mark.parametrize("make", [tree, forest])
def test_a_model_that_has_learned_nothing_has_a_snapshot(make: Any) -> None:
    model, again = make(), learned(make(), 300)
    again.restore(model.snapshot())
    assert again.snapshot() == model.snapshot()
    assert learned(again, 300).snapshot() == learned(make(), 300).snapshot()


@pytest.mark.parametrize("make", [tree, forest])
def test_trees_stop_growing_where_a_snapshot_would_be_too_large_and_go_on_learning(make: Any) -> None:
    model = make()
    assert 8 * 8 * model._growth.most_nodes < MAX_STATE_BYTES
    model._growth = model._growth._replace(most_nodes=12)
    learned(model)
    assert 9 <= model._grove.used[NODES] <= 12 + 2 * 3  # a first leaf of each tree is always allowed
    before = model.snapshot()
    learned(model, 100)
    assert model.snapshot() != before


@pytest.mark.parametrize("make", [tree, forest])
def test_whatever_bytes_change_it_is_a_state_error_or_a_model(make: Any) -> None:
    good, x = learned(make(), 1500).snapshot(), rows(20)[0]
    make().predict_many(x)  # compiles
    rng = random.Random(11)
    refused = 0
    tracemalloc.start()
    for _ in range(150):
        model = make()
        bad = _mutated(good, rng)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            model.restore(bad)
        except StateError:
            refused += 1
        else:  # another model: it answers, learns, and its own snapshot is as good as any
            assert not np.isnan(model.predict_many(x)).any()
            make().restore(model.snapshot())
            learned(model, 20)
        assert tracemalloc.get_traced_memory()[1] - before < 60 * len(bad) + 1_000_000
    tracemalloc.stop()
    assert refused > 30


def _mutated(state: bytes, rng: random.Random) -> bytes:
    out = bytearray(state)
    for _ in range(rng.choice([1, 1, 3, 30])):
        at = rng.randrange(len(out))
        match rng.randrange(4):
            case 0:
                out[at] = rng.randrange(256)
            case 1:
                del out[at : at + rng.randrange(1, 12)]
            case 2:
                out[at:at] = rng.randbytes(rng.randrange(1, 12))
            case _:
                out[at : at + 9] = rng.choice(
                    [b"\xcb\x7f\xf8" + bytes(6), b"\xdd\xff\xff\xff\xff", b"\xcf" + b"\xff" * 8]
                )
    return bytes(out)


INDICES = ("links", "columns", "roots", "held", "random")


@pytest.mark.parametrize("make", [tree, forest])
def test_numbers_of_a_sealed_body_are_judged_one_by_one(make: Any) -> None:
    """Mutations behind the envelope: what a forger who knows the format would try. No index leads out of an array."""
    good = learned(make(), 1500)
    rng = random.Random(2)
    x = rows(20)[0]
    refused = 0
    for k in range(300):
        arrays = arrays_of(good)
        name = rng.choice(INDICES) if k % 4 else "values"
        odd = rng.choice([0, 1, 2, 3, 7, -1, -2, -3, 2**31, 2**40, 2**62])
        flat = arrays[name].reshape(-1)
        flat[rng.randrange(len(flat))] = odd if name != "values" else rng.choice([odd, np.inf, np.nan])
        model = make()
        try:
            model.restore(sealed(good, arrays))
        except StateError:
            refused += 1
        else:
            model.predict_many(x)
            learned(model, 60)
    assert refused > 75


def test_nodes_that_go_in_a_circle_are_refused() -> None:
    good = learned(tree(), 1500)
    arrays = arrays_of(good)
    assert arrays["links"][0, FEATURE] >= 0, "the root has split"
    arrays["links"][0, LEFT] = 0
    with pytest.raises(StateError, match="hang together"):
        tree().restore(sealed(good, arrays))


def test_a_state_that_does_not_fit_changes_nothing() -> None:
    model = learned(tree(), 300)
    before = model.snapshot()
    for other in (forest(), AdaptiveTree(NAMES[::-1])):
        with pytest.raises(StateError):
            model.restore(other.snapshot())
    arrays = arrays_of(model)
    for name in arrays:
        with pytest.raises(StateError, match=name):
            model.restore(sealed(model, {key: array for key, array in arrays.items() if key != name}))
    assert model.snapshot() == before


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("owned",))


def test_a_pickle_is_refused_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    forged = pickle.dumps(_Evil())
    with pytest.raises(StateError, match="not packed arrays"):
        tree().restore(seal("adaptive_tree", NAMES, forged))
    assert capsys.readouterr().out == ""


def test_a_state_of_before_says_what_to_do() -> None:
    """Trees were a list of numbers, and forests that list and the means of their columns."""
    numbers = msgspec.msgpack.encode([0, 1.5, 3])
    of_forest = pack_arrays({"centre": np.zeros(5), "forest": np.frombuffer(numbers, np.uint8)})
    for model, body in ((tree(), numbers), (forest(), of_forest)):
        with pytest.raises(StateError, match="remove it, and they learn anew"):
            model.restore(seal(model.kind, NAMES, body))


@pytest.mark.parametrize("dtype", ["|O", "O", "f8,f8", "<f8,", "(1000000000,)f8", "<U1000000", "<M8[s]", ">f8"])
def test_an_array_is_of_plain_numbers(dtype: str) -> None:
    body = msgspec.msgpack.encode({"w": {"dtype": dtype, "shape": (1,), "data": bytes(8)}})
    with pytest.raises(StateError, match="plain number"):
        unpack_arrays(body)


def test_a_snapshot_has_a_limit() -> None:
    with pytest.raises(StateError, match=str(MAX_STATE_BYTES)):
        unseal(bytes(MAX_STATE_BYTES + 1), "adaptive_tree", NAMES)


def test_explaining_many_rows_of_many_columns_takes_little_memory() -> None:
    rng, columns = np.random.default_rng(3), 120
    x = rng.normal(size=(400, columns))
    made = AdaptiveForest(tuple(f"f{i:03d}" for i in range(columns)), n_models=2, seed=1)
    made.learn_many(x, x[:, 3] > 0, np.ones(len(x)))
    one_by_one = np.concatenate([made.contributions(row[None]) for row in x])
    tracemalloc.start()
    told = made.contributions(x)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * x.nbytes
    assert np.array_equal(told, one_by_one)
