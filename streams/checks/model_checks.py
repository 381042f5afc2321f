"""What ``--check`` says of full models: which versions would serve here, and whether they can."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any, cast

from weir.online.errors import WeirError
from weir.online.task.spec import TaskSpec
from weir.streams.checks.findings import Check
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.offline_models.loading import full_models, require_provider
from weir.streams.offline_models.serving import FullModels
from weir.streams.offline_models.update_follower import UpdatesFollower


def check_full(settings: Settings, tasks: Sequence[TaskSpec], *, remote: bool = False) -> list[Check]:
    """A check for each task whose full model would run here: it is loaded, as a worker would; none without one."""
    try:
        models = full_models(tasks, settings.models, remote=remote)
        if not models.tasks:
            return []
        require_provider(models, settings.models.provider)
        return asyncio.run(_check(settings, models))
    except WeirError as error:
        return [Check("full models", "FAIL", str(error))]


async def _check(settings: Settings, models: FullModels) -> list[Check]:
    topic = settings.topics.name(topics.MODEL_UPDATES)
    updates = UpdatesFollower(settings.kafka.client_options("check"), models, topic)
    try:
        await updates.catch_up()
    finally:
        await updates.stop()
    return [_told(task, cast("Mapping[str, Any]", said)) for task, said in models.describe().items()]


def _told(task: str, said: Mapping[str, Any]) -> Check:
    name = f"full model of {task}"
    if said["refused"]:
        version, why = next(iter(said["refused"].items()))
        return Check(name, "FAIL", f"version {version} cannot be used: {why}", "register it again, or promote another")
    if said["champion"] is None:
        return Check(name, "OK", "none serves yet")
    beside = f", version {said['shadow']} in its shadow" if said["shadow"] is not None else ""
    return Check(name, "OK", f"version {said['champion']} on {said['provider']} in {said['precision']}{beside}")
