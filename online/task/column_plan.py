"""Which wire columns a task needs, found in its expressions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from weir.online.codec.columns import ColumnRequest
from weir.online.codec.wire import DeviceEvent, UserEvent
from weir.online.errors import TaskError
from weir.online.features.expression import Expression
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.task.spec import TaskSpec

WIRE_IDS = ("user_id", "merchant_id", "device_id", "session_id")


def _sources(task: TaskSpec, derived: Mapping[str, str]) -> Iterator[str]:
    yield from derived.values()
    for entity in task.entities:
        for aggregate in entity.windowed:
            if aggregate.value is not None:
                yield aggregate.value
            if aggregate.where is not None:
                yield aggregate.where
        for anomaly in entity.anomalies:
            yield from anomaly.sources


def columns_of(task: TaskSpec) -> ColumnRequest:
    """The columns to decode: entity keys, texts that expressions compare, and every other raw name as a number.

    Raises ``TaskError`` where a wire field is of the other kind.
    """
    numbers: dict[str, None] = dict.fromkeys(task.numbers)
    texts: dict[str, None] = {}
    derived = task.derived  # worked out at each look
    for source in _sources(task, derived):
        expression = Expression.parse(source)
        for name in sorted(expression.names):
            if name == "type" and name not in expression.texts:
                numbers[name] = None  # which the check refuses
            if "." in name or name in derived or name in TIME_COLUMNS or name == "type":
                continue
            (texts if name in expression.texts else numbers)[name] = None
    keys = {entity.key: None for entity in task.entities if entity.key != "*"}
    # Ids that an expression compares are columns of entities, which are decoded as ids.
    entities = keys | {name: None for name in texts if name in WIRE_IDS}
    plain = tuple(name for name in texts if name not in WIRE_IDS)
    request = ColumnRequest(entities=tuple(entities), numbers=tuple(numbers), texts=plain)
    try:
        request.check(UserEvent if task.stream == "user-events" else DeviceEvent)
    except TaskError as exc:
        raise TaskError(f"task {task.name}: {exc}") from None
    return request


def union(requests: list[ColumnRequest]) -> ColumnRequest:
    """One request that serves several tasks on a stream.

    >>> union([ColumnRequest(numbers=("amount",)), ColumnRequest(numbers=("score", "amount"))]).numbers
    ('amount', 'score')
    """
    return ColumnRequest(
        entities=tuple(dict.fromkeys(n for r in requests for n in r.entities)),
        numbers=tuple(dict.fromkeys(n for r in requests for n in r.numbers)),
        texts=tuple(dict.fromkeys(n for r in requests for n in r.texts)),
    )
