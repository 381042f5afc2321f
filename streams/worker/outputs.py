"""Turns what a label lane made into records, by Weir's own name of the topic."""

from __future__ import annotations

from online.labelling import LabelOutput
from online.updates import encode_updates
from streams import topics
from streams.host.outputs import decision_records
from streams.log import Record


def label_records(task: str, features: tuple[str, ...], out: LabelOutput, now: float) -> dict[str, list[Record]]:
    """Records of one step of one task; ``now`` is the time they are published, epoch seconds."""
    made = decision_records(task, features, out, now)
    for layout, updates in out.updates.items():
        values = encode_updates(updates, task, layout)
        records = [Record(key.encode(), value, now) for key, value in zip(updates.entity_id, values, strict=True)]
        made.setdefault(topics.ENTITY_UPDATES, []).extend(records)
    return made
