"""docs/LIMITS.md, made from the settings and the wire contract: ``python -m docs.pages.limits > docs/LIMITS.md``.

A limit that is added to ``InputLimits`` or ``IntakePolicy`` is on the page by its docstring. The reasons of the fixed
limits are those that a record beyond them gets.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any, Final, NamedTuple

from pydantic.fields import FieldInfo

from docs.pages.model_fields import docs_of, plain, shown
from weir.online.codec import wire
from weir.online.codec.hot_structs import limited_fields
from weir.online.codec.limits import InputLimits
from weir.online.codec.scan import MAX_NUMBER_CHARS
from weir.online.codec.why_invalid import MAX_DEPTH, explain
from weir.online.intake_policy import IntakePolicy
from weir.streams.ops.metrics import letter_class

_HEAD: Final = """# Limits on what arrives

Whatever way a record comes (a topic, a file, a log that is read again), it is judged by these; nothing behind meets a
value that is out of range. A record that is refused becomes a dead letter with its offset and the reason, counted by
`weir_dead_letters_total{topic, reason}`; `weir dlq` shows and replays them. Times are in seconds.

Made by `python -m docs.pages.limits > docs/LIMITS.md`; a test holds it to the code.
"""
_SET: Final = """
## `[limits]`: what an operator sets

| limit | default | may be | judged | the reason begins with | meaning |
|---|---|---|---|---|---|
"""
_INTAKE: Final = """
## `[worker.intake]`: what a stream accepts

| limit | default | may be | the reason begins with | meaning |
|---|---|---|---|---|
"""
_FIXED: Final = """
## Fixed by wire format v1

Their reasons name the field; the metric counts them as `invalid`.

| what | limit | a reason |
|---|---|---|
"""
_LEARNERS: Final = """
## Behind them

- What Weir computes from values within these limits is cut to +-{feature:g} before it is scored and logged; what a full
  model says beyond that, or that is no number, counts as if the model had not answered (`weir_degraded_total`).
- `[ranges]` of a task file says what can be true of a number, for that task: what is beyond is missing (docs/TASKS.md).
- An online model does not learn a row with a value that no recent row came near, and a label counts for at most eight
  times the recent mean weight of its class (`online/learners/guard.py`).
"""


class _Fixed(NamedTuple):
    """A limit of the contract, and a record that passes it."""

    what: str
    limit: str
    model: type[wire.WireModel]
    changes: dict[str, Any]


_EVENT: Final = {"v": 1, "event_id": "e", "type": "view", "user_id": "u", "device_id": "d", "ts": 1.7e9, "metrics": {}}
_LABEL: Final = {"v": 1, "task": "t", "entity_id": "u", "ts": 1.7e9, "value": 1}
_LONG: Final = "x" * 300


def page() -> str:
    """The whole page."""
    limits = "".join(_set_row(name, info) for name, info in InputLimits.model_fields.items())
    intake = "".join(_intake_row(name, info) for name, info in IntakePolicy.model_fields.items())
    fixed = "".join(_fixed_row(each) for each in _fixed())
    return f"{_HEAD}{_SET}{limits}{_INTAKE}{intake}{_FIXED}{fixed}{_LEARNERS.format(feature=wire.FEATURE_MAX)}"


def _set_row(name: str, info: FieldInfo) -> str:
    text = docs_of(InputLimits).get(name, "")
    holders = [
        f"{model.__name__}.{field}"
        for model in (wire.UserEvent, wire.DeviceEvent, wire.Label)
        for field, limit in limited_fields(model).items()
        if limit == name
    ]
    judged = f"decoding {', '.join(holders)}" if holders else "before decoding"
    return f"| `{name}` | {shown(info.default)} | {_range(info)} | {judged} | {_words(text)} | {plain(text)} |\n"


def _intake_row(name: str, info: FieldInfo) -> str:
    text = docs_of(IntakePolicy).get(name, "")
    words = {"allowed_lateness": "`late`", "max_ahead": "`ahead`"}.get(name, "-")
    return f"| `{name}` | {shown(info.default)} | {_range(info)} | {words} | {plain(text)} |\n"


def _fixed_row(each: _Fixed) -> str:
    base: dict[str, Any] = _LABEL if each.model is wire.Label else _EVENT
    reason = explain(each.model, json.dumps(base | each.changes).encode())
    if reason is None or letter_class(reason) != "invalid":
        raise AssertionError(f"{each.what}: a record beyond the limit gets {reason!r}")
    return f"| {each.what} | {each.limit} | {reason[:100].replace('|', '/')} |\n"


def _fixed() -> Iterator[_Fixed]:
    user, device = wire.UserEvent, wire.DeviceEvent
    yield _Fixed("times", f"{wire.TS_MIN:.0f} to {wire.TS_MAX:.0f} (2000 to 2100)", user, {"ts": 1.7e12})
    yield _Fixed("weight of a label", "more than 0", wire.Label, {"weight": 0})
    yield _Fixed("`value` of a label", "0 or 1", wire.Label, {"value": 2})
    yield _Fixed("ids", f"1 to {wire.ID_CHARS} characters, no control characters", user, {"user_id": _LONG})
    yield _Fixed("ids that Weir makes, `label_id`", f"1 to {wire.MADE_ID_CHARS}", wire.Label, {"label_id": _LONG})
    yield _Fixed("`type`, `channel`, `country`, `status`", f"1 to {wire.WORD_CHARS}", user, {"type": _LONG})
    yield _Fixed("a text in `properties`", f"{wire.TEXT_CHARS} characters", user, {"properties": {"note": _LONG}})
    many = {f"p{k}": 1.0 for k in range(wire.METRICS_MAX + 1)}
    yield _Fixed("`properties`", f"{wire.PROPERTIES_MAX} members", user, {"properties": many})
    yield _Fixed("`metrics`", f"{wire.METRICS_MAX} members", device, {"metrics": many})
    deep: Any = 1
    for _ in range(MAX_DEPTH + 1):
        deep = [deep]
    yield _Fixed("nesting, also of what is ignored", f"{MAX_DEPTH} levels", user, {"other": deep})
    yield _Fixed("a number's length", f"{MAX_NUMBER_CHARS} characters", user, {"amount": 10**MAX_NUMBER_CHARS})


def _range(info: FieldInfo) -> str:
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    bounds = [(sign, getattr(note, name, None)) for note in info.metadata for name, sign in signs.items()]
    return ", ".join(f"{sign} {shown(bound)}" for sign, bound in bounds if bound is not None) or "any"


def _words(text: str) -> str:
    found = re.search(r"(?:is|are) ``([a-z ]+)``", text)
    return f"`{found[1]}`" if found else "-"


if __name__ == "__main__":
    print(page(), end="")
