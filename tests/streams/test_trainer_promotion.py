"""Shadows judged on labelled live rows, however the log is cut; a person's choice ends what was judged."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from pydantic import ValidationError

from tests.streams.trainer_fakes import NOW, SkillBuilder, World
from weir.models.types import Built
from weir.online.batch import ExampleBatch
from weir.online.codec.encode import encode_examples
from weir.online.errors import TaskError
from weir.online.task.full_spec import TrainingSpec
from weir.streams.trainer.job.live_examples import LiveRows, decode_live
from weir.streams.trainer.job.promotion import ROWS_MAX, PhaseState, PromotionPhase, PromotionRules

FEATURES = ("amount", "full.logit", "full.known", "full.version", "full.provider", "full.shadow_logit",
            "full.shadow_version")  # fmt: skip


def examples(n: int) -> ExampleBatch:
    rng = np.random.default_rng(1)
    x = rng.normal(0, 1, (n, len(FEATURES)))
    x[:, [3, 6]] = (4.0, 5.0)
    return ExampleBatch(
        [f"e{k}" for k in range(n)], np.full(n, NOW), x, np.full(n, 0.5), rng.random(n) < 0.3, np.ones(n),
        np.zeros(n, np.bool_), entity_id=[f"u{k % 7}" if k % 5 else None for k in range(n)],
    )  # fmt: skip


def test_rows_of_a_pipeline_and_of_its_records_are_the_same_whatever_else_they_hold() -> None:
    batch = examples(50)
    records = encode_examples(batch, FEATURES, "fraud")
    others = [b"not json", b'{"task":"fraud"}', records[0].replace(b'"fraud"', b'"churn"')]
    here, read = LiveRows.of(batch, FEATURES), decode_live([*others, *records], "fraud")
    for name in LiveRows.__slots__:
        np.testing.assert_array_equal(getattr(here, name), getattr(read, name))
    assert here.entity[:3] == ["e0", "u1", "u2"], "where it is not known whose event it is, it stands for itself"
    with pytest.raises(TaskError, match=r"needs \[full\]"):
        LiveRows.of(batch, ("amount",) * len(FEATURES))


def test_a_phase_holds_no_more_rows_than_its_document_can_carry() -> None:
    """Where all labels are alike, a phase waits for others up to ten times its examples, and never beyond the bound."""
    rules = PromotionRules(40_000, "average_precision", 0.9, 1)
    phase, n = PromotionPhase(rules, PhaseState("shadow", 4, 5, NOW)), ROWS_MAX
    x = np.zeros((n, len(FEATURES)))
    x[:, [2, 3, 6]] = (1.0, 4.0, 5.0)
    batch = ExampleBatch(
        [f"e{k}" for k in range(n)], np.full(n, NOW), x, np.full(n, 0.5), np.zeros(n, np.bool_), np.ones(n),
        np.zeros(n, np.bool_),
    )  # fmt: skip
    decided = phase.update(LiveRows.of(batch, FEATURES))
    assert decided is not None
    assert (decided.rows, len(phase)) == (80_000, 80_000)
    with pytest.raises(ValidationError, match="less than or equal to 100000"):
        TrainingSpec(shadow_examples=ROWS_MAX + 1)


@pytest.mark.parametrize("cuts", [[7], [1, 2, 3, 190], [100, 100, 30]])
def test_a_phase_does_not_depend_on_how_the_log_is_cut_nor_on_snapshots(tmp_path: Path, cuts: list[int]) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    world.shelf.models.append(("next", Built("trees", b"1.5", ("truth",))))
    world.shelf.shadows = 2
    rows, rules = world.rows(450), PromotionRules(200, "average_precision", 0.9, 1)
    start = PhaseState("shadow", serving=1, other=2, since=NOW)
    whole = PromotionPhase(rules, start).update(rows)
    assert whole is not None
    phase, at, found = PromotionPhase(rules, start), 0, None
    for k in range(1000):
        n = cuts[k % len(cuts)]
        part = LiveRows(*(getattr(rows, name)[at : at + n] for name in LiveRows.__slots__))
        found = phase.update(part)
        if found is not None:
            break
        at += n
        state = msgspec.json.decode(msgspec.json.encode(phase.snapshot()), type=PhaseState)
        phase = PromotionPhase(rules, state)
    assert found is not None
    assert found._replace(rows=at + found.rows) == whole


def test_a_shadow_that_workers_refuse_is_retired_and_too_few_positives_are_waited_for(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    rules = PromotionRules(100, "average_precision", 0.9, 1)
    never = PromotionPhase(rules, PhaseState("shadow", serving=1, other=9, since=world.clock.now)).update(
        world.rows(1500)
    )
    assert never is not None
    assert (never.decision, never.rows) == ("retire", 1000)
    assert "refused" in never.reason
    world.shelf.models.append(("next", Built("trees", b"3.0", ("truth",))))
    world.shelf.shadows = 2
    phase = PromotionPhase(rules, PhaseState("shadow", serving=1, other=2, since=world.clock.now))
    assert phase.update(world.rows(300, rate=0.01)) is None
    decided = phase.update(world.rows(500, rate=0.2))
    assert decided is not None
    assert decided.decision == "promote"


def test_a_busy_entity_is_one_witness_however_many_events_it_has() -> None:
    """Twenty copies of each event of an entity tell nothing new; as events of their own they would decide."""
    rng, copies = np.random.default_rng(5), 20
    y = np.repeat(rng.random(60) < 0.4, copies)
    logit, other = (np.repeat(gain * (y[::copies]) + rng.normal(0, 1, 60), copies) for gain in (1.3, 1.0))
    n, ids = len(y), [f"e{k}" for k in range(len(y))]
    rules = PromotionRules(n, "roc_auc", 0.9, 1)

    def judged(entity: list[str]) -> tuple[str, float]:
        phase = PromotionPhase(rules, PhaseState("shadow", serving=1, other=2, since=NOW))
        rows = LiveRows(
            ids, entity, np.full(n, NOW), y, np.ones(n), logit, np.full(n, 1), other,
            np.full(n, 2),
        )  # fmt: skip
        found = phase.update(rows)
        assert found is not None
        interval = re.search(r"\[([-+.\d]+), ([-+.\d]+)\]", found.reason)
        assert interval is not None
        return found.reason, float(interval[2]) - float(interval[1])

    alone, together = judged(ids), judged([f"u{k // copies}" for k in range(n)])
    assert "worse: roc auc" in alone[0]
    assert "undecided: roc auc" in together[0]
    assert together[1] > 2 * alone[1], "though it has seen all rows, and the other made up its mind at a fifth of them"


def test_a_document_of_before_entities_were_noted_goes_on() -> None:
    rules = PromotionRules(40, "average_precision", 0.9, 1)
    phase = PromotionPhase(rules, PhaseState("shadow", serving=4, other=5, since=NOW))
    phase.update(LiveRows.of(examples(20), FEATURES))
    old = msgspec.structs.replace(phase.snapshot(), entity=())
    again = PromotionPhase(rules, old)
    again.update(LiveRows.of(examples(30), FEATURES))
    held = again.snapshot()
    assert held.entity[:20] == held.event_id[:20]
    assert held.entity[21:23] == ("u0", "u1")


def test_a_corrected_label_counts_as_corrected(tmp_path: Path) -> None:
    rules = PromotionRules(40, "average_precision", 0.9, 1)
    phase = PromotionPhase(rules, PhaseState("shadow", serving=4, other=5, since=NOW))
    rows = LiveRows.of(examples(30), FEATURES)
    phase.update(rows)
    phase.update(LiveRows(**{name: getattr(rows, name)[:5] for name in LiveRows.__slots__} | {"y": ~rows.y[:5]}))
    held = phase.snapshot()
    assert len(phase) == 30
    assert held.y[:5] == tuple(~rows.y[:5])


def test_a_corrected_label_has_the_weight_of_its_correction_as_metrics_have_it() -> None:
    rules = PromotionRules(40, "average_precision", 0.9, 1)
    phase = PromotionPhase(rules, PhaseState("shadow", serving=4, other=5, since=NOW))
    rows = LiveRows.of(examples(30), FEATURES)
    sampled = np.where(rows.y, 1.0, 20.0)  # negative_rate = 0.05
    phase.update(replace(rows, weight=sampled))
    k = int(np.flatnonzero(~rows.y)[0])
    redone = replace(rows.slice(k, 30), y=np.ones(30 - k, np.bool_), weight=np.ones(30 - k))
    phase.update(LiveRows(*(getattr(redone, name)[:1] for name in LiveRows.__slots__)))
    held = phase.snapshot()
    assert (held.y[k], held.weight[k]) == (True, 1.0)
    assert held.weight[k + 1 :] == tuple(sampled[k + 1 :])


def test_a_version_that_a_person_made_serve_ends_what_was_judged(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.promoted(1.0)
    world.builders["trees"] = SkillBuilder(2.0)
    world.restart()
    world.ask(2, world.clock.now)
    world.job.work()
    world.shelf.models.append(("by hand", Built("trees", b"1.0", ("truth",))))
    world.shelf.serves = 3
    world.trainer.look()
    world.trainer.tell()
    assert world.stages()[-1] == "retired"
    assert "by hand" in world.trainer.state.ended[-1].reason
    assert (world.shelf.serves, world.shelf.shadows) == (3, 0)
