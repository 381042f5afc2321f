"""Wire format v1: the contract. What each JSON record on each topic may hold, as frozen pydantic models.

These models are what people read, what the API and the JSON Schemas come from and what explains a rejected record
(``weir.online.codec.why_invalid``). From their fields and bounds ``weir.online.codec.hot_structs`` generates the types
that decode batches. Nothing here knows topics.

Unknown fields are ignored, so that a later producer can add some.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, WithJsonSchema

from weir.online.codec.limits import WEIGHT_MAX

VERSION = 1
TS_MIN = 946_684_800.0
"""2000-01-01T00:00:00Z: the earliest time a record may carry; an earlier one is a clock or unit mistake."""
TS_MAX = 4_102_444_800.0
"""2100-01-01T00:00:00Z: the latest; milliseconds mistaken for seconds land beyond it."""
FINITE_MAX = 1.7976931348623157e308
NO_DATA = 9.9e36
"""From this absolute value on a number is no reading but what formats write for "no data": the largest float32 and
float64, or the fill value of netCDF. It is missing, whatever the limits."""
FEATURE_MAX = 1e18
"""The largest absolute value of what Weir computes and logs: a float32 holds its square. Larger ones are cut to it."""
NEGATIVE_RATE_MIN = 1e-3
"""The least share of the negatives that may be kept: an example weighs at most ``WEIGHT_MAX`` divided by it."""
INT_MAX = 2**63 - 1
ID_CHARS, WORD_CHARS, TEXT_CHARS, REASON_CHARS = 64, 32, 256, 2_000
MADE_ID_CHARS = 256
PROPERTIES_MAX, METRICS_MAX, FEATURES_MAX, VALUES_MAX = 64, 256, 1_024, 1_024
QUARANTINE_MAX = 20_000
ITEMS_MAX = 100

MISSING = frozenset([
    "", "null", "none", "nil", "nan", "na", "n/a", "#n/a", "(null)", "<null>", "undefined", "-", "--", "---", "?", ".",
    "missing", "(missing)", "(blank)", "(empty)", "(none)", "<none>", "not set", "(not set)", "unset", "n.a.", "n. a.",
    "n.d.", "n/d", "n\\a", "k.a.", "not available", "no data", "\u2013", "\u2014", "\u2026", "{}", "[]", "''", '""',
    "[object object]", "00000000-0000-0000-0000-000000000000",
])  # fmt: skip
"""Words for what is missing, in lower case and without blanks."""
MISSING_IDS = frozenset(f(word) for word in MISSING for f in (str, str.upper, str.capitalize, str.title)) | {
    "NaN", "[object Object]", *(" " * n for n in range(ID_CHARS + 1)),
}  # fmt: skip
"""No ids, or all who have none would be one entity, and all their events one event."""

INVISIBLE = "\u00ad\u200b\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff"
"""Characters that nobody sees or that turn the direction of a text. An id with one looks like another id and is not:
one entity would be two, so a record with such an id is refused. The joiners U+200C and U+200D belong to words of some
scripts and are allowed; in other texts all of them are."""
PRINTABLE = r"^[^\x00-\x1f\x7f-\x9f]*$"
"""No control characters (C0, DEL, C1): ids end up in logs, terminals and store keys."""


class LimitMark(NamedTuple):
    """Marks a number whose bound an operator sets: ``name`` is a field of ``weir.online.codec.limits.InputLimits``."""

    name: str


_AWARE = Annotated[datetime, Meta(tz=True)]


def parse_time(value: object) -> object:
    """Epoch seconds of an RFC 3339 text or an aware ``datetime``; anything else is returned for pydantic to judge.

    >>> parse_time("2024-03-01T12:00:00Z"), parse_time("2024-03-01T12:00:00.25+01:00"), parse_time(1.7e9)
    (1709294400.0, 1709290800.25, 1700000000.0)
    """
    if isinstance(value, str):
        try:
            value = msgspec.convert(value, _AWARE)
        except msgspec.ValidationError:
            raise ValueError("give epoch seconds or RFC 3339 with an offset, as 2024-03-01T12:00:00Z") from None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError("a time without an offset is ambiguous; give one, as 2024-03-01T12:00:00Z")
        return value.timestamp()
    return value


Version = Annotated[int, Field(ge=VERSION, le=VERSION)]
Id = Annotated[str, Field(min_length=1, max_length=ID_CHARS, pattern=PRINTABLE)]


def _known(value: str, info: ValidationInfo) -> str:
    # Blanks of other scripts, too: ids are compared without the blanks around them, and nothing would be left.
    if (value in MISSING_IDS or not value.strip()) and info.context is None:
        raise ValueError(f"got {value!r}, a word for a missing id; give the id, or send no record")
    if hidden := next((f"U+{ord(c):04X}" for c in value if c in INVISIBLE), None):
        raise ValueError(f"got {value!r}, which holds {hidden}, a character that is not seen; leave it out")
    return value


KnownId = Annotated[Id, AfterValidator(_known)]
"""An id that is known and can be told from others. Of a row of a table, validated with a context, the reader of the
table decides what is missing."""
MadeId = Annotated[str, Field(min_length=1, max_length=MADE_ID_CHARS, pattern=PRINTABLE)]
"""An id Weir makes of others: ``<task>:<entity>:<event>`` of an alert, ``<entity>@<time>`` of timers."""
Word = Annotated[str, Field(min_length=1, max_length=WORD_CHARS, pattern=PRINTABLE)]
Text = Annotated[str, Field(max_length=TEXT_CHARS, pattern=PRINTABLE)]
LongText = Annotated[str, Field(max_length=REASON_CHARS)]
Note = Annotated[str, Field(max_length=REASON_CHARS, pattern=r"^[^\x00]*$")]
"""What a person writes, in lines; databases hold no NUL."""
Finite = Annotated[float, Field(allow_inf_nan=False)]
Number = Annotated[float, Field(allow_inf_nan=False), LimitMark("number")]
"""What a producer measured."""
Amount = Annotated[float, Field(allow_inf_nan=False), LimitMark("amount")]
"""Money; negative where it goes back, as in a refund."""
Feature = Annotated[float, Field(ge=-FEATURE_MAX, le=FEATURE_MAX)]
"""What Weir computed. Its bound is fixed: replicas that fold the same log must agree, whatever their settings."""
Weight = Annotated[float, Field(gt=0, le=1e12), LimitMark("weight")]
_EXAMPLE_WEIGHT_MAX = WEIGHT_MAX / NEGATIVE_RATE_MIN
ExampleWeight = Annotated[float, Field(gt=0, le=_EXAMPLE_WEIGHT_MAX)]
Score = Annotated[float, Field(ge=0, le=1)]
Bit = Annotated[int, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0, le=INT_MAX)]
Timestamp = Annotated[
    float,
    BeforeValidator(parse_time),
    Field(ge=TS_MIN, le=TS_MAX),
    WithJsonSchema(
        {"anyOf": [{"type": "number", "minimum": TS_MIN, "maximum": TS_MAX}, {"type": "string", "format": "date-time"}]}
    ),
]
Properties = Annotated[dict[Id, Number | Text | bool], Field(max_length=PROPERTIES_MAX)]
Metrics = Annotated[dict[Id, Number | None], Field(max_length=METRICS_MAX)]
Features = Annotated[dict[Id, Feature], Field(max_length=FEATURES_MAX)]
Ids = Annotated[dict[Id, Id], Field(max_length=PROPERTIES_MAX)]
Items = Annotated[dict[Id, Score], Field(max_length=ITEMS_MAX)]
Values = Annotated[tuple[Feature | None, ...], Field(strict=False, max_length=VALUES_MAX)]
"""Numbers whose meaning their place says; null where missing."""


class WireModel(BaseModel):
    """What all records share: frozen, no coercion of types (``"3"`` is not 3), raw bytes as base64."""

    model_config = ConfigDict(
        frozen=True, strict=True, extra="ignore", ser_json_bytes="base64", val_json_bytes="base64"
    )


class UserEvent(WireModel):
    """Something a user did. Topic ``user-events``, key ``user_id``."""

    v: Version
    event_id: KnownId
    type: Word
    user_id: KnownId
    ts: Timestamp
    amount: Amount | None = None
    merchant_id: Id | None = None
    device_id: Id | None = None
    session_id: Id | None = None
    channel: Word | None = None
    country: Word | None = None
    properties: Properties | None = None


class DeviceEvent(WireModel):
    """A device's readings. Topic ``device-events``, key ``device_id``; a null metric is a missing reading."""

    v: Version
    event_id: KnownId
    device_id: KnownId
    ts: Timestamp
    metrics: Metrics
    status: Word | None = None
    properties: Properties | None = None


class Label(WireModel):
    """The truth about an event (``event_id``) or about an entity at a time. Topic ``labels``, key ``entity_id``.

    A repeat is known by its ``label_id``. Without one, the same value said again of the same thing is a repeat, so that
    a verdict can be corrected once but not taken back and then given again.
    """

    v: Version
    label_id: MadeId | None = None
    task: Id
    entity_id: KnownId
    event_id: MadeId | None = None
    ts: Timestamp
    value: Bit
    source: Id | None = None
    weight: Weight | None = None


class Prediction(WireModel):
    """A score with the features it was made from. Topic ``predictions``, key ``entity_id``.

    ``model_version`` is the number of examples an online model had learned, or a registry version such as ``"v12"``.
    ``entities``, ``masks`` and ``watched`` are for labelling, and absent where a task has no use for them.
    """

    v: Version = VERSION
    event_id: MadeId
    entity_id: Id
    task: Id
    ts: Timestamp
    score: Score
    model_version: Count | Id
    features: Features
    scored_at: Timestamp
    degraded: bool = False
    entities: Ids | None = None
    """Identifiers of the secondary entities by wire column; those that the event does not name are left out."""
    masks: Values | None = None
    """Which label aggregates the event would feed, and what label runs take from it, in the order of the plan."""
    watched: Values | None = None
    """The columns that the task watches for drift, in its order."""
    items: Items | None = None
    """Of a task of ``kind = "next"``: what the entity takes next with the score of each, the largest first. ``score``
    is the first one's, and ``features`` are empty."""


class Reason(WireModel):
    """One feature's part in a score, and how a person reads it."""

    feature: Id
    value: Finite
    contribution: Finite
    text: LongText


class Alert(WireModel):
    """The state of one alert after a change; the newest record of an ``alert_id`` counts. Topic ``alerts``."""

    v: Version = VERSION
    alert_id: MadeId
    task: Id
    entity_id: Id
    status: Literal["open", "escalated", "acknowledged", "resolved"]
    severity: Literal["low", "medium", "high", "critical"]
    score: Score
    threshold: Score
    reasons: Annotated[tuple[Reason, ...], Field(strict=False, max_length=64)]
    opened_at: Timestamp
    updated_at: Timestamp
    event_ids: Annotated[tuple[MadeId, ...], Field(strict=False, min_length=1, max_length=1_000)]
    amount: Finite | None = None
    """What is at stake: of the event with the highest score, where the task's inputs have it."""
    events: Count | None = None
    """How many events have been over the threshold; records of before do not tell."""


class CaseEvent(WireModel):
    """What a person did with an alert, and when a model learned of it. Topic ``case-events``, key ``alert_id``.

    An event counts if the alert is as its author saw it (``expects``), and if nobody else has claimed it where it
    claims it; else it stays in the history of the alert as refused.

    A person may also snooze alerts that do not exist yet: those of an entity, or those with a reason (``snoozes``). The
    ``alert_id`` is then the name of the snooze, and no alert has it.
    """

    v: Version = VERSION
    case_event_id: MadeId
    """Which event; a repeat of it is dropped."""
    alert_id: MadeId
    task: Id
    entity_id: Id | None = None
    """Whose alert it is; absent where a reason is snoozed."""
    action: Literal["verdict", "undo", "assign", "release", "note", "hold", "escalate", "snooze", "unsnooze", "learned"]
    """``learned`` is the service's own: the online model has learned a verdict. A ``snooze`` without ``snoozes`` is a
    ``hold``, as it was called before."""
    by: Id
    """Who did it; ``weir`` for the service."""
    at: Timestamp
    """When, by the clock of the service."""
    verdict: Literal["confirmed", "false_alarm", "unsure"] | None = None
    reason: Word | None = None
    """One of a list that the deployment keeps."""
    note: Note | None = None
    assignee: Id | None = None
    """Whose the alert is from now on."""
    until: Timestamp | None = None
    """When a claim, a hold or a snooze ends."""
    snoozes: Literal["entity", "reason"] | None = None
    """What is snoozed: alerts of ``entity_id``, or those whose strongest reason is ``feature``."""
    feature: Id | None = None
    expects: Count | None = None
    """The version of the case that its author saw."""
    state: Literal["open", "escalated", "resolved"] | None = None
    """Where the alert stood when a verdict was given: an undo brings it back there."""
    version: Count | None = None
    """How many examples the model has learned with that of the verdict; absent where the first ones are gone."""
    examples_before: Count | None = None
    """Where the topic ``examples`` ended before a verdict: what is learned of it comes after."""


class Example(WireModel):
    """Logged features joined with a label: what online models fold over. Topic ``examples``, 1 partition a task.

    ``event_id`` and ``n``, how many examples of the event came before, identify an example.
    """

    v: Version = VERSION
    event_id: MadeId
    n: Count = 0
    task: Id
    ts: Timestamp
    features: Features
    score: Score
    value: Bit
    weight: ExampleWeight = 1.0
    correction: bool = False
    entity_id: Id | None = None
    """Whose event it is: scores of one entity are alike, which who compares models must know."""


class ExampleQuarantine(WireModel):
    """Takes examples back: models are those that never learned them. Topic ``examples``, key ``task``."""

    v: Version = VERSION
    task: Id
    quarantine: Annotated[tuple[Count, ...], Field(strict=False, min_length=2, max_length=QUARANTINE_MAX)]
    """Offsets of the topic before this record: where each range starts and where it ends, in order."""
    by: Id
    """Who asked for it."""
    reason: LongText | None = None
    made_at: Timestamp


class EntityUpdate(WireModel):
    """What an event or a label changes in a row of another partition. Topic ``entity-updates``, key ``entity_id``.

    ``update_id``, ``task`` and ``table`` identify an update. Versions before blocks (``weir.online.codec.row_updates``)
    wrote each as a record of its own, which is still read.
    """

    v: Version = VERSION
    update_id: MadeId
    task: Id
    table: Id
    """As the task's plan names it: ``merchant``, ``merchant.labels``."""
    entity_id: Id
    ts: Timestamp
    values: Values
    """Of the table's passes in order; of a label table first the label and its unit."""


class RetrainRequest(WireModel):
    """Asks the trainer for a new full model. Topic ``retrain-requests``, key ``task``."""

    v: Version = VERSION
    request_id: Id
    task: Id
    cause: Literal["drift", "schedule", "volume", "manual"]
    requested_at: Timestamp
    text: LongText | None = None
    details: Properties | None = None


class ModelUpdate(WireModel):
    """Tells scorers which artefact to serve. Topic ``model-updates``, key ``task``; all are kept."""

    v: Version = VERSION
    task: Id
    version: Id
    action: Literal["shadow", "promote", "rollback", "retire"]
    uri: Annotated[str, Field(min_length=1, max_length=1_024, pattern=PRINTABLE)]
    """``TASK/VERSION``, from the root of the registry as each process knows it; a whole address must be trusted."""
    digest: Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
    created_at: Timestamp
    metrics: Metrics | None = None


class DeadLetter(WireModel):
    """A record that could not be used, with where it was, why, and its bytes. Topic ``dead-letters``."""

    v: Version = VERSION
    topic: Annotated[str, Field(min_length=1, max_length=249)]
    partition: Count
    offset: Count
    reason: LongText
    raw: bytes
    failed_at: Timestamp
    key: bytes | None = None
    """The record's own key, or its first bytes, so that a replay sends it to the partition of its entity again."""
    last_offset: Count | None = None
    """Where the letter stands for a batch that could not be read: its last offset; ``raw`` is the batch then."""
    raw_bytes: Count | None = None
    """Where ``raw`` holds only the first bytes: how many there were."""
    raw_sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None
    """Of all of them, likewise."""


MODELS: tuple[type[WireModel], ...] = (
    UserEvent, DeviceEvent, Label, Prediction, Alert, CaseEvent, Example, ExampleQuarantine, EntityUpdate,
    RetrainRequest, ModelUpdate, DeadLetter,
)  # fmt: skip
