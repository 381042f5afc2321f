"""Snapshots of trees and forests: complete, alike on every replica, and numbers only, whoever made them."""

from __future__ import annotations

import ast
import pickle
import random
import tracemalloc
from collections import deque
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from river import drift

from weir.online.errors import StateError
from weir.online.learners.river import adwin_numbers as adwin
from weir.online.learners.river.adaptive_forest import AdaptiveForest
from weir.online.learners.river.adaptive_tree import AdaptiveTree
from weir.online.learners.state import MAX_STATE_BYTES, pack_arrays, seal, unpack_arrays, unseal

ROOT = Path(__file__).parents[2]
NAMES = ("zeta", "alpha", "mid", "beta")
ADWIN: Any = drift.ADWIN  # untyped in River
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


def differences(a: Any, b: Any) -> list[str]:
    """Where two object graphs are not the same; attributes of both sides are compared whatever they are called."""
    found: list[str] = []
    todo, seen = deque([(a, b, "model")]), set()
    while todo:
        x, y, at = todo.popleft()
        if (id(x), id(y)) in seen:
            continue
        seen.add((id(x), id(y)))
        if type(x) is not type(y):
            found.append(f"{at}: {type(x).__name__}, {type(y).__name__}")
        elif isinstance(x, random.Random):
            found += [at] * (x.getstate() != y.getstate())
        elif hasattr(x, "__getstate__") and type(x).__module__ == "river._river_rust.drift":
            found += [at] * (x.__getstate__() != y.__getstate__())
        elif isinstance(x, dict):
            if not all(type(key) is int for key in x):  # counters by tree are looked up, never gone through
                found += [f"{at}: keys {[*x]}, {[*y]}"] * ([*x] != [*y])
            found += [f"{at}: keys {[*x]}, {[*y]}"] * (x.keys() != y.keys())
            todo.extend((x[k], y[k], f"{at}[{k!r}]") for k in x.keys() & y.keys())
        elif isinstance(x, list | tuple):
            found += [f"{at}: {len(x)}, {len(y)}"] * (len(x) != len(y))
            todo.extend((v, w, f"{at}[{i}]") for i, (v, w) in enumerate(zip(x, y, strict=False)))
        elif hasattr(x, "__dict__") and not isinstance(x, type):
            mine, other = (dict(sorted((k, v) for k, v in vars(o).items() if not _unused(o, k))) for o in (x, y))
            todo.append((mine, other, f"{at}.{type(x).__name__}"))
        elif x is not y and x != y and not callable(x):
            found.append(f"{at}: {x!r}, {y!r}")
    return found


def _unused(owner: Any, name: str) -> bool:
    """The generator that a Gaussian seeds from the system and only ``sample`` uses."""
    return type(owner).__name__ == "Gaussian" and name == "_rng"


@pytest.mark.parametrize("leaf", LEAVES)
@pytest.mark.parametrize("make", [tree, forest])
def test_a_restored_model_is_the_same_in_every_attribute(make: Any, leaf: str) -> None:
    model = learned(make(leaf))
    again = make(leaf)
    again.restore(model.snapshot())
    assert differences(model._model, again._model) == []
    assert again.snapshot() == model.snapshot()


def test_alternate_trees_background_trees_and_idle_leaves_are_kept() -> None:
    grown = learned(tree(max_depth=2), 12_000)
    wood = learned(forest(warning_delta=0.3, drift_delta=1e-9), 2000)
    assert grown._model._n_alternate_trees > 0
    assert grown._model._n_inactive_leaves > 0
    assert any(tree is not None for tree in wood._model._background)
    for model, again in ((grown, tree(max_depth=2)), (wood, forest(warning_delta=0.3, drift_delta=1e-9))):
        again.restore(model.snapshot())
        assert differences(model._model, again._model) == []
        x, y, w = rows(1500, seed=7)
        for one in (model, again):
            one.learn_many(x, y, w)
        assert again.snapshot() == model.snapshot()


@pytest.mark.parametrize("make", [tree, forest])
def test_a_model_that_has_learned_nothing_has_a_snapshot(make: Any) -> None:
    model, again = make(), learned(make(), 300)
    again.restore(model.snapshot())
    assert differences(model._model, again._model) == []


def test_the_layout_of_adwin_is_known_through_all_its_changes() -> None:
    rng = random.Random(5)
    seen = ADWIN(delta=0.01)
    fired = 0
    for i in range(40_000):
        seen.update(int(rng.random() < (0.2 if i // 1500 % 2 else 0.7)))
        fired += seen.drift_detected
        if i % 61 == 0:
            copy = ADWIN(delta=0.01)
            adwin.fill(copy, iter(adwin.numbers_of(seen)).__next__)
            assert copy._helper.__getstate__() == seen._helper.__getstate__()
    assert fired > 5


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
        else:  # another model: it answers, and its own snapshot is as good as any
            assert np.isfinite(model.predict_many(x)).all()
            make().restore(model.snapshot())
        assert tracemalloc.get_traced_memory()[1] - before < 60 * len(bad) + 1_000_000
    tracemalloc.stop()
    assert refused > 75


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


def test_numbers_of_a_sealed_body_are_judged_one_by_one() -> None:
    """Mutations behind the envelope and the count: what a forger who knows the format would try."""
    good = learned(tree(), 1500)
    numbers = msgspec.msgpack.decode(unseal(good.snapshot(), "adaptive_tree", NAMES))
    rng = random.Random(2)
    x = rows(20)[0]
    refused = 0
    for _ in range(300):
        at = rng.randrange(625, len(numbers))
        odd = rng.choice([0, 1, 2, 3, 7, -1, 2**40, 2**63, 0.0, 1e300, -1e300, float("inf"), float("nan")])
        changed = [*numbers[:at], odd, *numbers[at + 1 :]]
        model = tree()
        try:
            model.restore(seal("adaptive_tree", NAMES, msgspec.msgpack.encode(changed)))
        except StateError:
            refused += 1
        else:
            model.predict_many(x)
    assert refused > 100


def test_a_tree_of_endless_depth_is_refused() -> None:
    fresh = msgspec.msgpack.decode(unseal(tree().snapshot(), "adaptive_tree", NAMES))
    deep = [*fresh[:-1], *[2, 0, 0.5, 1, 0, *adwin.numbers_of(ADWIN()), 0.0, 0.0] * 5000]
    with pytest.raises(StateError):
        tree().restore(seal("adaptive_tree", NAMES, msgspec.msgpack.encode(deep)))


class _Evil:
    def __reduce__(self) -> tuple[Any, ...]:
        return (print, ("owned",))


def test_a_pickle_is_refused_and_not_run(capsys: pytest.CaptureFixture[str]) -> None:
    forged = pickle.dumps(_Evil())
    with pytest.raises(StateError, match="not the numbers of a tree"):
        tree().restore(seal("adaptive_tree", NAMES, forged))
    old = pack_arrays({"centre": np.zeros(5), "river": np.frombuffer(forged, np.uint8)})
    with pytest.raises(StateError, match="not the numbers of a tree"):
        forest().restore(seal("adaptive_forest", NAMES, old))
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("dtype", ["|O", "O", "f8,f8", "<f8,", "(1000000000,)f8", "<U1000000", "<M8[s]", ">f8"])
def test_an_array_is_of_plain_numbers(dtype: str) -> None:
    body = msgspec.msgpack.encode({"w": {"dtype": dtype, "shape": (1,), "data": bytes(8)}})
    with pytest.raises(StateError, match="plain number"):
        unpack_arrays(body)


def test_a_snapshot_has_a_limit() -> None:
    with pytest.raises(StateError, match=str(MAX_STATE_BYTES)):
        unseal(bytes(MAX_STATE_BYTES + 1), "adaptive_tree", NAMES)


LOADERS = {"pickle", "cPickle", "_pickle", "marshal", "shelve", "dill", "cloudpickle", "joblib", "yaml", "copyreg"}
CALLS = {"eval", "exec", "compile", "allow_pickle"}
OWN_FILES = {
    "models/training/ddp.py",
    "streams/trainer/job/job_steps.py",
    "streams/trainer/job/job_runner.py",
}
"""The trainer's hand-over to its own children, in its own directory, which only its user can enter."""


def test_no_product_module_loads_objects_by_name() -> None:
    found = []
    for folder in ("online", "models", "streams"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            name = str(path.relative_to(ROOT))
            words = {_loads_objects(node) for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))} - {""}
            found += [f"{name}: {word}" for word in words if not (word == "pickle" and name in OWN_FILES)]
    assert found == []


def _loads_objects(node: ast.AST) -> str:
    """The module or function by which this piece of code could make objects of somebody else's bytes."""
    if isinstance(node, ast.Import):
        return next((a.name for a in node.names if a.name.split(".")[0] in LOADERS), "")
    if isinstance(node, ast.ImportFrom):
        return (node.module or "") if (node.module or "").split(".")[0] in LOADERS else ""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in CALLS:
        return node.func.id
    if isinstance(node, ast.keyword) and node.arg == "allow_pickle":
        return "allow_pickle"
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and (node.value.id, node.attr) in {
        ("torch", "load"), ("pd", "read_pickle"), ("pandas", "read_pickle"),
    }:  # fmt: skip
        return f"{node.value.id}.{node.attr}"
    return ""
