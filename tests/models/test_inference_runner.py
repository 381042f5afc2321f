"""The full model over batches of events: states that go on in a store, swaps while events flow, a shadow beside."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.models.served_graphs import INPUTS, E, S, graph, history, load, runner_of, stateless, weights
from weir.models.errors import ModelError
from weir.models.manifest import Precision
from weir.models.serving.active_models import Pair
from weir.models.serving.entity_steps import replay
from weir.models.serving.ort_model import OrtModel
from weir.models.types import Float32Matrix, Float32Vector, History
from weir.online.batch import FloatMatrix
from weir.online.task.full_spec import FullScorer, FullSpec, columns
from weir.streams.embedded.memory_store import MemoryFeatureStore

SPEC = FullSpec(state=S, history=3, embedding=E)
TABLE = "fraud.full"
NAMES = columns(SPEC)
LOGIT, KNOWN = NAMES.index("full.logit"), NAMES.index("full.known")
SHADOW = [NAMES.index("full.shadow_logit"), NAMES.index("full.shadow_version")]
CHAMPION = [k for k in range(len(NAMES)) if k not in SHADOW]
ONE, TWO, TREES = load(graph(1), 1), load(graph(2), 2), load(stateless(), 3)


class Lane:
    """A runner over a store of its own."""

    def __init__(self, spec: FullSpec = SPEC, inputs: Sequence[str] = INPUTS) -> None:
        self.runner, self.store = runner_of(spec, inputs), MemoryFeatureStore()
        self.scorer: FullScorer = self.runner
        if self.scorer.row_bytes:
            self.store.create(TABLE, self.scorer.row_bytes, self.scorer.schema, spec.ttl)

    def swap(self, champion: object = None, shadow: object = None) -> Lane:
        self.runner.slots.swap(Pair(champion, shadow))  # type: ignore[arg-type]
        return self

    def score(self, events: History, start: int = 0, stop: int | None = None) -> FloatMatrix:
        part = slice(start, stop)
        keys = [f"u{code}" for code in events.entity[part].tolist()]
        return self.scorer.score(TABLE, self.store, keys, events.ts[part], events.x[part].astype(np.float64))

    def rows(self, events: History) -> bytes:
        return self.store.load(TABLE, [f"u{code}" for code in np.unique(events.entity).tolist()]).tobytes()


def in_pieces(lane: Lane, events: History, cuts: Sequence[int]) -> FloatMatrix:
    edges = [0, *sorted({c for c in cuts if c < len(events)}), len(events)]
    return np.concatenate([lane.score(events, a, b) for a, b in pairwise(edges)])


def pieces() -> st.SearchStrategy[list[int]]:
    return st.lists(st.integers(1, 39), max_size=12)


# -- states ------------------------------------------------------------------------------------------------------------


def test_a_row_is_one_record_of_fixed_bytes() -> None:
    lane = Lane().swap(ONE, TWO)
    assert lane.runner.row_bytes == 16 + 8 + 4 * (2 * S + 3 * len(INPUTS)) + 4
    lane.score(history(8, 1))
    record = lane.runner.layout.view(lane.store.load(TABLE, [f"u{history(8, 1).entity[0]}"]))
    assert (record["version"][0].tolist(), record["count"].tolist()) == ([1, 2], [8])
    assert np.array_equal(record["ring"][0, [2, 0, 1]], history(8, 1).x[-3:])


def test_scores_are_a_replay_and_the_columns_say_by_whom() -> None:
    events = history(60, 9)
    out = Lane().swap(ONE).score(events)
    made = dict(zip(NAMES, out.T, strict=True))
    np.testing.assert_allclose(made["full.logit"], replay(ONE, events), atol=1e-5)
    assert {k: set(v.tolist()) for k, v in made.items() if k[:6] not in ("full.l", "full.e")} == {
        "full.known": {1.0}, "full.version": {1.0}, "full.provider": {1.0}, "full.shadow_logit": {0.0},
        "full.shadow_version": {0.0},
    }  # fmt: skip
    assert np.abs(made["full.e1"]).min() > 0


@settings(max_examples=40)
@given(st.integers(0, 500), st.sampled_from([1, 3, 12, 200]), pieces())
def test_how_events_are_cut_into_batches_cannot_be_seen(seed: int, entities: int, cuts: list[int]) -> None:
    events = history(40, entities, seed)
    whole, cut = Lane().swap(ONE, TWO), Lane().swap(ONE, TWO)
    np.testing.assert_allclose(in_pieces(cut, events, cuts), whole.score(events), atol=1e-5)
    ours, theirs = (lane.runner.layout.view(lane.store.load(TABLE, keys_of(events))) for lane in (cut, whole))
    for name in ("version", "count", "ring"):
        assert np.array_equal(ours[name], theirs[name])
    np.testing.assert_allclose(ours["state"], theirs["state"], atol=1e-5)


def keys_of(events: History) -> list[str]:
    return [f"u{code}" for code in np.unique(events.entity).tolist()]


def test_without_a_model_inputs_are_remembered_and_nothing_is_known() -> None:
    lane, events = Lane(), history(20, 4)
    assert not lane.score(events).any()
    record = lane.runner.layout.view(lane.store.load(TABLE, keys_of(events)))
    assert record["count"].sum() == 20
    assert not record["version"].any()


def test_no_rows_and_no_state_need_no_table() -> None:
    lane = Lane(FullSpec(state=0)).swap(TREES)
    assert lane.runner.row_bytes == 0
    events = history(20, 4)
    np.testing.assert_allclose(lane.score(events)[:, 0], events.x[:, 0], atol=1e-6)
    assert lane.score(events, 0, 0).shape == (0, lane.runner.width)
    assert Lane().swap(ONE).score(events, 0, 0).shape == (0, len(NAMES))


def test_inputs_that_are_not_finite_or_no_float32_are_zero() -> None:
    events, clean = history(6, 2), history(6, 2)
    x = events.x.astype(np.float64)
    x[1], x[3, 0], clean.x[1], clean.x[3, 0] = np.nan, 1e300, 0.0, 0.0
    lane, other = Lane().swap(ONE), Lane().swap(ONE)
    keys = [f"u{code}" for code in events.entity.tolist()]
    assert np.array_equal(lane.scorer.score(TABLE, lane.store, keys, events.ts, x), other.score(clean))


# -- swaps -------------------------------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.integers(0, 500), st.sampled_from([1, 3, 12]), st.integers(1, 39), pieces())
def test_after_a_swap_a_state_is_that_of_the_newest_inputs(seed: int, entities: int, at: int, cuts: list[int]) -> None:
    events = history(40, entities, seed)
    lane = Lane().swap(ONE)
    lane.score(events, 0, at)
    lane.swap(TWO)
    edges = [at, *sorted({c for c in cuts if at < c}), 40]
    out = np.concatenate([lane.score(events, a, b) for a, b in pairwise(edges)])
    np.testing.assert_allclose(out[:, LOGIT], after_swap(TWO, events, at, SPEC.history), atol=1e-5)
    touched = set(events.entity[at:].tolist())
    assert lane.runner.counts.rebuilt == len(touched & set(events.entity[:at].tolist()))


def after_swap(model: OrtModel, events: History, at: int, k: int) -> Float32Vector:
    """Logits of the events from ``at`` on, where each entity begins at the k-th newest before."""
    begun = [np.flatnonzero(events.entity[:at] == code)[-k:] for code in np.unique(events.entity[:at])]
    rows = np.sort(np.concatenate([*begun, np.arange(at, len(events))]))
    ids, columns_ = [events.event_id[i] for i in rows.tolist()], (events.entity, events.ts, events.x, events.score)
    entity, ts, x, score = (column[rows] for column in columns_)
    part = History(events.inputs, ids, entity, ts, x, score, events.type[rows], (), score, events.item[rows])
    return replay(model, part)[-(len(events) - at) :]


def test_a_shadow_that_is_promoted_and_rolled_back_keeps_the_state_it_has() -> None:
    events, lane = history(90, 5), Lane()
    parts = [((ONE, TWO), 0, 30), ((TWO, ONE), 30, 60), ((ONE, TWO), 60, 90)]
    made = np.concatenate([lane.swap(*pair).score(events, a, b) for pair, a, b in parts])
    one, two = replay(ONE, events), replay(TWO, events)
    expected = np.concatenate([one[:30], two[30:60], one[60:]])
    np.testing.assert_allclose(made[:, LOGIT], expected, atol=1e-5)
    assert lane.runner.counts.rebuilt == 0


def test_a_shadow_that_was_away_is_rebuilt_where_events_came_meanwhile() -> None:
    events = history(90, 5)
    lane = Lane().swap(ONE, TWO)
    lane.score(events, 0, 30)
    lane.swap(ONE).score(events, 30, 60)
    out = lane.swap(ONE, TWO).score(events, 60, 90)
    still = [i for i in range(30) if events.entity[60 + i] not in events.entity[30:60]]
    np.testing.assert_allclose(out[still, SHADOW[0]], replay(TWO, events)[60:][still], atol=1e-5)
    first = [i for i in range(30) if events.entity[60 + i] not in events.entity[60 : 60 + i] and i not in still]
    np.testing.assert_allclose(
        out[first, SHADOW[0]], after_swap(TWO, events, 60, SPEC.history)[first], atol=1e-5
    )  # fmt: skip
    assert first


@settings(max_examples=15)
@given(st.integers(0, 500), pieces())
def test_a_shadow_never_changes_what_the_champion_says(seed: int, cuts: list[int]) -> None:
    events = history(40, 6, seed)
    alone, beside, broken = Lane().swap(ONE), Lane().swap(ONE, TREES), Lane().swap(ONE, Broken())
    expected = in_pieces(alone, events, cuts)
    for lane in (beside, broken):
        made = in_pieces(lane, events, cuts)
        assert np.array_equal(made[:, CHAMPION], expected[:, CHAMPION])
    assert not in_pieces(broken, events, cuts)[:, SHADOW].any()


def test_a_batch_is_of_one_pair_though_it_is_swapped_meanwhile() -> None:
    lane, events = Lane(), history(50, 3)

    class Swapping:
        version, provider, precision, inputs, state, embedding = 7, "cpu", "float32", INPUTS, S, E
        surprise = False

        def step(self, x: Float32Matrix, state: Float32Matrix) -> tuple[Float32Vector, Float32Matrix, Float32Matrix]:
            lane.swap(TWO)
            return ONE.step(x, state)

    out = lane.swap(Swapping()).score(events)
    assert set(out[:, NAMES.index("full.version")]) == {7.0}
    assert set(lane.score(events)[:, NAMES.index("full.version")]) == {2.0}


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (load(graph(), 0), "version is 0"),
        (OrtModel.load(stateless(), 5, ("a", "b", "d"), provider="cpu", buckets=(1,)), r"version 5 takes \['d'\]"),
        (load(graph(wx=np.ones((3, S + 1), np.float32), ws=np.ones((S + 1, S + 1), np.float32),
                    wo=np.ones((S + 1, 1), np.float32), state=S + 1), 6), r"carries 5 floats.*\[full\] state = 5"),
    ],
)  # fmt: skip
def test_a_model_that_does_not_fit_is_refused_and_the_old_pair_goes_on(model: OrtModel, says: str) -> None:
    lane = Lane().swap(ONE, TWO)
    with pytest.raises(ModelError, match=says):
        lane.swap(model)
    assert lane.runner.slots.pair == Pair(ONE, TWO)


def test_a_model_of_fewer_inputs_finds_them_by_name() -> None:
    wide = Lane(inputs=("x0", "c", "a", "b")).swap(ONE)
    events = history(30, 4)
    x = np.column_stack([np.full(30, 9.0), events.x[:, 2], events.x[:, :2]])
    keys = [f"u{code}" for code in events.entity.tolist()]
    out = wide.scorer.score(TABLE, wide.store, keys, events.ts, x)
    np.testing.assert_allclose(out[:, LOGIT], replay(ONE, events), atol=1e-5)
    wide.swap(TWO)
    out = wide.scorer.score(TABLE, wide.store, keys[:1], events.ts[:1], x[:1])
    assert wide.runner.counts.rebuilt == 1


# -- what goes wrong ---------------------------------------------------------------------------------------------------


@dataclass
class Broken:
    """A model whose calls fail, as a GPU that went away does, or whose outputs break where ``a`` is over a limit."""

    version: int = 9
    fails: bool = True
    limit: float = np.inf
    provider: str = "cpu"
    precision: Precision = "float32"
    inputs: tuple[str, ...] = INPUTS
    state: int = S
    embedding: int = E
    surprise: bool = False
    calls: Iterator[int] = field(default_factory=lambda: iter(range(10**9)))

    def step(self, x: Float32Matrix, state: Float32Matrix) -> tuple[Float32Vector, Float32Matrix, Float32Matrix]:
        if self.fails:
            raise ModelError("the device went away")
        logit, after, embedding = ONE.step(x, state)
        after[x[:, 0] > self.limit] = np.nan
        return logit, after, embedding


def test_a_champion_that_fails_is_not_known_and_is_rebuilt_when_it_answers() -> None:
    events, lane, model = history(60, 4), Lane(), Broken(fails=False)
    lane.swap(model).score(events, 0, 20)
    model.fails = True
    assert not lane.score(events, 20, 40).any()
    assert (lane.runner.counts.failed, lane.runner.counts.last_error) == (1, "the device went away")
    model.fails = False
    out = lane.score(events, 40, 60)
    assert out[:, KNOWN].all()
    first = [i for i in range(20) if events.entity[40 + i] not in events.entity[40 : 40 + i]]
    again = after_swap(ONE, events, 40, SPEC.history)
    seen = [i for i in first if events.entity[40 + i] in events.entity[20:40]]
    np.testing.assert_allclose(out[seen, LOGIT], again[seen], atol=1e-5)
    assert seen


@settings(max_examples=20)
@given(st.integers(0, 500), pieces())
def test_where_an_output_is_not_finite_the_row_is_not_known_and_the_state_begins_anew(
    seed: int, cuts: list[int]
) -> None:
    events = history(40, 3, seed)
    whole, cut = Lane().swap(Broken(fails=False, limit=1.0)), Lane().swap(Broken(fails=False, limit=1.0))
    out = whole.score(events)
    over = events.x[:, 0] > 1.0
    assert np.array_equal(out[:, KNOWN] == 0, over)
    assert not out[over, LOGIT].any()
    assert np.isfinite(out).all()
    np.testing.assert_allclose(in_pieces(cut, events, cuts), out, atol=1e-5)
    assert whole.runner.counts.not_finite == over.sum()


def test_the_tests_model_remembers() -> None:
    """Else none of the above would show anything."""
    x, w = history(2, 1).x, weights(1)
    assert abs(float(ONE.step(x[:1], np.ones((1, S), np.float32))[0][0] - ONE.step(x[:1], 0 * w["ws"][:1])[0][0])) > 0.1
