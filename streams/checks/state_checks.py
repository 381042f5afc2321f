"""What a worker of these tasks would find: stored state, kept or begun anew, and full models that can serve."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec
import numpy as np

from weir.models.registry.registry import Registry
from weir.models.registry.stages import Stages
from weir.online.errors import WeirError, stored
from weir.online.stages.labelling import LabellingStage
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of, shape_of
from weir.streams.checks.findings import Check
from weir.streams.checks.untold_moves import untold
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import ShellError, StateError
from weir.streams.offline_models.loading import full_models, require_provider
from weir.streams.offline_models.serving import FullModels
from weir.streams.offline_models.update_follower import UpdatesFollower
from weir.streams.redis.client import RedisClient, opened
from weir.streams.redis.partitions.label_journal import StepLog
from weir.streams.redis.partitions.partition_record import decode_record
from weir.streams.redis.stored_rows import lane_prefix
from weir.streams.redis.topic_identity import StoredIdentity


def check_state(settings: Settings, tasks: Sequence[TaskSpec]) -> list[Check]:
    """Compare rows' schemas and a label lane's snapshot with the tasks; what cannot be looked at is a finding."""
    try:
        return asyncio.run(_check(settings, tasks))
    except (ShellError, StateError) as error:
        return [Check("stored state", "WARN", f"not compared with the tasks: {error}")]


async def _check(settings: Settings, tasks: Sequence[TaskSpec]) -> list[Check]:
    async with opened(settings.redis) as link:
        # The right side counts where both know a table: what partitions noted is of version 0.1.0 perhaps.
        held = await _recorded(link, settings) | await StoredIdentity(link).load()
        found = [check for task in tasks for check in rows_of(task, held)]
        for task, state in (await _snapshot(link, settings.topics.partitions_of(topics.LABELS))).items():
            found += [check for spec in tasks if spec.name == task for check in labels_of(spec, state)]
        return found


async def _recorded(link: RedisClient, settings: Settings) -> dict[str, str]:
    """Schemas of tables as partitions noted them; version 0.1.0 noted them nowhere else."""
    found: dict[str, str] = {}
    for own in (topics.USER_EVENTS, topics.DEVICE_EVENTS, topics.ENTITY_UPDATES):
        for partition in range(settings.topics.partitions_of(own)):
            value = await link.execute("GET", f"{lane_prefix(link.prefix, (own, partition))}lane")
            schemas = decode_record(value).schemas if value is not None else {}
            found |= {f"table:{table}": f"{schema:08x}" for table, schema in schemas.items()}
    return found


async def _snapshot(link: RedisClient, partitions: int) -> dict[str, bytes]:
    """The first snapshot of a label lane that there is, by task: all are of the same tasks."""
    for partition in range(partitions):
        lane = await StepLog(link, f"label-{partition}").load()
        if lane.snapshot is not None:
            return stages_of(lane.snapshot)
    return {}


class _LaneSnapshot(msgspec.Struct):
    """Of what a label lane stores, all that is looked at here."""

    stages: dict[str, bytes]


def stages_of(snapshot: bytes) -> dict[str, bytes]:
    """The state of each task in the snapshot of a label lane; raises ``StateError`` for what is none."""
    return stored(snapshot, _LaneSnapshot, "a label lane").stages


def rows_of(task: TaskSpec, held: dict[str, str]) -> list[Check]:
    """Tables of a task whose rows begin anew."""
    found: list[Check] = []
    for table in engine_of(task, MemoryFeatureStore(), side=True).tables:
        plain = held.get(f"table:{table.name}")
        if plain is not None and int(plain, 16) != table.schema:
            said = (
                f"rows have schema {plain}, the task wants {table.schema:08x}: its own lie beside them, at first none"
            )
            found.append(Check(f"rows {table.name}", "WARN", said, "weir features rebuild fills them."))
    return found


def labels_of(task: TaskSpec, state: bytes) -> list[Check]:
    """Parts of a task's label state that begin anew."""
    shape = shape_of(task)
    # What explains scores is never asked here: only `restore` runs.
    stage = LabellingStage(task, shape.features, shape.masks, shape.secondary, lambda x, _: np.zeros_like(x))
    fix = "Go back to the task file that wrote it, if that is not wanted."
    return [Check(f"labels {task.name}", "WARN", str(anew), fix) for anew in stage.restore(state)]


def check_full(settings: Settings, tasks: Sequence[TaskSpec], *, remote: bool = False) -> list[Check]:
    """A check for each task whose full model would run here: it is loaded, as a worker would; none without one."""
    try:
        models = full_models(tasks, settings.models, remote=remote)
        if not models.tasks:
            return []
        require_provider(models, settings.models.provider)
        return asyncio.run(_check_models(settings, models))
    except WeirError as error:
        return [Check("full models", "FAIL", str(error))]


async def _check_models(settings: Settings, models: FullModels) -> list[Check]:
    topic = settings.topics.name(topics.MODEL_UPDATES)
    updates = UpdatesFollower(settings.kafka.client_options("check"), models, topic)
    try:
        await updates.catch_up()
    finally:
        await updates.stop()
    held = Registry(settings.models.registry)
    found = models.describe().items()
    return [_told(task, cast("Mapping[str, Any]", said), held.stages(task)) for task, said in found]


def _told(task: str, said: Mapping[str, Any], registered: Stages) -> Check:
    """What is told of a task's model; ``registered`` is where its versions stand by the registry."""
    name = f"full model of {task}"
    if said["refused"]:
        version, why = next(iter(said["refused"].items()))
        return Check(name, "FAIL", f"version {version} cannot be used: {why}", "register it again, or promote another")
    serving, shadow = said["champion"], said["shadow"]
    if (found := untold(task, serving, shadow, registered)) is not None:
        return found
    if serving is None:
        return Check(name, "OK", "none serves yet")
    beside = f", version {shadow} in its shadow" if shadow is not None else ""
    return Check(name, "OK", f"version {serving} on {said['provider']} in {said['precision']}{beside}")
