"""Compares what the workers left in Kafka and Redis, once all is quiet, with the truth that one linear pass makes.

`Checker.check` runs every comparison and reports all that failed, not only the first. Repeats of records are allowed
where a worker was killed; what must hold is that they carry the ids of the first and count nowhere.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections import Counter
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any

import numpy as np
import orjson
import redis

from tests.integration.chaos.deployment import Deployment, StoredRecord
from tests.integration.chaos.replay import (
    EventTruth,
    LabelTruth,
    ModelWalk,
    example_values,
    firsts_of,
    replay_events,
    replay_labels,
    replay_updates,
    scored_of,
)
from weir.online.batch import ExampleBatch, ScoredBatch
from weir.online.codec.decision_blocks import Decision, decode_decisions
from weir.online.codec.decode import decode_labels
from weir.online.codec.example_log import decode_example_log
from weir.online.codec.wire import Alert, DeadLetter
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.stages.lane_threshold import share_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import shape_of
from weir.streams.config import topics
from weir.streams.redis.stored_rows import Lane, decode_row, lane_prefix

Log = dict[int, list[StoredRecord]]
SHOWN = 3  # examples of what differs, in a message
KEPT = 256 * 1024
"""Bytes that a dead letter holds of its record at least: with all of a very large one it would itself be too large."""


class Differs(AssertionError):  # noqa: N818 - reads as what happened
    """What the workers left is not the truth; the message says where."""


def _some(items: Any) -> str:
    found = sorted(items, key=repr)
    return f"{len(found)}, such as {found[:SHOWN]}"


def same(what: str, found: Mapping[Any, Any], wanted: Mapping[Any, Any]) -> None:
    """Fail where two mappings differ, naming what is missing, extra and different."""
    missing, extra = wanted.keys() - found.keys(), found.keys() - wanted.keys()
    other = [key for key in wanted.keys() & found.keys() if found[key] != wanted[key]]
    parts = [f"missing: {_some(missing)}"] * bool(missing) + [f"extra: {_some(extra)}"] * bool(extra)
    if other:
        key = sorted(other, key=repr)[0]
        parts.append(f"different: {_some(other)}; {key!r} is {found[key]!r:.300}, should be {wanted[key]!r:.300}")
    if parts:
        raise Differs(f"{what}: {'; '.join(parts)}")


class Checker:
    """Reads everything when first asked for it; make one when the workers have nothing left to do.

    Parameters
    ----------
    deployment : what ran.
    store : the Redis that it used.
    """

    def __init__(self, deployment: Deployment, store: redis.Redis) -> None:
        self.deployment, self.tasks, self._redis = deployment, deployment.tasks, store
        self.notes: dict[str, Any] = {}
        """What was counted, for the test to print."""

    # -- what there is -------------------------------------------------------------------------------------------

    @cached_property
    def events(self) -> Log:
        return self.deployment.read(topics.USER_EVENTS)

    @cached_property
    def labels(self) -> Log:
        return self.deployment.read(topics.LABELS)

    @cached_property
    def updates(self) -> Log:
        return self.deployment.read(topics.ENTITY_UPDATES)

    @cached_property
    def truths(self) -> dict[int, EventTruth]:
        return {p: replay_events(self.tasks, records) for p, records in self.events.items()}

    @cached_property
    def scored(self) -> dict[int, dict[str, ScoredBatch]]:
        """Every prediction, by partition and task."""
        return {p: scored_of(self.tasks, records) for p, records in self.deployment.read(topics.PREDICTIONS).items()}

    @cached_property
    def label_truths(self) -> dict[tuple[int, str], LabelTruth]:
        lanes = self.deployment.settings.topics.partitions
        return {
            (p, name): replay_labels(task, firsts_of(self.scored[p][name]), self.labels.get(p, []), lanes, p)
            for p in self.scored
            for name, task in self.tasks.items()
        }

    @cached_property
    def examples(self) -> dict[str, ExampleBatch]:
        """The log of each task."""
        log = self.deployment.read(topics.EXAMPLES)
        records = [stored.record.value for partition in sorted(log) for stored in log[partition]]
        found = decode_example_log(records, {name: shape_of(task).features for name, task in self.tasks.items()})
        assert not found.rejects, f"examples holds what is no example: {found.rejects[0]}"
        return {name: mine.batch for name, mine in found.tasks.items()}

    # -- the comparisons -----------------------------------------------------------------------------------------

    def check(self) -> dict[str, Any]:
        """Run every comparison; raises `Differs` with all that failed, returns counts."""
        checks: list[Callable[[], None]] = [
            self.every_event_has_its_predictions,
            self.features_are_those_of_a_linear_replay,
            self.scores_are_those_of_their_version,
            self.every_bad_record_is_a_dead_letter,
            self.rows_equal_a_linear_replay,
            self.updates_are_complete,
            self.side_rows_equal_a_linear_replay,
            self.timers_told_their_labels,
            self.examples_are_those_of_the_first_predictions,
            self.alerts_equal_the_embedded_ones,
            self.decisions_are_those_on_the_first_predictions,
        ]
        failed = []
        for check in checks:
            try:
                check()
            except AssertionError as error:
                failed.append(f"- {check.__name__}: {error}")
        if failed:
            raise Differs(f"{len(failed)} of {len(checks)} checks failed; {self.notes}\n" + "\n".join(failed))
        return self.notes

    def every_event_has_its_predictions(self) -> None:
        """Each valid distinct event of a task has one prediction at least, on its partition, and nothing else has."""
        repeats: Counter[str] = Counter()
        for p, truth in self.truths.items():
            for name in self.tasks:
                found = self.scored.get(p, {}).get(name)
                ids = found.predictions if found is not None else None
                entities = dict(zip(ids.event_id, ids.entity_id, strict=True)) if ids is not None else {}
                wanted = {event_id: entity for event_id, (entity, _) in truth.scored.get(name, {}).items()}
                same(f"predictions of {name}, partition {p}", entities, wanted)
                repeats[name] += (len(ids.event_id) if ids is not None else 0) - len(entities)
        self.notes["events"] = {
            name: sum(len(t.scored.get(name, {})) for t in self.truths.values()) for name in self.tasks
        }
        self.notes["repeated predictions"] = dict(repeats)
        self.notes["duplicate events"] = sum(t.duplicates for t in self.truths.values())

    def features_are_those_of_a_linear_replay(self) -> None:
        """Of every prediction, repeats too: the features that follow from its partition's events alone."""
        for p, truth in self.truths.items():
            for name, task in self.tasks.items():
                predictions = self.scored[p][name].predictions
                known, features = truth.scored.get(name, {}), shape_of(task).features
                at = {feature: k for k, feature in enumerate(features)}
                for event_id, x in zip(predictions.event_id, predictions.features.tolist(), strict=True):
                    if event_id in known:
                        own = known[event_id][1]
                        same(f"features of {event_id} for {name}", {feature: x[at[feature]] for feature in own}, own)

    def scores_are_those_of_their_version(self) -> None:
        """Of every prediction: the score is what the model makes of its features that learned so much of the log."""
        self.notes["versions"] = {}
        for name, task in self.tasks.items():
            parts = [by_task[name] for _, by_task in sorted(self.scored.items())]
            walk = ModelWalk(task, self.examples[name])
            p = [part.predictions for part in parts]
            whole = dataclasses.replace(
                p[0],
                event_id=[i for each in p for i in each.event_id],
                entity_id=[i for each in p for i in each.entity_id],
                **{
                    k: np.concatenate([getattr(each, k) for each in p])
                    for k in ("ts", "score", "model_version", "features")
                },
            )
            n = len(whole)
            scores = walk.scores(ScoredBatch(whole, np.empty((n, 0)), np.empty((n, 0)), {}))
            wrong = np.flatnonzero(scores != whole.score)
            if len(wrong):
                k = int(wrong[0])
                raise Differs(
                    f"{len(wrong)} of {n} scores of {name}: {whole.event_id[k]} has {whole.score[k]!r} by version "
                    f"{whole.model_version[k]}, which gives {scores[k]!r}"
                )
            self.notes["versions"][name] = (int(whole.model_version.max()) if n else 0, len(walk))

    def every_bad_record_is_a_dead_letter(self) -> None:
        """The dead letters, repeats aside, are the records that were refused."""
        name = self.deployment.settings.topics.name
        wanted = {(name(topics.USER_EVENTS), p, at) for p, truth in self.truths.items() for at in truth.refused}
        for p, records in self.labels.items():
            rejects = decode_labels([r.record.value for r in records]).rejects
            wanted |= {(name(topics.LABELS), p, records[r.index].offset) for r in rejects}
        letters = [
            DeadLetter.model_validate_json(stored.record.value)
            for records in self.deployment.read(topics.DEAD_LETTERS).values()
            for stored in records
        ]
        found = {(letter.topic, letter.partition, letter.offset): letter.raw[:KEPT] for letter in letters}
        logs = {name(topics.USER_EVENTS): self.events, name(topics.LABELS): self.labels}
        values = {(topic, p, s.offset): s.record.value for topic, log in logs.items() for p in log for s in log[p]}
        raw = {at: values[at][:KEPT] for at in wanted}
        same("dead letters", found, raw)
        self.notes["dead letters"] = (len(found), len(letters) - len(found))

    def rows_equal_a_linear_replay(self) -> None:
        """Bit for bit, and no row more or less."""
        rows = 0
        for p, truth in self.truths.items():
            for table, wanted in truth.rows.items():
                same(f"rows of {table}, partition {p}", self._rows((topics.USER_EVENTS, p), table), wanted)
                rows += len(wanted)
        self.notes["rows"] = rows

    def updates_are_complete(self) -> None:
        """Every event's update of a row that another lane owns is there with its values, and so is every label's."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for records in self.updates.values():
            for table, firsts in replay_updates(self.tasks, records)[1].items():
                found.setdefault(table, {}).update(firsts)
        wanted: dict[tuple[str, str], dict[str, Any]] = {}
        for truth in self.truths.values():
            for table, updates in truth.updates.items():
                wanted.setdefault(table, {}).update(updates)
        for table, updates in wanted.items():
            same(f"updates of {table}", found.get(table, {}), updates)
        by_label: dict[tuple[str, str], set[str]] = {}
        for (_, name), labelled in self.label_truths.items():
            for layout, ids in labelled.updates.items():
                by_label.setdefault((name, layout), set()).update(ids)
        for table, ids in by_label.items():
            same(f"updates of {table}", dict.fromkeys(found.get(table, {})), dict.fromkeys(ids))
        self.notes["updates"] = sum(map(len, found.values()))

    def side_rows_equal_a_linear_replay(self) -> None:
        """The rows that ``entity-updates`` feeds, bit for bit."""
        rows = 0
        for q, records in self.updates.items():
            for table, wanted in replay_updates(self.tasks, records)[0].items():
                same(f"rows of {table}, partition {q}", self._rows((topics.ENTITY_UPDATES, q), table), wanted)
                rows += len(wanted)
        self.notes["side rows"] = rows

    def timers_told_their_labels(self) -> None:
        """Labels from silence are in ``labels``, and none that a linear replay does not make."""
        for p, truth in self.truths.items():
            decoded = decode_labels([r.record.value for r in self.labels.get(p, [])]).by_task()
            for name, task in self.tasks.items():
                if task.labels.silence is None:
                    continue
                mine = decoded.get(name)
                found = set(zip(mine.event_id, mine.value.tolist(), strict=True)) if mine is not None else set()
                wanted = truth.labels.get(name, set())
                same(f"labels of {name}, partition {p}", dict.fromkeys(found), dict.fromkeys(wanted))

    def examples_are_those_of_the_first_predictions(self) -> None:
        """The examples, repeats aside, are those that the first predictions and the labels make; as a set.

        Where time makes negatives, a label may come before or behind its own: the last example of each event is held
        to the truth, and those before it are said to be other values, one after the other.
        """
        self.notes["examples"] = {}
        for name in self.tasks:
            wanted: dict[Any, Any] = {}
            for (_, task), truth in self.label_truths.items():
                wanted |= truth.examples if task == name else {}
            log = self.examples[name]
            found = example_values(log.take(np.arange(len(log))[::-1]))  # of repeats the first is kept
            if self.tasks[name].labels.join.negative_after_s is None:
                same(f"examples of {name}", found, wanted)
            else:
                same(f"last examples of {name}", _lasts(found), _lasts(wanted))
            self.notes["examples"][name] = (len(found), len(log) - len(found))

    def alerts_equal_the_embedded_ones(self) -> None:
        """For tasks whose alerts no label changes: the first and the last record of each alert."""
        found: dict[str, list[Alert]] = {}
        records = 0
        for log in self.deployment.read(topics.ALERTS).values():
            for stored in log:
                alert = Alert.model_validate(orjson.loads(stored.record.value))
                found.setdefault(alert.alert_id, []).append(alert)
                records += 1
        quiet = [name for name in self.tasks if not any(len(self.examples[n]) for n in [name])]
        wanted: dict[str, list[Any]] = {}
        for (_, name), truth in self.label_truths.items():
            for state in truth.alerts if name in quiet else ():
                wanted.setdefault(state.alert_id, []).append(state)
        mine = {i: states for i, states in found.items() if states[0].task in quiet}
        same("first alerts", {i: _say(s[0]) for i, s in mine.items()}, {i: _say(s[0]) for i, s in wanted.items()})
        same("last alerts", {i: _say(s[-1]) for i, s in mine.items()}, {i: _say(s[-1]) for i, s in wanted.items()})
        self.notes["alerts"] = {"of label-free tasks": len(mine), "all": len(found), "records": records}

    def decisions_are_those_on_the_first_predictions(self) -> None:
        """One a prediction, in its partition and order; alerts, and lines that follow a budget's use, are others where
        labels resolve alerts at another time. A repeat says what the first said, reasons and all."""
        count, repeats, lanes = 0, 0, self.deployment.settings.topics.partitions
        found: dict[tuple[int, str], dict[str, Decision]] = {}
        for p, log in self.deployment.read(topics.DECISIONS).items():
            for block in (decode_decisions(stored.record.value) for stored in log):
                firsts = found.setdefault((p, block.task), {})
                for row in block.batch.rows():
                    if (first := firsts.setdefault(row.event_id, row)) != row:
                        raise Differs(f"a repeat of a decision says {row}, and the first {first}")
                    repeats += first is not row
                    count += 1
        for (p, name), truth in self.label_truths.items():
            mine, wanted = found.get((p, name), {}), {row.event_id: row for row in truth.decisions}
            free = not len(self.examples[name])
            same(f"decisions on {name}, partition {p}", {i: _decided(row, free) for i, row in mine.items()},
                 {i: _decided(row, free) for i, row in wanted.items()})  # fmt: skip
            if [*mine] != [*wanted]:
                raise Differs(f"decisions on {name}, partition {p}, are not in the order of their predictions")
            _check_budget(f"{name}, partition {p}", self.tasks[name], lanes, p, mine)
        self.notes["decisions"] = (count - repeats, repeats)

    # -- Redis ---------------------------------------------------------------------------------------------------

    def _rows(self, lane: Lane, table: str) -> dict[str, bytes]:
        start = lane_prefix(self.deployment.settings.redis.prefix, lane) + f"{table}:"
        keys: list[bytes] = list(self._redis.scan_iter(match=f"{start}*", count=5_000))
        values: list[Any] = self._redis.mget(keys) if keys else []
        return {
            key.decode().removeprefix(start): decode_row(lane, value).row
            for key, value in zip(keys, values, strict=True)
            if value is not None
        }


def _decided(row: Decision, with_alert: bool) -> tuple[Any, ...]:
    """What of a decision must not differ; of its alert what `_say` says."""
    alert = row.alert
    if not with_alert:
        return (*row[:4], *row[5:7])
    return (*row[:7], alert is not None, alert and (alert.alert_id, alert.status, alert.severity))


def _check_budget(where: str, task: TaskSpec, lanes: int, lane: int, decisions: Mapping[str, Decision]) -> None:
    """Whatever moved the line: who has an alert was over it, and no span of event time has more alerts than its cap."""
    under = [row.event_id for row in decisions.values() if row.alert is not None and row.score < row.threshold]
    if under:
        raise Differs(f"decisions on {where}: {_some(under)} have an alert and are under the line")
    policy = share_of(task.threshold, 1 / lanes, lane)
    if not isinstance(policy, BudgetThreshold):
        return
    opened: dict[str, float] = {}
    for row in decisions.values():
        if row.alert is not None:
            opened.setdefault(row.alert.alert_id, row.ts)
    times = np.sort(np.fromiter(opened.values(), np.float64, len(opened)))
    for most, span_s in policy.limits:
        within = np.arange(len(times)) - np.searchsorted(times, times - span_s, side="right") + 1
        if len(times) and within.max() > most:
            raise Differs(f"alerts on {where}: {within.max()} opened within {span_s:,.0f} s, the cap is {most}")


def _lasts(examples: Mapping[tuple[str, int], tuple[bytes, float, bool, float, bool]]) -> dict[str, tuple[Any, ...]]:
    """By event: features, score, value and weight of its last example, and whether all before it said the opposite of
    the one behind."""
    said: dict[str, list[tuple[int, tuple[bytes, float, bool, float, bool]]]] = {}
    for (event_id, n), example in sorted(examples.items()):
        said.setdefault(event_id, []).append((n, example))
    return {
        event_id: (*told[-1][1][:4], all(a[1][2] != b[1][2] for a, b in itertools.pairwise(told)))
        for event_id, told in said.items()
    }


def _say(alert: Any) -> tuple[Any, ...]:
    """What of an alert must not differ; reasons depend on what is typical, which is checked elsewhere."""
    return (
        alert.task, alert.entity_id, alert.status, alert.severity, alert.score, alert.threshold, alert.opened_at,
        alert.updated_at, tuple(alert.event_ids),
    )  # fmt: skip
