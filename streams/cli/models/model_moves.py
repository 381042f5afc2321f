"""``weir models promote`` and ``rollback``: change which version serves, and tell the workers.

Brokers are reached before anything is changed. What was changed but not published is published by promoting again.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Annotated, Any

import typer

from weir.streams.cli.console import output, say, table
from weir.streams.cli.models import model_common as common
from weir.streams.cli.options import BootstrapOption, ConfigOption, settings_of
from weir.streams.config import topics
from weir.streams.errors import UsageError
from weir.streams.kafka.admin.clients import producer

if TYPE_CHECKING:
    from weir.models.registry.registry import Registry
    from weir.models.registry.stages import Action, Stage, Stages
    from weir.online.codec.wire import ModelUpdate
    from weir.streams.config.settings import Settings

_ACTIONS: dict[Stage, Action] = {"shadow": "shadow", "champion": "promote", "archived": "retire"}
_TO: dict[Action, Stage] = {"shadow": "shadow", "retire": "archived"}

WhyOption = Annotated[str, typer.Option("--why", "--reason", help="Kept in the log of moves.")]
PublishOption = Annotated[
    bool | None,
    typer.Option(
        "--publish/--no-publish", help="Tell the workers; done where the settings or --bootstrap name brokers."
    ),
]


def promote_command(
    task: common.TaskArgument,
    version: common.VersionArgument,
    to: Annotated[str, typer.Option("--to", help="champion, shadow or archived.")] = "champion",
    why: WhyOption = "",
    publish: PublishOption = None,
    registry: common.RegistryOption = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Make a version serve, with --to shadow be scored beside, or with --to archived go.

    The version is checked byte by byte and its graphs are tried first. The
    champion before is archived, and weir models rollback returns to it.
    Workers swap between two batches once they have read the record in
    model-updates. A version that has the stage already is only published
    again, as its last move was: do that when the brokers were away, or when
    the command was killed before it had told them.

    For example:

        weir models promote fraud 3

        weir models promote fraud 4 --to shadow --why "try the wider encoder"

        weir models promote fraud shadow --bootstrap kafka-1:9092
    """
    stage = _stage(to)
    settings, held = settings_of(config, bootstrap), common.open_registry(registry, config)
    # The stages first: where they change before `shadow` is looked up among them, `expect` refuses what a person did
    # not mean.
    before, number = held.stages(task), common.number_of(held, task, version)
    with _publisher(settings, publish) as sender:
        if stage != "archived":
            # Setting the stage compares bytes; only this runs the graphs, and workers would refuse one that does not
            # run.
            held.verify(task, number)
        after = held.set_stage(task, number, stage, at=time.time(), expect=before.seq, why=why)
        action = _ACTIONS[stage]
        if after.seq == before.seq and stage == "champion" and held.history(task)[-1].action == "rollback":
            action = "rollback"  # told as a promotion, it would leave the one that was rolled back in the shadow
        _told(held, settings, sender, task, number, action)
    _report(task, before, after, told=sender is not None)


def rollback_command(
    task: common.TaskArgument,
    to: Annotated[
        str | None, typer.Option("--to", help="A version that served before; the last one without it.")
    ] = None,
    why: WhyOption = "",
    publish: PublishOption = None,
    registry: common.RegistryOption = None,
    config: ConfigOption = None,
    bootstrap: BootstrapOption = None,
) -> None:
    """Return to the champion before; the one that serves now is archived.

    Run it again, and it goes back one more: when it was killed before it had
    told the workers, weir models promote with the version that serves now
    tells them. A version that was retired (promote --to archived) since it
    served is not returned to.

    For example:

        weir models rollback fraud --why "alerts doubled"

        weir models rollback fraud --to 3
    """
    settings, held = settings_of(config, bootstrap), common.open_registry(registry, config)
    common.tasks_in(held, task)
    before, number = held.stages(task), None if to is None else common.number_of(held, task, to)
    with _publisher(settings, publish) as sender:
        after = held.rollback(task, at=time.time(), to=number, expect=before.seq, why=why)
        assert after.champion is not None, "a rollback ends with a champion"
        _told(held, settings, sender, task, after.champion, "rollback")
    _report(task, before, after, told=sender is not None)


def _stage(name: str) -> Stage:
    for stage in _ACTIONS:
        if stage == name:
            return stage
    raise UsageError(f"--to {name}: give one of {', '.join(_ACTIONS)}")


def _publisher(settings: Settings, wanted: bool | None) -> AbstractContextManager[Any]:
    """A producer that is connected before anything is changed, or none."""
    if wanted is None:
        # Not by the address, whose default is a broker on this machine.
        wanted = "kafka" in settings.model_fields_set
        if not wanted:
            say("no [kafka] in the settings: workers are not told; use --bootstrap or --publish")
    return producer(settings.kafka, "models") if wanted else nullcontext()


def _told(held: Registry, settings: Settings, sender: Any, task: str, version: int, action: Action) -> None:
    if sender is None:
        return
    update = held.announce(task, version, action, at=time.time())
    try:
        publish_update(sender, update, settings.topics.name(topics.MODEL_UPDATES))
    except BaseException:  # also Ctrl-C: the stage is changed already, and nothing else says what is left to do
        say(
            f"the stage is changed, the workers are not told: weir models promote {task} {version} "
            f"{'' if action in ('promote', 'rollback') else f'--to {_TO[action]} '}does it"
        )
        raise
    say(f"published {action} of {task} v{version}")


def publish_update(sender: Any, update: ModelUpdate, topic: str) -> None:
    """Send one update with kafka-python and wait until the brokers have it."""
    from weir.online.codec.encode import encode_model

    sender.send(topic, value=encode_model(update), key=update.task.encode()).get()


def _report(task: str, before: Stages, after: Stages, told: bool) -> None:
    serve = [("champion", before.champion, after.champion), ("shadow", before.shadow, after.shadow)]
    rows = [(task, what, *(f"v{v}" if v is not None else "-" for v in versions)) for what, *versions in serve]
    output().print(table("task", "", "before>", "now>", rows=rows))
    if before.seq == after.seq:
        say(f"nothing changed: it has that stage already{'; workers were told again' if told else ''}")
