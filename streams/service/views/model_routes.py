"""Tasks, models, drift and retraining over HTTP: what runs, what it is worth, how a person changes it."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple

import msgspec
from pydantic import BaseModel, Field

from weir.models.errors import ModelError, StageConflictError
from weir.models.registry.registry import Registry, open_files
from weir.models.registry.stages import ACTIONS, Action, StageEntry
from weir.online.codec.encode import encode_model
from weir.online.codec.wire import RetrainRequest
from weir.online.mistakes import did_you_mean
from weir.online.task.spec import TaskSpec
from weir.streams.config import topics
from weir.streams.errors import BrokerError
from weir.streams.offline_models.model_updates import UpdateFold, decode_updates
from weir.streams.ops.instruments import Gauge
from weir.streams.records import Record
from weir.streams.service.access.scopes import Caller, needs
from weir.streams.service.parts import Problem, View
from weir.streams.service.ports import every_record
from weir.streams.service.views.drift_change import change_of
from weir.streams.trainer.state_journal import FilesJournal
from weir.streams.trainer.task_state import Job, TaskState, decode

if TYPE_CHECKING:
    from weir.streams.service.service import Service

_SHOWN: Final = 100
"""Requests that are listed: the newest."""


class RetrainOrder(BaseModel):
    """Asks for a new full model."""

    task: str = Field(max_length=64, examples=["fraud"])
    reason: str = Field(default="asked for by hand", max_length=2_000)
    force: bool = False
    """Also within the cooldown of the task."""


class StageOrder(BaseModel):
    """Where a version is to go."""

    to: Literal["champion", "shadow", "archived"] = "champion"
    why: str = Field(default="", max_length=2_000)


class RollbackOrder(BaseModel):
    """Returns to the champion before."""

    to: int | None = Field(default=None, ge=1)
    """A version that served before; the last one without it."""
    champion: int | None = Field(default=None, ge=1)
    """The version that serves, as the caller saw it: the same request again goes back no further."""
    why: str = Field(default="", max_length=2_000)


class Models(View):
    """Routes of tasks and their models."""

    def __init__(self, service: Service) -> None:
        super().__init__(service, "tasks and models")
        self._registry = service.settings.models.registry
        get, post = self.router.get, self.router.post
        get("/tasks")(self.tasks)
        get("/tasks/{task}")(self.task)
        get("/models")(self.models)
        get("/models/{task}/{version}")(self.model)
        post("/models/{task}/rollback")(self.rollback)
        post("/models/{task}/{version}/stage")(self.move)
        get("/drift")(self.drift)
        get("/retraining")(self.retraining)
        post("/retrain", status_code=202)(self.retrain)

    async def tasks(self, caller: Caller = needs("tasks:read")) -> dict[str, Any]:
        """The tasks that run, and their metrics now."""
        return {"tasks": [await self._outline(task) for task in self._service.seen_by(caller)]}

    async def task(self, task: str, caller: Caller = needs("tasks:read")) -> dict[str, Any]:
        """One task: what its file says, and its metrics now."""
        found = self._task(caller, task)
        return {**await self._outline(found), "file": found.model_dump(mode="json", exclude_unset=True)}

    async def _outline(self, task: TaskSpec) -> dict[str, Any]:
        return {
            "task": task.name, "stream": task.stream, "entity": task.entity, "full_model": task.full is not None,
            "metrics": await self._service.serving.metrics(task.name),
        }  # fmt: skip

    async def models(self, task: str | None = None, caller: Caller = needs("models:read")) -> dict[str, Any]:
        """Versions of the full models, with their stages and what the gate measured.

        The champion has ``told``: whether the workers were told that it serves.
        """
        names = [t.name for t in self._service.seen_by(caller) if task in (None, "", t.name)]

        def find() -> list[dict[str, Any]]:
            held = Registry(self._registry)
            found: list[dict[str, Any]] = []
            for name in names:
                versions = held.versions(name)
                try:
                    stages = held.stages(name)
                except ModelError as error:
                    found += [{"task": name, "version": version, "unusable": str(error)} for version in versions]
                    continue
                for version in versions:
                    try:
                        found.append(_version(held, name, version, stages.of(version)))
                    except ModelError as error:
                        # A damaged one is shown as that, and hides none of the others.
                        found.append({"task": name, "version": version, "unusable": str(error)})
            return found

        found = await asyncio.to_thread(find)  # it may be an object store, for which no loop waits
        champions = [model for model in found if model.get("stage") == "champion"]
        if champions:
            with suppress(BrokerError):  # then it is not known
                told = await self._told()
                for model in champions:
                    model["told"] = _number(told, model["task"]) == model["version"]
        return {"models": found}

    async def _told(self) -> UpdateFold:
        """What the workers were told to serve."""
        fold = UpdateFold()
        async for placed in every_record(self._service.log, topics.MODEL_UPDATES):
            for update in decode_updates([placed.record.value]).updates:
                fold.apply(update)
        return fold

    async def model(self, task: str, version: int, caller: Caller = needs("models:read")) -> dict[str, Any]:
        """One version: its manifest, the job that trained it, what serves beside it, and the moves of its task."""
        self._task(caller, task)

        jobs = (await self.retraining(task, caller))["jobs"]
        job = next((job for job in jobs if job["version"] == version), None)

        def find() -> dict[str, Any]:
            held = Registry(self._registry)
            stages = held.stages(task)
            if version not in held.versions(task):
                raise Problem(404, "Not found", f"{task} has no version {version}; it has {held.versions(task)}")
            moves = [entry.model_dump(mode="json", exclude={"by"}) for entry in held.history(task)]
            serves = {"champion": stages.champion, "shadow": stages.shadow}
            return {**_version(held, task, version, stages.of(version)), **serves, "moves": moves, "job": job}

        return await asyncio.to_thread(find)

    async def move(
        self, task: str, version: int, order: StageOrder, caller: Caller = needs("models:write")
    ) -> dict[str, Any]:
        """Make a version serve, be scored beside the one that serves, or go; workers are told."""
        self._task(caller, task)
        why = f"{order.why} ({caller.name})".strip()

        def change(held: Registry) -> _Change:
            before = held.stages(task)
            if order.to != "archived":
                # A damaged one must not serve, and can still be put away.
                held.verify(task, version)
            # Of two people who move versions at once one is told so (409), and looks again.
            after = held.set_stage(task, version, order.to, at=time.time(), expect=before.seq, why=why)
            stays = after.seq == before.seq and order.to == "champion"
            # Told as a promotion, it would leave the version that was rolled back in the shadow.
            rolled = stays and _how_it_came(held.history(task))[0] == "rollback"
            return _Change([(version, "rollback" if rolled else ACTIONS[order.to])])

        return await self._moved(task, change)

    async def rollback(self, task: str, order: RollbackOrder, caller: Caller = needs("models:write")) -> dict[str, Any]:
        """Return to the champion before; the one that serves now is archived.

        Of a rollback that the workers were not told of, they are told, and no version more is gone back. So it is too
        where ``champion`` names the version that was gone back from: whoever does not know what became of a request
        sends it again.
        """
        self._task(caller, task)
        why, told = f"{order.why} ({caller.name})".strip(), _number(await self._told(), task)

        def change(held: Registry) -> _Change:
            stages = held.stages(task)
            champion, seen = stages.champion, order.champion
            action, left = _how_it_came(held.history(task))
            again = action == "rollback" and champion is not None and order.to in (None, champion)
            if again and (seen == left or (seen is None and champion != told)):
                assert champion is not None, "a rollback ends with a champion"
                moves: list[tuple[int, Action]] = [(champion, "rollback")]
                # Workers drop the shadow with a rollback; one that came since goes on.
                moves += [(stages.shadow, "shadow")] if stages.shadow is not None else []
                return _Change(moves if champion != told else [], left)
            if seen not in (None, champion):
                raise Problem(
                    409, "Conflict", f"{task}: v{seen} does not serve, but v{champion}; look again, and name that one "
                    "where it is to go", parameter="champion", value=seen, limit=champion,
                )  # fmt: skip
            after = held.rollback(task, at=time.time(), to=order.to, expect=stages.seq, why=why)
            assert after.champion is not None, "a rollback ends with a champion"
            return _Change([(after.champion, "rollback")], champion)

        return await self._moved(task, change)

    async def _moved(self, task: str, change: Callable[[Registry], _Change]) -> dict[str, Any]:
        """Change a stage and tell the workers; what was not told is told by the same request again.

        Raises ``Problem`` (503) where the stage is changed, and the workers may not know it.
        """

        def act() -> tuple[list[Record], dict[str, Any], int | None]:
            held = Registry(self._registry)
            try:
                made = change(held)
            except StageConflictError as error:
                raise Problem(409, "Conflict", str(error)) from error
            now = time.time()
            told = [held.announce(task, version, action, at=now) for version, action in made.to_tell]
            stages = held.stages(task)
            document = {"task": task, "champion": stages.champion, "shadow": stages.shadow}
            return [Record(task.encode(), encode_model(update), now) for update in told], document, made.left

        # The stage first, and then the word to the workers: these look the version up where they are told of it.
        records, document, left = await asyncio.to_thread(act)
        if not records:
            return document
        try:
            await self._service.log.append(topics.MODEL_UPDATES, records)
        except (BrokerError, Problem) as error:
            words = f"the stage is changed, and the workers may not know it: {error}"
            # The brokers may still take it: by then a rollback would be one more.
            again = "" if left is None else f', with "champion": {left}'
            fix = f"ask for the same once more{again}; `told` of GET /v1/models says whether they know which one serves"
            raise Problem(503, "Workers not told", f"{words}; {fix}", fix=fix, headers={"Retry-After": "2"}) from error
        return document

    async def champions(self, caller: Caller) -> dict[str, int | None]:
        """The version of each task's full model that serves, of the tasks that have one and whose stages are whole."""
        names = [t.name for t in self._service.seen_by(caller) if t.full is not None]

        def find() -> dict[str, int | None]:
            held, found = Registry(self._registry), dict[str, int | None]()
            for name in names:
                with suppress(ModelError):  # `models` says what is wrong with it
                    found[name] = held.champion(name)
            return found

        return await asyncio.to_thread(find)

    async def drift(self, task: str | None = None, caller: Caller = needs("models:read")) -> dict[str, Any]:
        """What drifted: the newest requests for a new model that a drift caused."""
        return {"drift": [r for r in await self._requests(caller, task) if r["cause"] == "drift"]}

    async def retraining(self, task: str | None = None, caller: Caller = needs("models:read")) -> dict[str, Any]:
        """Requests for new models, and the trainer's jobs: what they are at, how they ended and why."""
        requests = await self._requests(caller, task)
        seen = [t for t in self._service.seen_by(caller) if task in (None, "", t.name)]
        return {"requests": requests, "jobs": await asyncio.to_thread(lambda: jobs_of(self._service, seen))}

    async def _requests(self, caller: Caller, task: str | None) -> list[dict[str, Any]]:
        names = {t.name for t in self._service.seen_by(caller)} if not task else {self._task(caller, task).name}
        found = []
        async for placed in every_record(self._service.log, topics.RETRAIN_REQUESTS):
            said: dict[str, Any] = msgspec.json.decode(placed.record.value)
            if said.get("task") in names:
                found.append(said)
        return found[::-1][:_SHOWN]

    async def change(self, request_id: str, caller: Caller = needs("models:read")) -> dict[str, Any]:
        """A request that a drift caused, and the drifted column before and after it; raises ``Problem`` (404)."""
        tasks = {task.name: task for task in self._service.seen_by(caller)}
        async for placed in every_record(self._service.log, topics.RETRAIN_REQUESTS):
            said: dict[str, Any] = msgspec.json.decode(placed.record.value)
            if said.get("request_id") == request_id and said.get("task") in tasks:
                column = str(said.get("text") or "").partition(":")[0]
                found = await change_of(self._service.log, tasks[said["task"]], column, placed.record.ts)
                return {"request": said, "change": found}
        raise Problem(404, "Not found", f"no request {request_id!r}; GET /v1/drift lists them", value=request_id)

    async def retrain(self, order: RetrainOrder, caller: Caller = needs("retrain:write")) -> dict[str, Any]:
        """Ask for a new full model; ``GET /v1/retraining`` tells what becomes of it."""
        task = self._task(caller, order.task)
        if task.full is None:
            raise Problem(409, "No full model", f"task {task.name} has no [full] model; add the table to its file")
        now = time.time()
        request = RetrainRequest(
            request_id=f"manual-{secrets.token_hex(6)}", task=task.name, cause="manual", requested_at=now,
            text=f"{order.reason} ({caller.name})"[:2_000], details={"force": True} if order.force else None,
        )  # fmt: skip
        record = Record(task.name.encode(), encode_model(request), now)
        await self._service.log.append(topics.RETRAIN_REQUESTS, [record])
        return {"request_id": request.request_id}

    def _task(self, caller: Caller, name: str) -> TaskSpec:
        seen = {task.name: task for task in self._service.seen_by(caller)}
        if name not in seen:
            raise Problem(404, "Not found", f"no task {name!r}; {did_you_mean(name, list(seen))}", value=name)
        return seen[name]


class _Change(NamedTuple):
    """What became of the stages of a task."""

    to_tell: Sequence[tuple[int, Action]]
    """What the workers are to be told: a version, and what it is now."""
    left: int | None = None
    """Of a rollback, the version that served before it."""


def _how_it_came(moves: Sequence[StageEntry]) -> tuple[Action | None, int | None]:
    """By which move the version that serves came to serve, and which one served before; of shadows nothing.

    >>> from weir.models.registry.stages import Stages
    >>> serves = [("promote", 1), ("promote", 2), ("rollback", 1), ("shadow", 1)]
    >>> made = [StageEntry(at=0, action=a, version=1, by="", stages=Stages(champion=v)) for a, v in serves]
    >>> _how_it_came(made), _how_it_came([])
    (('rollback', 2), (None, None))
    """
    before = [None, *(entry.stages.champion for entry in moves)]
    pairs = zip(moves, before, strict=False)
    changed = [(entry.action, left) for entry, left in pairs if entry.stages.champion != left]
    return changed[-1] if changed else (None, None)


def _number(of: UpdateFold, task: str) -> int | None:
    champion = of.versions(task).champion
    return None if champion is None else champion.version


def _version(held: Registry, task: str, version: int, stage: str) -> dict[str, Any]:
    manifest = held.manifest(task, version)
    document: dict[str, Any] = msgspec.json.decode(manifest.canonical())
    return {"stage": stage, "digest": manifest.digest, **document}


_LINES: Final = 30
"""Last lines of a log that are shown."""
_TAIL: Final = 8_192
"""Bytes at its end in which they are looked for."""


def jobs_of(service: Service, tasks: Sequence[TaskSpec]) -> list[dict[str, Any]]:
    """The newest jobs of each task, the newest first; reads files.

    One that is at work has ``parts`` (name and share that is done) and ``log`` (lines), where this process trains. One
    whose candidate is judged live has ``live``: examples that were seen, and of how many.
    """
    journal, found = FilesJournal(open_files(service.settings.models.registry)), list[dict[str, Any]]()
    for task in tasks:
        if task.full is None or (entry := journal.newest(task.name)) is None:
            continue
        state = decode(entry[1], f"the trainer's journal of {task.name}")
        jobs = {job.job_id: job for job in (*state.ended, *([state.job] if state.job else ()))}
        found += [{"task": task.name, **_shown(service, task, state, job)} for job in jobs.values()]
    return sorted(found, key=lambda job: -job["began_at"])


def _shown(service: Service, task: TaskSpec, state: TaskState, job: Job) -> dict[str, Any]:
    known: dict[str, Any] = msgspec.to_builtins(job)
    if state.at_work and state.job is not None and state.job.job_id == job.job_id:
        # What trains tells how far it is; later stages do not, and it would stay as it was.
        telling = job.stage in ("accepted", "data")
        shares = service.metrics.children("weir_trainer_progress").items()
        parts = {
            part: gauge.value
            for (of, part), gauge in shares
            if telling and of == task.name and isinstance(gauge, Gauge)
        }
        folder = service.settings.serve.directory / "work" / task.name / job.job_id
        known |= {"parts": parts, "log": _last_lines(folder)}
    if state.phase is not None and state.phase_job is not None and state.phase_job.job_id == job.job_id:
        assert task.full is not None, "a task without a full model has no phase"
        wanted = task.full.training.shadow_examples
        known["live"] = {"kind": state.phase.kind, "examples": len(state.phase.y), "of": wanted}
    return known


def _last_lines(folder: Path) -> list[str]:
    """The end of the newest log among a job's; none where its files are on another machine, or are removed just now."""
    try:
        logs = sorted(folder.glob("*/output.log"), key=lambda path: path.stat().st_mtime)
        with logs[-1].open("rb") as file:
            file.seek(max(file.seek(0, 2) - _TAIL, 0))
            # It may begin within a character.
            return file.read().decode("utf-8", "replace").splitlines()[-_LINES:]
    except (OSError, IndexError):
        return []
