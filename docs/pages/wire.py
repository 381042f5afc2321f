"""docs/WIRE.md, made from the contract and by its encoders: ``python -m docs.pages.wire > docs/WIRE.md``."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from inspect import cleandoc
from typing import Any, Final

import msgspec

from docs.pages.model_fields import docs_of, plain, type_of
from docs.pages.wire_examples import Example, examples
from weir.online.codec import wire
from weir.online.codec.hot_structs import limited_fields
from weir.streams.checks.rights import PRINCIPALS
from weir.streams.config import topics as t
from weir.streams.config.topic_settings import TopicSettings
from weir.streams.kafka.admin.topic_specs import shown, wanted_topics

_HEAD: Final = f"""# What is in each topic

Records are JSON, UTF-8, one object a record, except in `decisions`, `entity-updates` and the two `inference` topics.
Times are epoch seconds; RFC 3339 with an offset is read, too. Numbers are finite; NaN is `null`, or left out. Texts
hold no control characters. Unknown fields are ignored: a host warns of a column of its tasks that no
event has. `v` is {wire.VERSION}: a record of another version is refused.
Settings bound some numbers; what happens beyond a bound is in [LIMITS.md](LIMITS.md), who may write what in
[SECURITY.md](SECURITY.md).
Names of topics on a cluster, and how many partitions they have, are settings ([SETTINGS.md](SETTINGS.md), `[topics]`).
What your own topics hold has to be translated: [EXAMPLES.md](EXAMPLES.md#a-topic-of-your-own).

The partition of a record is that of its key (murmur2 of its UTF-8 bytes). Partition n of events, predictions, labels,
`decisions`, `entity-updates` and the `inference` topics belongs to one worker at a time. Other topics that are keyed
by task have one partition, so that all readers see one order.

Made by `python -m docs.pages.wire > docs/WIRE.md`; a test decodes each example by the decoder that reads it at work.
"""
KEYS: Final[Mapping[str, str]] = {
    t.USER_EVENTS: "`user_id`", t.DEVICE_EVENTS: "`device_id`", t.LABELS: "`entity_id`", t.PREDICTIONS: "`entity_id`",
    t.ALERTS: "`entity_id`", t.EXAMPLES: "`task`", t.ENTITY_UPDATES: "`entity_id`", t.RETRAIN_REQUESTS: "`task`",
    t.MODEL_UPDATES: "`task`", t.DEAD_LETTERS: "`TOPIC-PARTITION` of the record", t.INFERENCE_REQUESTS: "`task`",
    t.DEAD_LETTERS_DONE: "`PARTITION-OFFSET` of the letter", t.INFERENCE_RESULTS: "`task`", t.DECISIONS: "`task`",
    t.CASE_EVENTS: "`alert_id`", t.AUDIT: "`writer`",
    t.NOTIFICATIONS: "`TOPIC-PARTITION` that was decided, or `id` of a message",
}  # fmt: skip
_WHO: Final[Mapping[str, str]] = {
    "events": "producers", "labels": "producers", "score": "workers", "label": "workers", "all": "workers",
    "inference": "`weir inference`", "trainer": "`weir trainer`", "operator": "operators",
    "serve": "`weir serve`",
}  # fmt: skip
_LAYOUTS: Final[Mapping[str, str]] = {
    t.AUDIT: "Who changed what, or looked at whom. An object whose keys are in order: `v` (1), `writer` (the process), "
    "`seq` (from 0 on), `at` (epoch seconds), `action`, `who` (`id`, `name` and `via`), `prev` (the `hash` of the "
    "writer's record before, 64 zeros in its first) and `hash` (SHA-256 in hex of the object without it, encoded as it "
    "is here); of an answered request also `object` (its path), `outcome` (the status), `request_id`, `address` and, "
    "where there is one, `task`, `subject` (an entity, or what was searched for) and `reason`; of what programs "
    "`sent` in a minute `requests` (how many by scope) and `records`. `weir audit verify` checks the chains.",
    t.NOTIFICATIONS: "What is to be told of alerts, and what became of it. An object with `v` (1), `kind` and `at` "
    "(epoch seconds). Of kind `decided`: `epoch` (of the log), `topic` and `partition`, whose records from offset "
    "`start` to before `end` were decided, and `messages`, what follows from them: objects with `id` (of "
    "rule, target, alert and what happened), `rule`, `target`, `what` (`opened`, `escalated`, `resolved`, `judged`, "
    "`reopened`), facts of the alert as in `alerts`, `due` (when it goes out), `thread` (`id` of the message that "
    "told of the alert first), `gathered` (part of a digest), `left_out` (only counted), `by` and `verdict`. It counts "
    "where `start` is the `end` before. Of the kinds `sent`, `failed` and `retry`: `ids`, and `answer` of the "
    "receiver.",
    t.DEAD_LETTERS_DONE: "What an operator did with a dead letter. An object with `v` (1), `action` (`replayed` or "
    "`dropped`), `at` (epoch seconds) and `origin` (`TOPIC-PARTITION-OFFSET` of the record that was refused).",
    t.DECISIONS: "MessagePack: an array of `v` (1), `task`, `made_at` (epoch seconds), `event_id` and `entity_id` (n "
    "texts each), `ts`, `score` and `threshold` (n float64 each, little-endian, as bytes; the threshold is infinite "
    "where nothing was to alert), `model_version` (one for all, or n int64 as bytes), `degraded` (n bits as bytes, the "
    "first the highest of its byte; nil where no row is), `row` (which rows, from 0 on, are over the threshold and of "
    "an alert), `alert` (of each of them an array of `alert_id`, `status`, `severity` and `reasons`, as in `alerts`; "
    "`resolved` is a row in the cooldown after that alert). A repeat of an event has no row. Workers write it where "
    "`[worker] decisions` is set.",
    t.ENTITY_UPDATES: "MessagePack: an array of `v` (2), `task`, `table`, `update_id` (n texts), `entity_id` (n texts, "
    "all of one partition; the key is one of them), `ts` (n float64, little-endian, as bytes), `values` (n rows of "
    "float64, little-endian, row by row, as bytes; NaN where missing). Versions before wrote each update as JSON, "
    "which is read, too.",
    t.INFERENCE_REQUESTS: "MessagePack: an array of `v` (1), `id` of the block, `task`, `event_id` (n texts), "
    "`entity_id` (n texts), `ts` (n float64, little-endian, as bytes), `x` (n rows of D float32, little-endian, row by "
    "row, as bytes: the full model's inputs).",
    t.INFERENCE_RESULTS: "MessagePack: an array of `v` (1), `id` and `task` of the request, `rows` (n), `values` (n "
    "rows of float32, little-endian, as bytes: the columns that the full model adds, `full.logit` first).",
}
MEANINGS: Final[Mapping[str, str]] = {
    "v": "Version of the contract.",
    "event_id": "Which event; a repeat of it is dropped.",
    "Label.event_id": "The event that it speaks of; absent where it speaks of the entity at a time.",
    "Label.ts": "The time that it speaks of.",
    "Prediction.event_id": "The event that was scored.",
    "Example.event_id": "The event that was scored.",
    "Example.score": "The score given at the time, for metrics.",
    "EntityUpdate.ts": "Event time; of a label's update, when the label became known.",
    "Alert.status": "Where it stands.",
    "Alert.score": "The highest score so far.",
    "ModelUpdate.metrics": "What the version was judged by.",
    "type": "What happened, such as `purchase`.",
    "user_id": "Who did it.",
    "device_id": "Which device.",
    "merchant_id": "With whom.",
    "session_id": "In which session.",
    "channel": "How, such as `web`.",
    "country": "Where.",
    "status": "What the device says of itself.",
    "amount": "Money; negative where it goes back.",
    "properties": "Further numbers, texts and truths, by name.",
    "metrics": "Numbers by name; null is a missing reading.",
    "ts": "Event time.",
    "label_id": "Which label; a repeat of it is dropped. Without one, the same value of the same thing is a repeat.",
    "task": "The task that it is of.",
    "entity_id": "Whom or what it is about.",
    "value": "1 is positive (fraud, churn, failure), 0 is not.",
    "source": "Who says so.",
    "weight": "How much it counts; 1 without it.",
    "score": "Probability of the positive label.",
    "model_version": "How many examples the online model had learned.",
    "features": "Each feature of the task by name, as the model saw it.",
    "scored_at": "When it was scored, by the worker's clock.",
    "degraded": "Whether something was missing that the score should have had.",
    "alert_id": "Which alert; its newest record counts.",
    "severity": "How bad.",
    "threshold": "The line that the score was over.",
    "reasons": "Features that raised the score, the strongest first: `feature`, `value`, `contribution` (to the "
    "log-odds), `text`.",
    "opened_at": "When it opened.",
    "updated_at": "When it last changed.",
    "event_ids": "The first events over the line.",
    "n": "How many examples of this event came before.",
    "correction": "Whether it replaces an earlier example of the event, of the other value.",
    "update_id": "Which update; a repeat of it is dropped.",
    "request_id": "Which request; a repeat of it is dropped.",
    "cause": "Why.",
    "requested_at": "When it was asked for.",
    "text": "The same for people.",
    "details": "Further facts, such as `force`: asked in spite of the cooldown.",
    "version": "Version in the registry, a whole number from 1 on.",
    "action": "What becomes of the version.",
    "CaseEvent.action": "What was done.",
    "CaseEvent.feature": "The reason that is snoozed.",
    "verdict": "What the alert was.",
    "note": "What its author says, in words.",
    "digest": "Of the version's manifest.",
    "created_at": "When it was decided.",
    "topic": "Where the record was.",
    "partition": "In which partition.",
    "offset": "At which offset.",
    "reason": "Why, in words.",
    "raw": "The record's bytes, or the first of them.",
    "failed_at": "When it was refused.",
    "made_at": "When it was asked for.",
}
"""Of fields whose model does not say more."""


def page() -> str:
    """The whole page."""
    return _HEAD + "".join(_topic(own, found) for own, found in examples().items())


def _topic(own: str, found: list[Example]) -> str:
    spec = next(s for s in wanted_topics(TopicSettings(), 3) if s.name == own)
    by_key = "the partition of the events" if own in (t.DECISIONS, *t.INFERENCE) else "partitioned by it"
    partitioned = "one partition" if spec.partitions == 1 else by_key
    compacted = ", compacted" if "compact" in spec.configs["cleanup.policy"] else ""
    kept = shown("retention.ms", spec.configs["retention.ms"])
    lines = [
        f"\n## {own}\n\n",
        f"- **written by** {_who(own, 'writes')}; **read by** {_who(own, 'reads')}\n",
        f"- **key** {KEYS[own]}, {partitioned}; **kept** {kept}{compacted}\n",
    ]
    for example in found:
        lines += ["\n", *_kind(own, example)]
    return "".join(lines)


def _who(own: str, right: str) -> str:
    """Those for whom the topic is there; readers and operators may look at all of them."""
    names = [p.name for p in PRINCIPALS if own in getattr(p, right) and p.name in _WHO]
    others = [name for name in names if right == "writes" or name != "operator"]
    return ", ".join(dict.fromkeys(_WHO[name] for name in others)) or "operators, and whoever acts on it"


def _kind(own: str, example: Example) -> Iterator[str]:
    if example.model is None:
        yield f"{_LAYOUTS[own]}\n"
    else:
        yield f"{plain(cleandoc(example.model.__doc__ or ''))}\n\n"
        yield from _fields(example.model)
    yield f"\n{example.title}, key `{example.key.decode()}`:\n\n```\n{_shown(example)}```\n"


def _fields(model: type[wire.WireModel]) -> Iterator[str]:
    schema: Any = model.model_json_schema()
    docs, must = docs_of(model), schema.get("required", ())
    yield "| field | type and bounds | | meaning |\n|---|---|---|---|\n"
    for name, of in schema["properties"].items():
        told = type_of(of, schema.get("$defs")).removesuffix("; or null")
        if limit := limited_fields(model).get(name):
            told += f"; numbers by `[limits] {limit}`"
        meaning = plain(docs.get(name) or MEANINGS.get(f"{model.__name__}.{name}") or MEANINGS[name])
        yield f"| `{name}` | {told} | {'required' if name in must else 'optional'} | {meaning} |\n"


def _shown(example: Example) -> str:
    """A JSON record as it is; a binary one as hexadecimal, and decoded."""
    if example.value.startswith(b"{"):
        return f"{example.value.decode()}\n"
    found = msgspec.msgpack.decode(example.value)
    octets = example.value.hex(" ")
    rows = [octets[at : at + 96].rstrip() for at in range(0, len(octets), 96)]
    parts = [f"{part.hex()}  # {len(part)} bytes" if isinstance(part, bytes) else json.dumps(part) for part in found]
    return "\n".join([*rows, "", *parts, ""])


if __name__ == "__main__":
    print(page(), end="")
