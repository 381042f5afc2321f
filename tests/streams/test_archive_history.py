"""What is read back for training is what was scored and labelled; no label is known before it was."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.streams.logged_run import CHURN, FRAUD, TASK, read_embedded, run
from weir.models.dataset.cut import cut
from weir.online.batch import ExampleBatch, PredictionBatch
from weir.online.codec.encode import encode_examples, encode_predictions
from weir.online.codec.wire import FEATURE_MAX
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.embedded.embedded_log import EmbeddedLog
from weir.streams.errors import UsageError
from weir.streams.records import Record
from weir.streams.trainer.history.history_builder import LoggedHistory, known_times, model_inputs

# -- from the log ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fraud", "churn"])
async def test_the_history_is_what_was_scored(name: str) -> None:
    logged = await read_embedded(TaskSpec.from_toml(FRAUD if name == "fraud" else CHURN), run().log)
    h, told = logged.history, run().scored(name)
    order = {event: i for i, event in enumerate(told.event_id)}
    at = np.array([order[event] for event in h.event_id])
    assert sorted(at.tolist()) == list(range(len(told)))
    np.testing.assert_array_equal(h.x, told.features[at].astype(np.float32))
    np.testing.assert_array_equal(h.ts, told.ts[at])
    np.testing.assert_array_equal(h.score, told.score[at])
    names = [told.entity_id[i] for i in at.tolist()]
    pairs = set(zip(h.entity.tolist(), names, strict=True))
    assert len(pairs) == len({e for e, _ in pairs}) == len(set(names)), "equal codes, equal entities"
    for user in set(names):
        mine = at[np.array(names) == user]
        assert (np.diff(mine) > 0).all(), "an entity's events in the order in which they were scored"


async def test_types_amounts_and_items_are_those_of_the_events() -> None:
    h = (await read_embedded(TASK, run().log)).history
    events: dict[str, Any] = {}
    for batch in run().log.read([topics.USER_EVENTS], 0):
        for record in batch.records:
            try:
                event = orjson.loads(record.value)
                events.setdefault(event["event_id"], event)
            except (orjson.JSONDecodeError, KeyError, TypeError):
                continue
    wanted = [events[i] for i in h.event_id]
    assert [h.types[k] for k in h.type.tolist()] == [e["type"] for e in wanted] == ["purchase"] * len(h)
    np.testing.assert_array_equal(h.amount, [e.get("amount", np.nan) for e in wanted])
    merchants = {e.get("merchant_id") for e in wanted}
    codes = dict(zip([e.get("merchant_id") for e in wanted], h.item.tolist(), strict=True))
    assert len(set(codes.values())) == len(merchants) > 5
    assert [codes[e.get("merchant_id")] for e in wanted] == h.item.tolist()
    assert len({float(a) for a in h.amount.tolist()}) > 50


async def test_scores_on_timers_have_no_event() -> None:
    h = (await read_embedded(TaskSpec.from_toml(CHURN), run().log)).history
    assert set(h.type.tolist()) == {-1}
    assert np.isnan(h.amount).all()


@pytest.mark.parametrize("name", ["fraud", "churn"])
async def test_labels_are_the_examples_and_not_known_before_them(name: str) -> None:
    logged = await read_embedded(TaskSpec.from_toml(FRAUD if name == "fraud" else CHURN), run().log)
    h, found = logged.history, logged.labels
    told: dict[str, list[tuple[bool, float, float]]] = {}
    for mark, batch in run().examples[name]:
        for event, y, weight in zip(batch.event_id, batch.y.tolist(), batch.weight.tolist(), strict=True):
            told.setdefault(event, []).append((y, weight, mark))
    assert len(found.row) == sum(map(len, told.values())) > 20
    assert (np.diff(found.known_at) >= 0).all()
    corrected = 0
    for row, y, weight, known_at in zip(found.row, found.y, found.weight, found.known_at, strict=True):
        wanted_y, wanted_weight, mark = told[h.event_id[row]].pop(0)
        corrected += bool(told[h.event_id[row]])
        assert (y, weight) == (wanted_y, wanted_weight)
        assert known_at >= mark
        assert known_at >= h.ts[row]
    assert name == "churn" or corrected > 0


# -- when labels became known ------------------------------------------------------------------------------------------


@st.composite
def logs(draw: st.DrawFn) -> tuple[list[float], list[float], list[tuple[float, int]]]:
    """Event times and times of writing, the latter on any clock; labels written at any time."""
    n = draw(st.integers(1, 12))
    ts = draw(st.lists(st.integers(0, 20).map(float), min_size=n, max_size=n))
    steps = draw(st.lists(st.sampled_from([0.0, 0.5, 1.0, 7.0]), min_size=n, max_size=n))
    written = (np.cumsum(steps) + draw(st.sampled_from([0.0, 5.0, 1e6]))).tolist()
    told = st.tuples(st.floats(-1, 40).map(lambda d: written[0] + d), st.integers(0, n - 1))
    return ts, written, draw(st.lists(told, max_size=8))


@given(logs())
def test_a_label_known_at_a_time_was_written_before_any_later_event(
    log: tuple[list[float], list[float], list[tuple[float, int]]],
) -> None:
    ts, written, told = np.array(log[0]), np.array(log[1]), log[2]
    rows = np.array([r for _, r in told], np.int64)
    known = known_times(np.array([t for t, _ in told]), rows, ts, written)
    mark = np.maximum.accumulate(ts)
    for (told_at, row), known_at in zip(told, known.tolist(), strict=True):
        assert known_at >= mark[row], "nor before its own event was scored"
        later = mark > known_at
        assert (written[later] > told_at).all() or (np.flatnonzero(later) > row).all()
        if (scored := np.flatnonzero(written <= told_at)).size:
            assert known_at >= mark[scored[-1]], "what was scored before the label is before it"


def test_in_production_a_label_is_known_when_it_is_written() -> None:
    ts = np.array([100.0, 200.0, 300.0])
    known = known_times(np.array([150.0, 299.0, 350.0]), np.array([0, 0, 2]), ts, ts)
    assert known.tolist() == [150.0, 299.0, 350.0]


def test_a_replay_years_later_keeps_labels_between_the_events_they_came_between() -> None:
    ts, written = np.array([100.0, 200.0, 300.0]), np.array([1e9, 1e9 + 1, 1e9 + 2])
    known = known_times(np.array([1e9 + 0.5, 1e9 + 1.5, 1e9 + 3]), np.array([0, 0, 2]), ts, written)
    assert known.tolist() == [200.0, 300.0, 301.0]


async def test_what_a_training_saw_at_a_time_is_what_was_logged_by_then() -> None:
    """The training set of a cut-off is the same whether the log goes on behind it or not."""
    whole = await read_embedded(TASK, run().log)
    h = whole.history
    for cutoff in np.quantile(h.ts, [0.3, 0.6, 0.9]).tolist():
        made = cut(h, whole.labels, cutoff, 86_400.0, 86_400.0)
        seen = {made.history.event_id[r] for r in made.labels.row.tolist()}
        scored = np.maximum.accumulate(run().scored("fraud").ts)
        order = {e: i for i, e in enumerate(run().scored("fraud").event_id)}
        assert all(scored[order[e]] <= cutoff + 6 * 3600.0 for e in made.history.event_id)
        late = {e for mark, b in run().examples["fraud"] if mark > cutoff for e in b.event_id}
        early = {e for mark, b in run().examples["fraud"] if mark <= cutoff for e in b.event_id}
        assert not seen & (late - early)


# -- records that are not as expected ----------------------------------------------------------------------------------


def prediction(event: str, names: tuple[str, ...], row: list[float], at: float, score: float = 0.5) -> Record:
    batch = PredictionBatch([event], ["u1"], np.array([1.7e9 + at]), np.array([score]), np.array([1]), np.array([row]))
    return Record(b"u1", encode_predictions(batch, names, "fraud", 1.7e9)[0], 1.7e9 + at)


def example(event: str, y: bool, at: float, n: int = 0) -> Record:
    one = np.ones(1)
    batch = ExampleBatch([event], 1.7e9 * one, one[:, None], 0.5 * one, np.array([y]), one, one > 2, np.array([n]))
    return Record(b"fraud", encode_examples(batch, ("a",), "fraud")[0], 1.7e9 + at)


async def logged_of(predictions: list[Record], examples: list[Record]) -> LoggedHistory:
    log = EmbeddedLog()
    for topic, records in ((topics.PREDICTIONS, predictions), (topics.EXAMPLES, examples)):
        for record in records:
            log.append(topic, [record])
    return await read_embedded(TASK, log)


async def test_columns_are_taken_by_name_across_versions_of_a_task() -> None:
    full = ("a", "b", "full.logit", "full.known", "c", "full.version", "full.provider")
    rows = [
        prediction("old", ("b", "a"), [2.0, 1.0], 0),
        prediction("new", full, [3.0, 4.0, 9.0, 1.0, 5.0, 7.0, 1.0], 1),
        prediction("newer", full, [6.0, 7.0, 9.0, 1.0, 8.0, 7.0, 1.0], 2),
    ]
    logged = await logged_of(rows, [])
    assert logged.history.inputs == ("a", "b", "c")
    assert logged.history.x.tolist() == [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]]
    assert logged.left_out["predictions without all inputs"] == 1
    same = await logged_of(
        [prediction("old", ("b", "a"), [2.0, 1.0], 0), prediction("new", ("a", "b"), [3.0, 4.0], 1)], []
    )
    assert (same.history.inputs, same.history.x.tolist()) == (("b", "a"), [[2, 1], [4, 3]])


async def test_of_repeats_the_first_counts() -> None:
    names = ("a",)
    logged = await logged_of(
        [prediction("e1", names, [1.0], 0, 0.1), prediction("e2", names, [2.0], 1, 0.2),
         prediction("e1", names, [1.0], 2, 0.9)],
        [example("e1", True, 5), example("e1", False, 6), example("e1", False, 7, n=1), example("gone", True, 8)],
    )  # fmt: skip
    assert logged.history.score.tolist() == [0.1, 0.2]
    assert (logged.labels.row.tolist(), logged.labels.y.tolist()) == ([0, 0], [True, False])
    assert +logged.left_out == {
        "repeated predictions": 1, "repeated examples": 1,
        "examples without their prediction": 1,
    }  # fmt: skip


async def test_the_largest_values_of_a_record_stay_finite() -> None:
    logged = await logged_of([prediction("e1", ("a", "b"), [FEATURE_MAX, -FEATURE_MAX], 0)], [])
    assert np.isfinite(logged.history.x).all()
    assert model_inputs(("full.e0", "a")) == ("a",)


async def test_records_of_others_and_broken_ones_are_left_out() -> None:
    log = EmbeddedLog()
    good = prediction("e1", ("a",), [1.0], 0)
    other = Record(b"u", good.value.replace(b'"task":"fraud"', b'"task":"fraud "'), 1.7e9)
    named = Record(b"u", good.value.replace(b'"task":"fraud"', b'"task":"churn"').replace(b'"e1"', b'"fraud"'), 1.7e9)
    torn, odd = Record(b"u", good.value[:-20], 1.7e9), Record(b"u", good.value.replace(b"0.5", b"1.5"), 1.7e9)
    log.append(topics.PREDICTIONS, [other, torn, named, odd, good, Record(b"u", b"", 1.7e9)])
    logged = await read_embedded(TASK, log)
    assert logged.history.event_id == ["e1"]
    assert logged.left_out["unreadable predictions"] == 2


async def test_nothing_to_read_is_an_error() -> None:
    with pytest.raises(UsageError, match="no prediction of the task"):
        await logged_of([], [])
