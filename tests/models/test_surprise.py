"""The surprise: what numpy makes of the weights, nothing of later events, rules broken by values that are usual."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load as tensors

from tests.models.graphs import linear_graph
from tests.models.served_graphs import graph, load, runner_of, stateless
from tests.models.test_encoder import raw
from weir.models.dataset.cut import training_set
from weir.models.encoder import Encoder, EncoderConfig
from weir.models.errors import ModelError
from weir.models.evaluation.quantise import FLOAT16, INT8, variants
from weir.models.onnx.blend import blend_graphs
from weir.models.onnx.export import export_encoder
from weir.models.onnx.graph import GraphSpec, check_graph, open_session, run_graph
from weir.models.serving.active_models import Pair
from weir.models.serving.ort_model import OrtModel
from weir.models.training.encoder_builder import EncoderBuilder
from weir.models.training.training_run import fit
from weir.models.training.training_run import load as load_network
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import Built, Float32Matrix, FloatVector, History, Labels, TrainingSet
from weir.online.batch import FloatMatrix
from weir.online.full_columns import SURPRISE
from weir.online.task.full_spec import FullSpec, columns, logged_matrix
from weir.streams.embedded.memory_store import MemoryFeatureStore

torch.set_num_threads(1)
NAMES = tuple("abcde")
PREDICTS = ("b", "d", "e")
USUAL = np.sort(np.random.default_rng(5).normal(-0.2, 0.3, 400))


def encoder(embedding: int = 0, events: int = 1, seed: int = 0, predicts: tuple[str, ...] = PREDICTS) -> Encoder:
    config = EncoderConfig(NAMES, 6, embedding, 2, predicts=predicts, surprise_events=events)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        made = Encoder(config)
        for p in made.parameters():
            torch.nn.init.normal_(p, std=0.4)
    fit(made.normalise, raw(500, 5, seed))
    if made.surprise is not None:
        made.surprise.calibrate(USUAL)
    return made.eval()


def gaps(x: Float32Matrix, seed: int) -> Float32Matrix:
    """The rows with some values missing, of every seventh row all."""
    x = np.where(np.random.default_rng(seed).random(x.shape) < 0.2, np.float32(-0.0), x)
    x[::7] = -0.0
    return x


def by_hand(e: Encoder, x: Float32Matrix) -> tuple[FloatVector, FloatVector]:
    """Running mean and share of usual events ``(L,)`` of one entity's events ``(L, D)``, in float64, event by event."""
    w = {name: value.detach().numpy().astype(np.float64) for name, value in e.state_dict().items()}
    state, course, courses, shares = np.zeros(6), 0.0, [], []
    at = [NAMES.index(name) for name in PREDICTS]
    for row in x.astype(np.float64):
        with torch.no_grad():
            v, pieces = e.normalise(torch.from_numpy(row[None].astype(np.float32)))
            code = torch.nn.functional.gelu(e.enter(pieces)).numpy()[0].astype(np.float64)
        foretold = w["surprise.next.weight"] @ state + w["surprise.next.bias"]
        mean, deviation = foretold[:3], np.exp(np.clip(foretold[3:], -4, 3))
        there = ~((row[at] == 0) & np.signbit(row[at]))
        if there.any():
            off = np.clip((v.numpy()[0, at] - mean) / deviation, -64, 64)
            error = math.log1p(float((off[there] ** 2).mean())) - math.log(2.0)
            course += (error - course) / e.config.surprise_events
            shares.append(float((course <= USUAL).mean()))
        else:
            shares.append(math.nan)
        courses.append(course)
        gi = w["gru.weight_ih_l0"] @ code + w["gru.bias_ih_l0"]
        gh = w["gru.weight_hh_l0"] @ state + w["gru.bias_hh_l0"]
        r, z = (1 / (1 + np.exp(-(gi[part] + gh[part]))) for part in (slice(0, 6), slice(6, 12)))
        state = (1 - z) * np.tanh(gi[12:] + r * gh[12:]) + z * state
    return np.array(courses), np.array(shares)


@pytest.mark.parametrize(("embedding", "events"), [(0, 1), (2, 5)])
def test_the_graph_says_what_numpy_makes_of_the_weights(embedding: int, events: int) -> None:
    e, x = encoder(embedding, events), gaps(raw(60, 5, 3), 3)
    onnx = export_encoder(e)
    assert check_graph(onnx) == GraphSpec(5, 7, embedding, 18, surprise=True)
    session, state, said, course = open_session(onnx), np.zeros((1, 7), np.float32), [], []
    for row in x:
        out = run_graph(session, row[None], state)
        state = out["state_out"]
        said.append(float(out["surprise"][0]))
        course.append(float(state[0, -1]))
    courses, shares = by_hand(e, x)
    np.testing.assert_allclose(course, courses, atol=1e-4)
    nothing = np.isnan(shares)
    assert np.array_equal(np.array(said) == -1.0, nothing)
    assert 0 < nothing.sum() < 30
    # The graph interpolates between 33 shares of the 400 usual events.
    within = (shares > 0.01) & (shares < 1.0)
    assert within.sum() > 10
    np.testing.assert_allclose(np.exp(-np.array(said))[within], shares[within], rtol=0.12, atol=0.005)


@settings(max_examples=20)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(0, 2), st.integers(0, 99))
def test_steps_are_the_sequence_with_its_surprise(length: int, events: int, embedding: int, seed: int) -> None:
    e = encoder(embedding, events, seed)
    x = torch.from_numpy(gaps(raw(3 * length, 5, seed + 1), seed).reshape(3, length, 5))
    state = torch.zeros(3, 7)
    with torch.no_grad():
        _, after, told = e.sequence(x, state)
        for t in range(length):
            _, state, one = e.step(x[:, t], state)
            assert torch.allclose(one, told[:, t], atol=2e-4)
    assert torch.allclose(state, after, atol=1e-5)


def test_nothing_of_a_later_event_is_in_it_and_its_own_values_are_only_compared() -> None:
    e = encoder()
    assert e.surprise is not None
    x = torch.from_numpy(raw(12, 5, 2).reshape(1, 12, 5))
    other = x.clone()
    other[0, 8:] = torch.from_numpy(raw(4, 5, 9))
    with torch.no_grad():
        one, two = (e.courses(given_, torch.zeros(1, 7))[0][0] for given_ in (x, other))
        assert torch.equal(one[:8], two[:8])
        assert not torch.isclose(one[8:], two[8:]).any()
        # A column that is not foretold changes the surprise of what comes later, and not of its own event.
        unseen = x.clone()
        unseen[0, 8, 0] += 1.0
        three = e.courses(unseen, torch.zeros(1, 7))[0][0]
        assert torch.equal(one[:9], three[:9])
        assert not torch.isclose(one[9:], three[9:]).all()
        hidden, _, v = e.hidden(x, torch.zeros(1, 7))
        mean = e.surprise.next(e.before(hidden, torch.zeros(1, 7))).chunk(2, -1)[0]
        as_foretold = v.clone()
        as_foretold[..., e.surprise.at] = mean
        least = e.surprise.errors(x, as_foretold, e.before(hidden, torch.zeros(1, 7)))[0]
        assert torch.allclose(least, torch.full_like(least, -math.log(2.0)), atol=1e-6)


# -- what is learned ---------------------------------------------------------------------------------------------------

DAY = 86_400.0
LEARNS = EncoderSettings(
    hidden=16, surprise=("level",), surprise_events=1, length=40, warmup=4, batch=8, pretrain_epochs=12, epochs=1,
    surprise_epochs=4, pretrain_rate=1e-2,
)  # fmt: skip


def rounds(n: int, seed: int, broken: float = 0.0) -> tuple[History, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Machines whose level goes 0, 1, 2, 3 and round again; a broken one jumps to another level of the four."""
    rng = np.random.default_rng(seed)
    entity, ts = np.arange(n) % 10, np.linspace(0, 60 * DAY, n)
    at, odd, x = rng.integers(0, 4, 10), rng.random(n) < broken, np.empty((n, 2), np.float32)
    for i, k in enumerate(entity.tolist()):
        at[k] = (at[k] + (int(rng.integers(2, 5)) if odd[i] else 1)) % 4
        x[i] = at[k] + 0.1 * rng.normal(), rng.normal()
    nothing, none = np.full(n, np.nan), np.full(n, -1, np.int64)
    ids = [str(i) for i in range(n)]
    return History(("level", "noise"), ids, entity, ts, x, nothing, none, (), nothing, none), odd


@pytest.fixture(scope="module")
def data() -> TrainingSet:
    history, _ = rounds(4000, 0)
    y = np.random.default_rng(1).random(4000) < 0.2
    labels = Labels(np.arange(4000), y, np.ones(4000), history.ts + DAY)
    return training_set(history, labels, 60 * DAY, 12 * DAY, DAY, min_labels=20, min_positives=5)


@pytest.fixture(scope="module")
def built(data: TrainingSet, tmp_path_factory: pytest.TempPathFactory) -> Built:
    return EncoderBuilder(LEARNS).build(data, tmp_path_factory.mktemp("surprise"), 1)


def surprises(onnx: bytes, history: History, inputs: tuple[str, ...] = ("level", "noise")) -> FloatVector:
    """``full.surprise`` of each event as a worker logs it."""
    spec = FullSpec(state=32, history=4, surprise=("level",))
    made = served(spec, OrtModel.load(onnx, 1, inputs, provider="cpu", buckets=(1, 16)), history)
    return made[:, columns(spec).index(SURPRISE)]


def served(spec: FullSpec, model: object, history: History, cuts: tuple[int, ...] = ()) -> FloatMatrix:
    runner, store = runner_of(spec, history.inputs), MemoryFeatureStore()
    store.create("full", runner.row_bytes, runner.schema, spec.ttl)
    runner.slots.swap(Pair(model))  # type: ignore[arg-type]
    keys = [str(k) for k in history.entity.tolist()]
    parts = [
        runner.score("full", store, keys[a:b], history.ts[a:b], history.x[a:b].astype(np.float64))
        for a, b in pairwise((0, *cuts, len(keys)))
    ]
    return np.concatenate(parts)


def test_a_broken_rule_surprises_though_each_value_is_usual(built: Built) -> None:
    history, odd = rounds(4000, 7, broken=0.02)
    said = surprises(built.onnx, history)[200:]
    wrong, level = odd[200:], np.round(history.x[200:, 0])
    jumped = wrong & (np.arange(len(wrong)) > 0)
    assert (said >= 0).all()
    assert (said <= 1).all()
    usual = ~jumped & ~np.convolve(wrong, np.ones(41), "full")[: len(wrong)].astype(bool)
    assert usual.sum() > 300
    assert (said[jumped] > 0.99).mean() > 0.9
    assert (said[usual] > 0.9).mean() < 0.2
    shares = [np.mean(level[jumped] == k) for k in range(4)]
    assert max(shares) < 0.45, "the values of broken events are those of all events"


def test_on_new_usual_events_it_is_uniform(built: Built) -> None:
    said = surprises(built.onnx, rounds(6000, 11)[0])[100:]
    for level in (0.5, 0.8, 0.95):
        assert abs((said > level).mean() - (1 - level)) < 0.05


def test_a_model_of_the_same_shape_is_trained_on_and_another_is_not(
    data: TrainingSet, built: Built, tmp_path: Path
) -> None:
    assert load_network(built.files).encoder.config.predicts == ("level",)
    short = replace(LEARNS, pretrain_epochs=1, warm_epochs=1, surprise_epochs=1)
    warm = EncoderBuilder(short).build(data, tmp_path / "a", 1, warm_start=built.files)
    assert warm.metrics["warm_start"] == 1.0
    assert check_graph(warm.onnx).surprise
    plain = EncoderBuilder(replace(short, surprise=())).build(data, tmp_path / "b", 1, warm_start=built.files)
    assert plain.metrics["warm_start"] == 0.0
    assert not check_graph(plain.onnx).surprise
    with pytest.raises(ModelError, match=r"surprise = \['flow'\] names none of the 2 inputs"):
        EncoderBuilder(replace(short, surprise=("flow",))).build(data, tmp_path / "c", 1)


def test_without_a_surprise_the_files_are_what_they_were(data: TrainingSet, tmp_path: Path) -> None:
    plain = replace(LEARNS, surprise=(), pretrain_epochs=1)
    files = EncoderBuilder(plain).build(data, tmp_path, 1).files
    told = json.loads(files["encoder.json"])
    assert set(told["encoder"]) == {"inputs", "hidden", "embedding", "knots", "dropout", "clip"}
    assert load_network(files).encoder.surprise is None
    assert not any("surprise" in name for name in tensors(files["weights.safetensors"]))


def test_what_is_usual_is_measured_where_nothing_of_it_was_learned(
    data: TrainingSet, built: Built, tmp_path: Path
) -> None:
    """Other levels in the newest part change what is told, and not what is foretold."""
    h = data.history
    late = h.ts >= data.valid_from
    short = replace(LEARNS, pretrain_epochs=1, surprise_epochs=1)
    one = EncoderBuilder(short).build(data, tmp_path / "a", 1)
    moved = replace(h, x=np.where(late[:, None], h.x + np.float32(0.3), h.x).astype(np.float32))
    two = EncoderBuilder(replace(short, patience=9)).build(replace(data, history=moved), tmp_path / "b", 1)
    a, b = (load_network(each.files).encoder.surprise for each in (one, two))
    assert a is not None
    assert b is not None
    assert torch.equal(a.next.weight, b.next.weight)
    assert not torch.equal(a.low, b.low)
    assert float(b.end) > float(a.end)


# -- how it is served --------------------------------------------------------------------------------------------------


def test_how_events_are_cut_into_batches_cannot_be_seen(built: Built) -> None:
    history, spec = rounds(200, 3)[0], FullSpec(state=32, history=4, surprise=("level",), embedding=2)
    model = OrtModel.load(built.onnx, 1, built.inputs, provider="cpu", buckets=(1, 16))
    whole = served(spec, model, history)
    np.testing.assert_allclose(served(spec, model, history, (1, 7, 8, 90)), whole, atol=1e-4)
    assert np.array_equal(served(spec, model, history), whole), "bit for bit"


def test_a_model_that_tells_none_leaves_it_missing() -> None:
    spec, events = FullSpec(state=4, history=2, surprise=("a",)), rounds(20, 0)[0]
    events = replace(events, inputs=("a", "b", "c"), x=np.ones((20, 3), np.float32))
    for model in (load(graph(1)), load(stateless())):
        made = served(spec, model, events)
        said = made[:, columns(spec).index(SURPRISE)]
        assert not said.any()
        assert np.signbit(said).all()
        assert made[:, 1].all(), "and the rest is known"


def test_where_the_full_model_does_not_answer_it_is_missing_too() -> None:
    spec = FullSpec(surprise=("a",), embedding=1)
    at = columns(spec).index(SURPRISE)
    made = np.zeros((2, len(columns(spec))))
    made[1, [1, at]] = 1.0, 0.0
    logged = logged_matrix(spec, np.ones((2, 1)), made, 1)
    assert np.signbit(logged[:, 1 + at]).tolist() == [True, False]
    assert not np.signbit(made).any(), "what it was given is not touched"


def test_a_swap_from_a_model_without_to_one_with_it_and_back(built: Built) -> None:
    history, spec = rounds(400, 3)[0], FullSpec(state=32, history=16, surprise=("level",))
    old = OrtModel.load(linear_graph(np.ones(2, np.float32)), 1, built.inputs, provider="cpu", buckets=(16,))
    new = OrtModel.load(built.onnx, 2, built.inputs, provider="cpu", buckets=(1, 16))
    runner, store = runner_of(spec, history.inputs), MemoryFeatureStore()
    store.create("full", runner.row_bytes, runner.schema, spec.ttl)
    keys, at, said = [str(k) for k in history.entity.tolist()], columns(spec).index(SURPRISE), []
    for pair, a, b in ((Pair(old, new), 0, 200), (Pair(new, old), 200, 300), (Pair(old), 300, 400)):
        runner.slots.swap(pair)
        x = history.x[a:b].astype(np.float64)
        said.append(runner.score("full", store, keys[a:b], history.ts[a:b], x)[:, at])
    assert np.signbit(np.concatenate([said[0], said[2]])).all()
    np.testing.assert_allclose(said[1], surprises(built.onnx, history)[200:300], atol=1e-4)


def test_other_precisions_and_blends_tell_it(built: Built) -> None:
    history = rounds(600, 5, broken=0.05)[0]
    whole = surprises(built.onnx, history)
    made = variants(built.onnx)
    np.testing.assert_allclose(surprises(made[FLOAT16], history), whole, atol=0.02)
    assert np.quantile(np.abs(surprises(made[INT8], history) - whole), 0.9) < 0.1
    blended = blend_graphs([linear_graph(np.ones(2, np.float32)), built.onnx], (0.5, 0.5), 0.0)
    assert check_graph(blended).surprise
    np.testing.assert_allclose(surprises(blended, history), whole, atol=1e-6)


def test_what_is_calibrated_is_a_share_of_usual_events_and_rises_beyond_them() -> None:
    e = encoder(predicts=("b",)).surprise
    assert e is not None
    at = torch.tensor([-9.0, *np.quantile(USUAL, (0.25, 0.5, 0.9, 0.99)), USUAL[-1], 2.0, 4.0], dtype=torch.float32)
    with torch.no_grad():
        told = np.exp(-e.told(at, torch.ones(len(at))).numpy())
    np.testing.assert_allclose(told[:6], [1, 0.75, 0.5, 0.1, 0.01, 1 / 401], rtol=0.1)
    assert told[5] > told[6] > told[7] > 0
    with pytest.raises(ModelError, match="lengthen validation"):
        e.calibrate(np.empty(0))
    e.calibrate(np.full(50, 0.3))
    with torch.no_grad():
        told = np.exp(-e.told(torch.tensor([0.2, 0.3, 0.4]), torch.ones(3)).numpy())
    assert told[0] == told[1] == 1.0 > told[2]
