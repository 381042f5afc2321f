"""Makes labels of verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import msgspec

from weir.online.codec.encode import encode_model
from weir.online.codec.wire import ID_CHARS, VERSION, Label
from weir.online.task.spec import TaskSpec
from weir.streams.records import Record
from weir.streams.service.store.case_rules import VALUES, AlertRow


def verdict_labels(row: AlertRow, task: TaskSpec, value: int, generation: int, source: str, now: float) -> list[Record]:
    """What a verdict says of an alert: of each of its events, or of its entity at the time of the last one.

    Ids follow from the alert, the value and how often the verdict had changed, so that the same verdict given twice is
    one label, and the same one given again after another is a new one.

    Where labels are of events, a false alarm comes with one more, of the entity, which no prediction joins: it resolves
    the alert in the stream, where otherwise each event of it would have to be cleared, also those that are not listed.
    """
    events = _events(row, task)
    resolving = [None] if not value and None not in events else []
    return _labels(row, [*resolving, *events], value, generation, source, now)


def _events(row: AlertRow, task: TaskSpec) -> list[str | None]:
    """What labels name; ``None`` where they are of entities."""
    ranged = task.labels.join.match == "entity_range"
    return [None] if ranged else msgspec.json.decode(row.event_ids, type=list[str | None])


def _labels(
    row: AlertRow, events: Sequence[str | None], value: int, generation: int, source: str, now: float
) -> list[Record]:
    made, about = [], {"task": row.task, "entity_id": row.entity_id, "ts": row.updated_at, "value": value}
    for event_id in events:
        said = f"{row.alert_id}\0{generation}\0{value}\0{event_id or ''}"
        ids = {"label_id": f"case:{hashlib.sha256(said.encode()).hexdigest()[:32]}", "event_id": event_id}
        label = Label.model_validate(about | ids | {"v": VERSION, "source": source[:ID_CHARS]})
        made.append(Record(row.entity_id.encode(), encode_model(label), now))
    return made


def undone_labels(row: AlertRow, task: TaskSpec, standing: Sequence[str], by: str, now: float) -> list[Record]:
    """What taking the newest verdict back says: the value that an earlier one gave, else the opposite value.

    A label cannot be withdrawn: the model has learned it. The correction of the same events with the other value is
    what the join knows, and what every replica learns alike. Where nobody said anything before, the opposite is the
    nearest to "we do not know": it takes back what was learned, and the next label corrects it again.

    Parameters
    ----------
    standing : verdicts that count, the newest first.
    """
    undone, *before = standing
    if undone not in VALUES:
        return []
    value = next((VALUES[verdict] for verdict in before if verdict in VALUES), 1 - VALUES[undone])
    if value == VALUES[undone]:
        return []
    return _labels(row, _events(row, task), value, row.generation + 1, f"undo:{by}", now)
