"""Records of alerts and of what people do with them, for the tests of the database."""

from __future__ import annotations

import random
from typing import Any

from sqlalchemy import Engine, select

from weir.online.codec.encode import encode_model
from weir.online.codec.wire import Alert, CaseEvent, Example, ModelUpdate, Reason, RetrainRequest
from weir.streams.config import topics
from weir.streams.records import Record
from weir.streams.service.store import tables as t
from weir.streams.service.store.learned import RecentExamples
from weir.streams.service.store.projection import Piece, Projection

NOW = 1_700_000_000.0
PEOPLE = ("ana", "ben", "Zoë")


def alert(n: int, status: str = "open", severity: str = "low", score: float = 0.9, **more: Any) -> Record:
    """A record of alert ``n``: its entity is one of a hundred, its amount in its reasons."""
    amount, entity = float(n * 7919 % 500), f"u{n % 100}"
    reason = Reason(feature="amount", value=amount, contribution=1.0, text=f"{amount:.0f} EUR is 100% Über_all")
    facts = {
        "alert_id": f"fraud:{entity}:e{n}", "task": "fraud" if n % 3 else "churn", "entity_id": entity,
        "status": status, "severity": severity, "score": score, "threshold": 0.5, "reasons": (reason,),
        "opened_at": NOW + n, "updated_at": NOW + n + 0.5, "event_ids": (f"e{n}", f"f{n}"),
    }  # fmt: skip
    return Record(entity.encode(), encode_model(Alert.model_validate(facts | more)), NOW + n)


def case_event(n: int, number: int, action: str, by: str = "ana", **more: Any) -> Record:
    """What somebody did with alert ``n``; ``number`` makes its id and its time."""
    facts = {
        "case_event_id": f"c{number}", "alert_id": f"fraud:u{n % 100}:e{n}", "task": "fraud" if n % 3 else "churn",
        "entity_id": f"u{n % 100}", "action": action, "by": by, "at": NOW + 1000 + number,
    }  # fmt: skip
    event = CaseEvent.model_validate(facts | more)
    return Record(event.alert_id.encode(), encode_model(event), event.at)


def snooze(number: int, begins: bool, entity: bool, by: str = "ana") -> Record:
    """Somebody snoozes one of six entities or one of two reasons, or ends that."""
    task, kind = ("fraud", "churn")[number % 2], "entity" if entity else "reason"
    of = f"u{number % 6}" if entity else ("amount", "night")[number % 2]
    event = CaseEvent.model_validate({
        "case_event_id": f"s{number}", "alert_id": f"snooze:{task}:{kind}:{of}", "task": task, "by": by,
        "entity_id": of if entity else None, "feature": None if entity else of, "snoozes": kind,
        "action": "snooze" if begins else "unsnooze", "at": NOW + 1200 + number, "note": "known",
        "until": NOW + 1250 + 50 * number if begins else None,
    })  # fmt: skip
    return Record(event.alert_id.encode(), encode_model(event), event.at)


def example(n: int, value: int, times: int = 0) -> Record:
    """What a model learns of the first event of alert ``n``."""
    task = "fraud" if n % 3 else "churn"
    of = {"event_id": f"e{n}", "n": times, "entity_id": f"u{n % 100}"}
    made = Example.model_validate(of | {"task": task, "ts": NOW, "features": {"a": 1.0}, "score": 0.5, "value": value})
    return Record(task.encode(), encode_model(made), NOW + 5000)


def request(number: int) -> Record:
    asked = RetrainRequest(request_id=f"r{number}", task="fraud", cause="manual", requested_at=NOW)
    return Record(b"fraud", encode_model(asked), NOW + number)


def update(number: int) -> Record:
    digest, version = f"sha256:{number:064x}", str(number + 1)
    made = ModelUpdate(
        task="fraud", version=version, action="promote", uri=f"fraud/{version}", digest=digest, created_at=NOW
    )
    return Record(b"fraud", encode_model(made), NOW + number)


def some(seed: int, alerts: int) -> dict[str, list[Record]]:
    """A history: by topic."""
    rng = random.Random(seed)
    severities, statuses = ("low", "medium", "high", "critical"), ("open", "escalated", "resolved")
    made: dict[str, list[Record]] = {name: [] for name in (topics.ALERTS, topics.CASE_EVENTS, topics.EXAMPLES)}
    for n in range(alerts):
        for status in statuses[: rng.randint(1, 3)]:
            score = round(rng.random(), 2)
            made[topics.ALERTS].append(alert(n, status, rng.choice(severities), score))
    for number in range(alerts * 2):
        n, by = rng.randrange(alerts), rng.choice(PEOPLE)
        actions = ("verdict", "verdict", "undo", "assign", "release", "note", "snooze", "hold", "escalate")
        action = rng.choice(actions)
        sayings: dict[str, dict[str, Any]] = {
            "verdict": {"verdict": rng.choice(("confirmed", "false_alarm", "unsure")), "state": "open",
                        "examples_before": len(made[topics.EXAMPLES]), "note": "weil's so ist", "reason": "stolen"},
            "assign": {"assignee": rng.choice(PEOPLE), "until": NOW + 1000 + number + rng.randrange(40)},
            "note": {"note": "a\nb"},
            "snooze": {"until": NOW + 9000}, "hold": {"until": NOW + 1000 + number + rng.randrange(400)},
        }  # fmt: skip
        said = dict(sayings.get(action, {}))
        if rng.random() < 0.3:
            said["expects"] = rng.randrange(3)
        made[topics.CASE_EVENTS].append(case_event(n, number, action, by, **said))
        if action == "verdict" and rng.random() < 0.7:
            made[topics.EXAMPLES].append(example(n, rng.randrange(2), number))
    made[topics.CASE_EVENTS] += [snooze(n, n % 3 != 2, entity=n % 2 == 0) for n in range(alerts // 10)]
    return made | {
        topics.RETRAIN_REQUESTS: [request(n) for n in range(3)],
        topics.MODEL_UPDATES: [update(n) for n in range(3)],
    }


def project(engine: Engine, records: dict[str, list[Record]]) -> None:
    """All of them, at once."""
    projection, recent = Projection(engine), RecentExamples()
    projection.begin("log")
    for topic in (*(name for name in records if name != topics.EXAMPLES), topics.EXAMPLES):
        if found := records.get(topic):
            assert projection.write(Piece(topic, 0, 0, len(found), list(enumerate(found))), recent) is not None


def contents(engine: Engine) -> dict[str, list[tuple[Any, ...]]]:
    """Every row of every table that records make, in order."""
    with engine.connect() as c:
        return {table.name: sorted((tuple(row) for row in c.execute(select(table))), key=repr) for table in t.PROJECTED}
