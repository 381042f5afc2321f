"""A task with a full model: what is logged and where, who sees it, and what happens when there is none to ask."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from tests.online.task_streams import CHURN, FRAUD, T0, events, plays
from weir.online.batch import EventBatch, FloatMatrix, FloatVector, LabelBatch, PredictionBatch
from weir.online.codec.encode import encode_predictions, encode_scored
from weir.online.codec.predictions import ScoredShape, decode_scored
from weir.online.decisions.feature_name import FeatureName
from weir.online.decisions.reasons import ReasonPolicy, ReasonWriter
from weir.online.errors import TaskError
from weir.online.features.store import FeatureStore
from weir.online.full_columns import seen_width
from weir.online.learners.column import ColumnPrefix
from weir.online.learners.factory import LearnerSpec, build_learner
from weir.online.stages.labelling import LabellingStage
from weir.online.stages.scoring import ScoringStage
from weir.online.task.full_spec import FullSpec, columns, features_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

PLAIN = FRAUD.replace('numbers = ["amount"]', 'numbers = ["amount", "speed"]\ninputs = ["*", "!speed", "!user.high*"]')
FULL = PLAIN + '\n[full]\ninputs = ["speed", "user.high*", "hour"]\nstate = 2\nembedding = 2\n'
FURTHER = ("speed", "user.high_count_1d", "hour")


class Echo:
    """A full model: its logit is the sum of what it was given over all rows of the entity so far."""

    row_bytes, schema = 8, 1

    def __init__(self, embedding: int = 2) -> None:
        self.width = 6 + embedding
        self.seen: list[FloatMatrix] = []
        self.tables: list[str] = []

    def score(
        self, table: str, store: FeatureStore, keys: Sequence[str], ts: FloatVector, x: FloatMatrix
    ) -> FloatMatrix:
        self.seen.append(x)
        self.tables.append(table)
        out = np.zeros((len(keys), self.width))
        for i, key in enumerate(keys):
            row = store.load(table, [key])
            row.view(np.float64)[0, 0] += x[i].sum()
            out[i] = [row.view(np.float64)[0, 0], 1.0, *[0.25] * (self.width - 6), 3.0, 1.0, -1.0, 4.0]
            store.save(table, [key], row, float(ts[i]))
        return out


def stage_of(toml: str = FULL, full: Any = None, store: MemoryFeatureStore | None = None) -> ScoringStage:
    return ScoringStage(TaskSpec.from_toml(toml), store or MemoryFeatureStore(), full=full)


def stream(n: int = 40, seed: int = 3) -> EventBatch:
    made = events(n, seed)
    speed = np.where(np.arange(n) % 3 == 0, np.nan, np.arange(float(n)))
    made.numbers["speed"] = speed
    return made


def predictions(stage: ScoringStage, batch: EventBatch) -> PredictionBatch:
    out = stage.events(batch).scored
    assert out is not None
    return out.predictions


def named(stage: ScoringStage, p: PredictionBatch) -> dict[str, FloatVector]:
    return dict(zip(stage.features, p.features.T, strict=True))


# -- what is logged ----------------------------------------------------------------------------------------------------


def test_the_order_of_the_columns_is_seen_then_logged() -> None:
    stage = stage_of()
    own = stage.engine.features
    assert stage.features == (
        *own, "full.logit", "full.known", "full.e0", "full.e1", *FURTHER,
        "full.version", "full.provider", "full.shadow_logit", "full.shadow_version",
    )  # fmt: skip
    assert stage.shape.full_inputs == (*own, *FURTHER)
    assert shape_of(stage.task) == stage.shape
    assert seen_width(stage.features) == len(own) + 4
    assert shape_of(TaskSpec.from_toml(PLAIN)).full_inputs == ()


def test_the_full_model_is_given_exactly_what_is_logged() -> None:
    full = Echo()
    stage = stage_of(full=full)
    made = named(stage, predictions(stage, stream()))
    logged = np.column_stack([made[name] for name in stage.shape.full_inputs])
    assert np.array_equal(logged, full.seen[0])
    assert set(full.tables) == {"fraud.full"}
    assert (made["speed"] == 0).any()
    assert (made["speed"] > 0).any()
    assert set(made["full.shadow_version"]) == {4.0}


def test_its_state_goes_on_from_batch_to_batch_in_the_table_that_keys_names() -> None:
    whole, cut = stage_of(full=Echo()), stage_of(full=Echo())
    expected = named(whole, predictions(whole, stream()))["full.logit"]
    parts = []
    for k in range(0, 40, 7):
        prepared = cut.prepare(stream().slice(k, min(k + 7, 40)))
        wanted = cut.keys(prepared)["fraud.full"]
        assert set(wanted) == set(prepared.batch.entities["user_id"])
        assert len(set(wanted)) == len(wanted)
        out = cut.score(prepared).scored
        parts.append(named(cut, out.predictions)["full.logit"] if out else np.empty(0))
    np.testing.assert_allclose(np.concatenate(parts), expected)


def test_without_a_full_model_its_columns_are_zero_and_the_rest_is_the_same() -> None:
    store = MemoryFeatureStore()
    stage, plain = stage_of(store=store), stage_of(PLAIN)
    made = named(stage, predictions(stage, stream()))
    assert not np.column_stack([made[name] for name in columns(stage.task.full or FullSpec())]).any()
    expected = named(plain, predictions(plain, stream()))
    assert all(np.array_equal(made[name], expected[name]) for name in expected)
    assert "fraud.full" not in stage.keys(stage.prepare(stream(5)))


def test_features_and_scores_apart_are_both_at_once() -> None:
    together, apart, full = stage_of(full=Echo()), stage_of(full=Echo()), Echo()
    full_store = MemoryFeatureStore()
    full_store.create("elsewhere", 8, 1, FullSpec().ttl)
    for part in (stream().slice(0, 25), stream().slice(25, 40)):
        featured = apart.features_of(apart.prepare(part))
        said = full.score("elsewhere", full_store, featured.keys, featured.batch.ts, featured.full_x)
        ours, theirs = apart.finish(featured, said).scored, together.events(part).scored
        assert ours is not None
        assert theirs is not None
        assert np.array_equal(ours.predictions.features, theirs.predictions.features)
        assert np.array_equal(ours.predictions.score, theirs.predictions.score)
    late = apart.features_of(apart.prepare(stream(8, seed=9)))
    out = apart.finish(late, None).scored
    assert out is not None
    assert not named(apart, out.predictions)["full.known"].any()


def test_a_batch_without_rows_of_the_task_asks_nobody() -> None:
    full = Echo()
    stage = stage_of(full=full)
    nothing = stream(6).take(np.empty(0, np.int64))
    assert stage.events(nothing).scored is None
    assert stage.finish(stage.features_of(stage.prepare(nothing)), None).scored is None
    assert full.seen == []


def test_a_task_that_scores_on_timers_steps_the_model_there_only() -> None:
    full = Echo(embedding=0)
    stage = stage_of(CHURN + "\n[full]\nstate = 2\n", full)
    stage.events(plays([("p1", 0.0), ("p2", 60.0)]))
    assert full.seen == []
    prepared = stage.prepare(plays([(f"p{k}", 3 * 3600.0) for k in (3, 4, 5)]))  # three say how late it is
    assert sorted(stage.keys(prepared)["churn.full"]) == ["p1", "p2"]
    out = stage.score(prepared).scored
    assert out is not None
    assert sorted(out.predictions.entity_id) == ["p1", "p2"]
    assert [len(x) for x in full.seen] == [2]


# -- who sees it -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["logistic", "boosted", "stack"])
def test_the_online_model_sees_the_leading_columns_only(kind: str) -> None:
    members = (LearnerSpec(kind="logistic"), LearnerSpec(kind="bayesian_logistic")) if kind == "stack" else ()
    spec, names = LearnerSpec(kind=kind, members=members), features_of(FullSpec(embedding=1), ("a", "b"), ("far",))
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(200, len(names))), rng.random(200) < 0.5
    ours, inner = build_learner(spec, names), build_learner(spec, names[:5])
    assert isinstance(ours, ColumnPrefix)
    assert ours.features == names
    for part in (slice(0, 120), slice(120, 200)):
        ours.learn_many(x[part], y[part], np.ones(len(x[part])))
        inner.learn_many(np.ascontiguousarray(x[part, :5]), y[part], np.ones(len(x[part])))
    other = x.copy()
    other[:, 5:] = rng.normal(size=(200, 5))
    assert np.array_equal(ours.predict_many(x), ours.predict_many(other))
    assert np.array_equal(ours.predict_many(x), inner.predict_many(np.ascontiguousarray(x[:, :5])))
    said = ours.contributions(x)
    assert np.array_equal(said[:, :5], inner.contributions(np.ascontiguousarray(x[:, :5])))
    assert said.shape == x.shape
    assert not said[:, 5:].any()
    assert ours.snapshot() == inner.snapshot()
    fresh = build_learner(spec, names)
    fresh.restore(ours.snapshot())
    assert np.array_equal(fresh.predict_many(x), ours.predict_many(x))


def test_a_learner_without_a_full_model_is_not_wrapped() -> None:
    assert not isinstance(build_learner(LearnerSpec(kind="logistic"), ("a", "b")), ColumnPrefix)
    with pytest.raises(ValueError, match="not the first of"):
        ColumnPrefix(build_learner(LearnerSpec(kind="logistic"), ("b",)), ("a", "b"))


def test_labels_teach_and_alerts_tell_with_the_columns_there() -> None:
    stage = stage_of(full=Echo())
    task, shape, model = stage.task, stage.shape, stage.model
    labelling = LabellingStage(
        task, shape.features, shape.masks, shape.secondary, lambda x, _: model.learner.contributions(x)
    )
    out = stage.events(stream(60)).scored
    assert out is not None
    labelling.scored(out)
    ids = out.predictions.event_id[:30]
    value = np.arange(30) % 2 == 0
    known = LabelBatch([f"l{i}" for i in ids], ["u1"] * 30, list(ids), np.full(30, T0), value, np.ones(30))
    for examples in labelling.labels(known).examples:
        model.learn(examples)
    assert model.version > 0
    again = stage.events(stream(60, seed=4)).scored
    assert again is not None
    labelling.scored(again)
    assert 0 < again.predictions.score.min() < again.predictions.score.max() < 1


def test_reasons_say_what_the_full_model_says_in_words() -> None:
    names = ("amount", *columns(FullSpec(embedding=1)))
    writer = ReasonWriter(names, ReasonPolicy(positive="fraud"))
    x = np.array([[9.0, 2.0, 1.0, 0.4, 3.0, 1.0, 0.0, 0.0]])
    told = np.array([[0.0, 2.0, 1.0, 0.7, 0.0, 0.0, 0.0, 0.0]])
    [reasons] = writer.write(x, told, np.array([9.0, -3.0, 1.0, 0.0, 3.0, 1.0, 0.0, 0.0]))
    assert [reason.text for reason in reasons] == [
        "the full model gives fraud odds of 7.4 to 1 (usually 1 to 20)",
        "the full model answered",
        "the full model sees a pattern of events that raises the odds 2.0x",
    ]
    assert FeatureName.parse("full.logit").entity == "full"


def test_a_surprise_is_seen_by_the_online_model_and_may_be_the_score() -> None:
    toml = FULL.replace("embedding = 2", 'embedding = 1\nsurprise = ["speed", "user.*mean*"]')
    stage = stage_of(toml, full=Echo(embedding=2))  # its last coordinate stands in the place of the surprise
    own = stage.engine.features
    assert stage.features[len(own) : len(own) + 5] == (
        "full.logit", "full.known", "full.e0", "full.surprise", FURTHER[0],
    )  # fmt: skip
    assert seen_width(stage.features) == len(own) + 4
    toml = toml.replace(
        'kind = "logistic"\nparams = { lr = 0.3 }', 'kind = "column"\nparams = { column = "full.surprise" }'
    )
    assert set(predictions(stage_of(toml, full=Echo(embedding=2)), stream()).score) == {0.25}
    nobody = stage_of(toml)
    made = named(nobody, predictions(nobody, stream()))["full.surprise"]
    assert not made.any()
    assert np.signbit(made).all(), "missing, not 0"


def test_the_reason_says_how_surprising_it_was_or_that_nobody_says() -> None:
    names = ("amount", *columns(FullSpec(surprise=("amount",))))
    writer = ReasonWriter(names, ReasonPolicy(positive="fault"))
    x = np.array([[9.0, 0.0, 1.0, 0.998, 3.0, 1.0, 0.0, 0.0], [9.0, 0.0, 1.0, -0.0, 3.0, 1.0, 0.0, 0.0]])
    told = np.zeros((2, 8))
    told[:, 3] = 2.0
    assert [[reason.text for reason in reasons] for reasons in writer.write(x, told)] == [
        ["events of late surprise the full model more than over 99 % of usual ones do"],
        ["the full model does not say how surprising the event is"],
    ]


# -- degraded ----------------------------------------------------------------------------------------------------------


def test_a_record_is_degraded_where_the_full_model_was_not_known() -> None:
    stage = stage_of(full=Echo())
    scored = stage.events(stream()).scored
    assert scored is not None
    p = scored.predictions
    at = stage.features.index("full.known")
    p.features[::3, at] = 0.0
    shape = stage.shape
    records = encode_scored(scored, stage.features, "fraud", T0)
    assert [json.loads(r)["degraded"] for r in records] == [k % 3 == 0 for k in range(len(records))]
    read = decode_scored(
        records, {"fraud": ScoredShape(stage.features, shape.masks, len(shape.watched), shape.secondary)}
    )
    assert np.array_equal(read.tasks["fraud"].scored.predictions.features, p.features)
    assert all(json.loads(r)["degraded"] for r in encode_predictions(p, stage.features, "fraud", T0, degraded=True))
    plain = stage_of(PLAIN)
    assert not any(
        json.loads(r)["degraded"]
        for r in encode_predictions(predictions(plain, stream()), plain.features, "fraud", T0)
    )  # fmt: skip


# -- task files --------------------------------------------------------------------------------------------------------


def test_a_task_file_says_it_has_none_in_two_ways() -> None:
    assert TaskSpec.from_toml(PLAIN).full is None
    assert TaskSpec.from_toml("full = false\n" + PLAIN).full is None
    assert TaskSpec.from_toml(PLAIN + "\n[full]\n").full == FullSpec()


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"speed", "user.high*", "hour"', '"channel"', "'channel' is text, and inputs are numbers; write"),
        ('"speed", "user.high*", "hour"', '"user.low*"', r"\[full\] inputs: 'user.low\*' matches no numeric column"),
        ("state = 2", "state = 9999", "full.state"),
        ("state = 2", 'state = 2\nsurprise = ["flow"]', r"\[full\] surprise: 'flow' matches no numeric column"),
        ("state = 2", 'state = 1\nsurprise = ["speed"]', "set state to 2 or more, not 1"),
        ("state = 2", 'state = 2\nsurprise = ["speed"]\ntraining = { candidates = ["trees"] }', "add 'encoder' to it"),
        ("embedding = 2", "embeding = 2", "full: unknown key .embeding.; did you mean .embedding.?"),
        ('name = "user"', 'name = "full"', "is named 'full'"),
    ],
)
def test_what_does_not_fit_is_said_by_name(old: str, new: str, says: str) -> None:
    toml = FULL.replace(old, new).replace('entity = "user"', 'entity = "full"' if "full" in new else 'entity = "user"')
    with pytest.raises(TaskError, match=says):
        stage_of(toml)


def test_a_full_model_of_another_width_or_of_no_task_is_refused() -> None:
    with pytest.raises(TaskError, match=r"8 columns was given, but there is no \[full\]"):
        stage_of(PLAIN, Echo())
    with pytest.raises(TaskError, match=r"8 columns was given, but \[full\] makes 6"):
        stage_of(PLAIN + "\n[full]\n", Echo())
    stage = stage_of()
    featured = stage.features_of(stage.prepare(stream(5)))
    with pytest.raises(ValueError, match=r"gave \(1, 8\), expected"):
        stage.finish(featured, np.zeros((1, 8)))


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1.7e308])
def test_an_answer_that_is_no_number_counts_as_none(odd: float) -> None:
    stage, plain = stage_of(full=Echo()), stage_of(full=Echo())
    batch = stream(12)
    featured = stage.features_of(stage.prepare(batch))
    said = stage.ask(featured)
    assert said is not None
    said[5, 3] = odd  # a coordinate of the embedding, which nobody else looks at
    out = stage.finish(featured, said).scored
    assert out is not None
    made, expected = named(stage, out.predictions), named(plain, predictions(plain, batch))
    assert made["full.known"][5] == made["full.logit"][5] == made["full.version"][5] == 0.0
    assert np.delete(made["full.logit"], 5).tolist() == np.delete(expected["full.logit"], 5).tolist()
    records = encode_scored(out, stage.features, "fraud", T0)
    assert [b'"degraded":true' in record for record in records] == [i == 5 for i in range(len(records))]
