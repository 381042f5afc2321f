"""A task's pipeline from events and labels to scores, alerts and examples: what it promises whatever the stream."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.online.pipeline_runs import all_scores, call, pipeline_of, plain, plain_examples, resumed, run, scores, state
from tests.online.task_streams import FRAUD, Call, label, script, seeds
from weir.online.batch import EventBatch, LabelBatch
from weir.online.decisions.alert_state import AlertState
from weir.online.learners.factory import build_learner
from weir.online.learners.online_model import OnlineModel
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore


def user_of(calls: list[Call], event: int) -> str:
    """Whose event it is."""
    batches = (batch for _, batch in calls if isinstance(batch, EventBatch))
    return next(str(b.entities["user_id"][b.event_id.index(f"e{event}")]) for b in batches if f"e{event}" in b.event_id)


def test_the_streams_of_these_tests_reach_every_part() -> None:
    """The properties below would hold for a pipeline that does nothing: on these streams it does everything."""
    outs = run(pipeline_of(), script(400, 3))
    assert sum(len(out.alerts) for out in outs) > 10
    assert {a.status for out in outs for a in out.alerts} >= {"open", "resolved"}
    assert any(a.reasons for out in outs for a in out.alerts)
    assert len({s for s, _ in all_scores(outs).values()}) > 50
    examples = [e for out in outs for e in out.examples]
    assert any(e.correction.any() for e in examples)
    assert any((e.weight > 1).any() for e in examples)
    assert any(out.detections for out in outs)
    assert {r.cause for out in outs for r in out.requests} == {"drift", "volume"}


@settings(max_examples=15, deadline=None)
@given(seeds, st.data())
def test_a_label_never_changes_its_own_events_score(seed: int, data: st.DataObject) -> None:
    """Nor any score made before it became known, wherever it comes: before its event, right after it, or late."""
    n = 60
    calls = script(n, seed)
    event = data.draw(st.integers(0, n - 1), "event")
    place = data.draw(st.integers(0, len(calls)), "place")
    extra: Call = ("labels", label(99_999, event, data.draw(st.booleans(), "value"), user=user_of(calls, event)))
    without, with_label = pipeline_of(), pipeline_of()
    plain_outs = run(without, calls)
    outs = run(with_label, [*calls[:place], extra, *calls[place:]])
    del outs[place]
    own = next(k for k, (_, b) in enumerate(calls) if isinstance(b, EventBatch) and f"e{event}" in b.event_id)
    for k in range(max(place, own + 1)):
        assert scores(outs[k]) == scores(plain_outs[k]), f"call {k}, event in {own}, label before {place}"


def test_a_label_does_change_later_scores() -> None:
    """The property above is not empty."""
    calls = script(60, 5)
    one, other = pipeline_of(), pipeline_of()
    first: Call = ("labels", label(99_999, 0, True, user=user_of(calls, 0)))
    assert all_scores(run(one, calls)) != all_scores(run(other, [calls[0], first, *calls[1:]]))


@settings(max_examples=8, deadline=None)
@given(seeds)
def test_the_same_calls_give_the_same_bits(seed: int) -> None:
    one, two = pipeline_of(), pipeline_of()
    calls = script(150, seed)
    assert [plain(out) for out in run(one, calls)] == [plain(out) for out in run(two, calls)]
    assert state(one) == state(two)
    assert one.model.snapshot() == two.model.snapshot()


@settings(max_examples=10, deadline=None)
@given(seeds, st.floats(0, 1))
def test_snapshot_and_restore_equal_the_straight_run(seed: int, at: float) -> None:
    calls = script(150, seed)
    cut = round(at * len(calls))
    straight = pipeline_of()
    run(straight, calls[:cut])
    second = resumed(straight)
    assert state(second) == state(straight)
    expected, got = run(straight, calls[cut:]), run(second, calls[cut:])
    assert [plain(out) for out in got] == [plain(out) for out in expected]
    assert state(second) == state(straight)
    assert second.evaluation.get() == straight.evaluation.get()
    assert second.evaluation.points() == straight.evaluation.points()


def decided(outs: list[StepOutput]) -> list[tuple[str, float, AlertState | None]]:
    """What was decided on each score: its threshold and its alert, reasons and all."""
    return [
        (event_id, threshold, out.decided.get(row))
        for out in outs
        if out.predictions is not None and out.thresholds is not None
        for row, (event_id, threshold) in enumerate(zip(out.predictions.event_id, out.thresholds.tolist(), strict=True))
    ]


@settings(max_examples=12, deadline=None)
@given(seeds, seeds)
def test_scores_do_not_depend_on_how_events_are_cut_into_calls(seed: int, cuts: int) -> None:
    rng = np.random.default_rng(cuts)
    calls = script(120, seed)
    finer: list[Call] = []
    for kind, b in calls:
        if isinstance(b, EventBatch) and len(b) > 1 and rng.random() < 0.5:
            at = int(rng.integers(1, len(b)))
            finer += [(kind, b.slice(0, at)), (kind, b.slice(at, len(b)))]
        else:
            finer.append((kind, b))
    # An early label is learned in the call of its event, so only labels of events that were scored compare.
    known: set[str] = set()
    kept: list[list[Call]] = [[], []]
    for out, version in zip(kept, (calls, finer), strict=True):
        known.clear()
        for kind, b in version:
            if isinstance(b, EventBatch):
                known.update(b.event_id)
            elif isinstance(b, LabelBatch) and b.event_id[0] not in known:
                continue
            out.append((kind, b))
    one, two = pipeline_of(), pipeline_of()
    outs, others = run(one, kept[0]), run(two, kept[1])
    assert all_scores(others) == all_scores(outs)
    assert plain_examples([e for o in others for e in o.examples]) == plain_examples(
        [e for o in outs for e in o.examples]
    )
    assert [a for o in others for a in o.alerts] == [a for o in outs for a in o.alerts]
    assert decided(others) == decided(outs)
    assert one.model.snapshot() == two.model.snapshot()
    assert one.labelling.typical.snapshot() == two.labelling.typical.snapshot()


@settings(max_examples=8, deadline=None)
@given(seeds, st.sampled_from([1.0, 0.5, 0.1]))
def test_folding_the_examples_gives_the_model(seed: int, rate: float) -> None:
    """Design decision 7: a replica that reads ``examples`` holds the same bits."""
    task = TaskSpec.from_toml(FRAUD.replace("negative_rate = 0.5", f"negative_rate = {rate}"))
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    outs = run(pipeline, script(150, seed))
    replica = OnlineModel(build_learner(task.model, pipeline.features))
    for out in outs:
        for each in out.examples:
            replica.learn(each)
    assert replica.snapshot() == pipeline.model.snapshot()


def test_every_prediction_names_the_model_that_made_it() -> None:
    pipeline = pipeline_of()
    replica = OnlineModel(build_learner(pipeline.task.model, pipeline.features))
    for step in script(150, 11):
        out = call(pipeline, step)
        if out.predictions is not None:
            again, version = replica.score(out.predictions.features)
            assert set(out.predictions.model_version.tolist()) == {version}
            assert again.tolist() == out.predictions.score.tolist()
        for each in out.examples:
            replica.learn(each)
