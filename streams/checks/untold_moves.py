"""Moves of full models that the registry has and the workers were not told of.

A move is noted in the registry and then told by a record of ``model-updates``: whoever is killed in between, or moves
at the same moment as another, leaves one that is only noted.
"""

from __future__ import annotations

from collections.abc import Mapping

from weir.models.registry.stages import Stages
from weir.streams.checks.findings import Check
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.errors import BrokerError, UsageError
from weir.streams.kafka.admin.clients import consumer
from weir.streams.kafka.admin.reader import Start, read_present
from weir.streams.offline_models.model_updates import UpdateFold, decode_updates


def untold_moves(settings: Settings, registered: Mapping[str, Stages]) -> list[Check]:
    """A finding for each task whose workers were told otherwise than the registry has it, or where that is unknown."""
    fold, topic = UpdateFold(), settings.topics.name(topics.MODEL_UPDATES)
    try:
        with consumer(settings.kafka, "models") as client:
            values = [record.value for record in read_present(client, topic, Start.parse("earliest"))]
    except (BrokerError, UsageError) as error:
        return [Check("full models", "WARN", f"whether the workers were told of the last moves is not known: {error}")]
    for update in decode_updates(values).updates:
        fold.apply(update)
    found = []
    for task, stages in registered.items():
        told = fold.versions(task)
        serving, shadow = (None if ref is None else ref.version for ref in (told.champion, told.shadow))
        found.append(untold(task, serving, shadow, stages))
    return [check for check in found if check is not None]


def untold(task: str, serving: int | None, shadow: int | None, registered: Stages) -> Check | None:
    """How what serves and shadows at the workers is not what the registry says, and what tells them."""
    name, tell = f"full model of {task}", f"tell the workers: weir models promote {task}"
    if registered.champion is not None and serving != registered.champion:
        serves = "none serves" if serving is None else f"version {serving} serves"
        found = f"{serves}, and by the registry version {registered.champion} does"
        return Check(name, "WARN", found, f"{tell} {registered.champion}")
    if registered.champion is None and serving is not None and registered.of(serving) == "archived":
        found = f"version {serving} serves, and by the registry it is archived"
        return Check(name, "WARN", found, f"{tell} {serving} --to archived")
    # Another one there is no fault: workers score a champion of before beside the new one until that is settled.
    if registered.shadow is not None and shadow is None:
        found = f"version {registered.shadow} is not in the shadow, and by the registry it is"
        return Check(name, "WARN", found, f"{tell} {registered.shadow} --to shadow")
    return None
