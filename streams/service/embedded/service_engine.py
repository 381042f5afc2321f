"""The thread that runs the tasks of an embedded service: takes what callers appended, and answers when it is durable.

It takes all that waits, makes one batch a topic of it, and appends that to the log of inputs. While another thread
syncs that log, it computes; then both the answers and the outputs are handed to the event loop by one call. A crash at
any moment loses nothing that was answered: at the next start inputs after the checkpoint are computed again, and what
was published of them stays (`PublishedLog`).
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import Any, Final, TypeVar

import msgspec

from weir.online.decisions.alert_state import AlertState
from weir.streams.config import topics
from weir.streams.config.settings import Settings
from weir.streams.embedded.embedded_host import READ, EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.embedded.host_state import Outcome as HostOutcome
from weir.streams.embedded.ticks import IDLE_S, IdleStreams
from weir.streams.errors import LogError, LogFull, in_words
from weir.streams.outputs import alert_records
from weir.streams.service.embedded.appends import Append, GroupCommit, MergedAppends, Step, merged
from weir.streams.service.embedded.data_directory import DataDirectory
from weir.streams.service.embedded.published_log import PublishedLog
from weir.streams.service.parts import OverloadError, Problem
from weir.streams.service.ports import Decoded

_T = TypeVar("_T")
log = logging.getLogger(__name__)

OUTPUTS: Final = (*topics.OUTPUTS, topics.DECISIONS)
"""Topics of the log of outputs; a record of one that comes from outside is an input first, and copied when its turn
comes, so that its offset too follows from the inputs."""
KEPT: Final = (topics.CASE_EVENTS, topics.AUDIT, topics.NOTIFICATIONS)
"""Topics of a third log, which no task reads: what people did and were told is kept for longer than events are."""
_MOST: Final = 2048
"""Records of a step, so that a caller waits for a few milliseconds of others' work, not for all of it."""
_REPLAY_S: Final = 1.5
"""After so much computing a checkpoint is due: a start would have to do it again."""
_OF_THE_MACHINE: Final = (LogError, OSError, MemoryError)
"""Errors that no input makes."""


class Engine:
    """See the module.

    Parameters
    ----------
    settings : how long what is kept, and what may wait.
    directory : of the service.
    inputs, outputs, kept : its logs.
    make_host : a fresh host of the tasks on these logs.
    show : see ``GroupCommit``.
    fault : called once, by any thread, with why the engine ended by itself.
    """

    def __init__(
        self,
        settings: Settings,
        directory: DataDirectory,
        inputs: EmbeddedLog,
        outputs: PublishedLog,
        kept: EmbeddedLog,
        make_host: Callable[[], EmbeddedHost],
        *,
        show: Callable[[list[Step]], None],
        fault: Callable[[str], None],
    ) -> None:
        self.directory, self.inputs, self.outputs, self.kept = directory, inputs, outputs, kept
        self._make_host, self._serve, self._clock = make_host, settings.serve, time.time
        self._every_s, self._retention = settings.serve.checkpoint_every_s, settings.serve.retention
        self._lateness = settings.worker.intake.allowed_lateness
        self.host = make_host()
        tasks = [pipeline.task for pipeline in self.host.pipelines.values()]
        # Only then does it matter which events came before a label; else one batch a topic costs less.
        self._in_turn = any(task.labels.act == "between rows" for task in tasks)
        self._idle = IdleStreams(self.host, self._lateness, inputs)
        self._saving: Future[None] | None = None
        """The checkpoint that is being written."""
        self._saved_at, self._saved_seq, self._saved_outputs = time.monotonic(), 0, 0
        self._busy_s = 0.0
        """Computed since the newest checkpoint."""
        self._queue: deque[Append] = deque()
        self._asks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._waiting = 0
        """Records that were appended by callers and not shown."""
        self._fault = ""
        self._tell_fault = fault
        self._stopping = False
        self._wake = threading.Condition()
        self._show = show
        self._commit = GroupCommit(self._sync if settings.serve.fsync else None, self._shown, self._fail)
        self._thread = threading.Thread(target=self._run, name="weir-engine", daemon=True)

    # -- start and stop ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Go on from the newest checkpoint, and compute again what came after it; blocks until that is done."""
        self.directory.begin(self.inputs.next_seq)
        while not self._resumed():
            log.error("starting once more, without the inputs that crashed the tasks twice")
            self.host = self._make_host()  # what crashed is half done
            self._idle = IdleStreams(self.host, self._lateness, self.inputs)
        self._thread.start()

    def _resumed(self) -> bool:
        """Whether the inputs after the checkpoint could be computed; raises what tasks raise the first time."""
        self.host.resume()
        for words in self.host.anew:
            log.warning("%s", words)
        first, end, told, newest = self.host.seq, self.inputs.next_seq, time.monotonic(), -math.inf
        for batch in self.inputs.read((*READ, *OUTPUTS), first):
            try:
                self._process(batch, None)
            except Exception as error:
                if self._is_new(error, batch.seq):
                    raise
                return False
            newest = max(newest, *(record.ts for record in batch.records))
            if time.monotonic() - told > 1.0:
                told = time.monotonic()
                log.info(
                    "computing again what came after the checkpoint: batch %d of %d", batch.seq - first, end - first
                )
        if differences := self.outputs.settle(newest):  # told once: these inputs are not computed a third time
            self._adopt_alerts(newest)
            self.host.checkpoint()
        self.outputs.take()  # these were shown by the process before, or can be read
        self.directory.resumed([str(each) for each in differences])
        self._saved_seq = first
        return True

    def _adopt_alerts(self, now: float) -> None:
        """Go on with alerts that only the computation of then opened: else nobody would end them.

        Where the entity has another one by now, the one of then is resolved.
        """
        then = [msgspec.json.decode(record.value) for record in self.outputs.only_then]
        opened = {said["alert_id"] for said in then if said["updated_at"] == said["opened_at"]}
        newest = {said["alert_id"]: AlertState.of_wire_dict(said) for said in then if said["alert_id"] in opened}
        for alert in newest.values():
            pipeline = self.host.pipelines.get(alert.task)
            if pipeline is not None and alert.status != "resolved" and not pipeline.book.adopt(alert):
                at = max(pipeline.book.watermark, alert.updated_at)
                ended = msgspec.structs.replace(alert, status="resolved", updated_at=at)
                self.outputs.append(topics.ALERTS, alert_records([ended], now))

    def stop(self) -> None:
        """Finish what waits, write a checkpoint and close the logs; blocks."""
        with self._wake:
            self._stopping = True
            self._wake.notify()
        if self._thread.is_alive():
            self._thread.join()
        self._commit.close()
        if self._saving is not None:
            wait([self._saving])
        # After a fault the state may be half a batch: the next start goes on from the checkpoint before.
        if not self._fault:
            self.host.checkpoint()
            self.directory.stopped(self.inputs.next_seq)
        for each in (self.inputs, self.outputs, self.kept):
            each.close()
        self.directory.close()

    # -- for callers, in the event loop -----------------------------------------------------------------------------

    def submit(self, append: Append) -> None:
        """Queue records; raises ``OverloadError``, and ``Problem`` after a fault."""
        size = len(append.records)
        with self._wake:
            if self._fault or self._stopping:
                raise _stopped(self._fault)
            # One append alone may be larger than the limit: it can not wait for less.
            if self._waiting and self._waiting + size > (most := self._serve.intake.waiting_records):
                raise OverloadError(
                    f"{self._waiting} records wait to be processed, at most {most} may "
                    "([serve.intake] waiting_records); send again in a while"
                )
            self._waiting += size
            self._queue.append(append)
            self._wake.notify()

    def ask(self, what: Callable[[], _T]) -> Future[_T]:
        """What ``what`` gives between two steps, in the engine's thread; raises ``Problem`` after a fault."""
        answer: Future[_T] = Future()
        with self._wake:
            if self._fault or self._stopping:
                raise _stopped(self._fault)
            self._asks.append((what, answer))
            self._wake.notify()
        return answer

    def troubles(self) -> list[str]:
        """Why nothing is taken now."""
        if self._fault:
            return [f"the tasks crashed: {self._fault}; the service has to start again"]
        return [] if self._thread.is_alive() else ["inputs after the newest checkpoint are computed again"]

    # -- the thread ---------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while (taken := self._take()) is not None:
                self._answer_asks()
                if taken:
                    self._step(taken)
                if ticks := self._idle.ticks(self._clock()):
                    self._step([Append(topics.TICKS, ticks, None, None)])
                self._keep()
        except Exception as error:
            log.exception("the embedded service ends")
            self._fail(error)
        if self._fault:
            self._refuse_all()

    def _take(self) -> list[Append] | None:
        """Appends for one step; none after a second without any, ``None`` at the end."""
        with self._wake:
            if not (self._queue or self._asks or self._stopping or self._fault):
                self._wake.wait(IDLE_S)
            if self._fault or (self._stopping and not self._queue and not self._asks):
                return None
            taken, size = list[Append](), 0
            # At least one, however large: it would never fit otherwise.
            while self._queue and (not taken or size + len(self._queue[0].records) <= _MOST):
                taken.append(self._queue.popleft())
                size += len(taken[-1].records)
            return taken

    def _answer_asks(self) -> None:
        while self._asks:
            answer_by(*self._asks.popleft())

    def _step(self, appends: list[Append]) -> None:
        """Append, and compute while the disk syncs."""
        step = Step(appends)
        # Time of this thread alone: what others took of the machine, no start has to compute again.
        began = time.thread_time()
        try:
            logged = [(group, self._logged(group, step)) for group in merged(appends, _MOST, in_turn=self._in_turn)]
        except Exception:
            with self._wake:  # who waits for these is answered with those whose turn had not come
                self._queue.extendleft(reversed(appends))
            raise
        self._commit.appended(step)
        for group, batches in logged:
            # Several batches where one append is longer than a batch: each is decoded by itself.
            decoded = group.decoded if len(batches) == 1 else None
            made = [(len(batch.records), self._live(batch, decoded)) for batch in batches]
            step.answers += group.answers(made) if batches else ()
            # An input of a topic of outputs is shown as what it became there, with that offset.
            step.batches += [batch for batch in batches if batch.topic not in OUTPUTS]
        step.batches += self.outputs.take()
        self._commit.processed(step)
        self._busy_s += time.thread_time() - began

    def _logged(self, group: MergedAppends, step: Step) -> list[LoggedBatch]:
        """The batches that a group became; none where the disk is full, which its callers are then told."""
        try:
            self.directory.check_room()
            return (self.kept if group.topic in KEPT else self.inputs).append(group.topic, group.records)
        except LogFull as full:
            problem = Problem(507, "Insufficient storage", f"{full}; nothing of this was kept: send it again")
            step.answers += [(append, problem) for append in group.appends]
            return []

    def _sync(self) -> None:
        self.inputs.sync()
        self.kept.sync()

    def _live(self, batch: LoggedBatch, decoded: Decoded | None) -> HostOutcome | None:
        whole = self.outputs.next_seq
        try:
            return self._process(batch, decoded)
        except Exception as error:
            self._is_new(error, batch.seq)
            if not isinstance(error, _OF_THE_MACHINE):
                # Half of what the batch makes, which nobody has seen: the next start may put the batch aside.
                self.outputs.cut(whole)
            raise

    def _process(self, batch: LoggedBatch, decoded: Decoded | None) -> HostOutcome | None:
        """Let the tasks see a batch; its outcome, of topics that they read."""
        if batch.topic in KEPT:
            return None
        if batch.seq in self.directory.aside:
            return self.host.put_aside(batch, "the tasks crashed at this batch twice; see the service's log")
        if batch.topic in OUTPUTS:
            self.outputs.append(batch.topic, batch.records)
            self.host.seq = batch.seq + 1
            return None
        if batch.topic not in READ:
            return None
        outcome = self.host.process(batch, decoded)
        self._idle.came(batch.topic, batch.records[-1].ts)
        return outcome

    def _is_new(self, error: Exception, seq: int) -> bool:
        """Note a crash of the tasks; whether the next start meets it again, as it is not put aside."""
        if isinstance(error, _OF_THE_MACHINE):
            return True
        aside = self.directory.crashed(seq, in_words(error))
        log.error(
            "input batch %d crashed the tasks%s: %s", seq, " again; it is put aside" if aside else "", in_words(error)
        )
        return not aside

    def _shown(self, steps: list[Step]) -> None:
        # Ticks are nobody's, and were not counted when they came.
        told = (append for step in steps for append, _ in step.answers if append.answer is not None)
        with self._wake:
            self._waiting -= sum(len(append.records) for append in told)
        self._show(steps)

    def _fail(self, error: Exception) -> None:
        """The first error ends the thread; called by any thread."""
        with self._wake:
            self._fault = self._fault or in_words(error)
            self._wake.notify()

    def _refuse_all(self) -> None:
        """Answer everybody who waits: what is durable will be computed after the restart, but nobody knows how."""
        unshown = self._commit.close()
        with self._wake:
            waiting = [*(append for step in unshown for append in step.appends), *self._queue]
            self._queue.clear()
            asks = list(self._asks)
        problem = _stopped(self._fault)
        for _, answer in asks:
            # Who gave up has cancelled it, and a cancelled future takes no error: nobody after it would be told.
            if answer.set_running_or_notify_cancel():
                answer.set_exception(problem)
        self._tell_fault(self._fault)
        self._show([Step([], [(append, problem) for append in waiting])])

    # -- checkpoints --------------------------------------------------------------------------------------------------

    def _keep(self) -> None:
        """Begin a checkpoint when it is time, or when what came since would take long to compute again."""
        if self._saving is not None:
            if not self._saving.done():
                return
            self._saved(self._saving)
            self._saving = None
        due = time.monotonic() - self._saved_at >= self._every_s or self._busy_s >= _REPLAY_S
        if due and self.host.seq > self._saved_seq:
            self._saving = self.host.begin_checkpoint()
            self._saved_at, self._saved_seq, self._busy_s = time.monotonic(), self.host.seq, 0.0
            # As of the checkpoint: what is appended while its files are written has to stay.
            self._saved_outputs = self.outputs.next_seq

    def _saved(self, saving: Future[None]) -> None:
        """Delete what is too old or too much, up to where the checkpoint that is in place now resumes."""
        if (error := saving.exception()) is not None:  # the one before stays: more will be computed again
            log.error("no checkpoint: %s", in_words(error))
            return
        now, size = self._clock(), self._retention.bytes
        age = now - self._retention.age
        self.inputs.retain(self._saved_seq, age, size)
        self.outputs.retain(self._saved_outputs, age, size)
        # No start reads it, so that age and size alone decide.
        self.kept.retain(self.kept.next_seq, now - self._serve.alerts_kept, size)


def answer_by(what: Callable[[], _T], answer: Future[_T]) -> None:
    """Answer what somebody asked, unless nobody waits any more."""
    if answer.set_running_or_notify_cancel():
        try:
            answer.set_result(what())
        except Exception as error:  # noqa: BLE001 - it is the asker's
            answer.set_exception(error)


def _stopped(fault: str) -> Problem:
    if not fault:
        return Problem(503, "Stopping", "the service stops; send again when it is back", headers={"Retry-After": "5"})
    return Problem(
        500, "Tasks crashed", f"{fault}; the service starts again, send again then: what it has taken is a repeat"
    )
