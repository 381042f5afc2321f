"""The demo's loop: blocks of the simulated stream go into the log at their time, and through the host at once.

The content is the scenario's alone; the clock decides when a block is due, never what is in it. A checkpoint holds how
many blocks are behind it, so a run that was stopped, or killed, goes on with the next block and ends with the same log.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol

import msgspec

from weir.online.codec.wire import RetrainRequest
from weir.online.stages.pipeline import StepOutput, TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.config.model_settings import ModelSettings
from weir.streams.config.topics import INPUTS, MODEL_UPDATES
from weir.streams.demo.demo_journal import Journal, Measures, MetricHistories, export, pressing, task_row
from weir.streams.demo.retraining import Retraining
from weir.streams.demo.scenario import Scenario
from weir.streams.demo.screen.snapshot import DemoSnapshot
from weir.streams.demo.story import Story
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.offline_models.loading import full_models
from weir.streams.offline_models.model_updates import update_record
from weir.streams.records import Record
from weir.streams.service.embedded.published_log import OutputLog
from weir.streams.simulate import RecordBlock, simulate
from weir.streams.trainer.job.job_runner import Runner

SHOW_EVERY_S = 0.25
_SHOW_SHARE = 0.1
"""Part of the time that may go into drawing: on a busy machine the screen changes less often, the events go on."""
_PATIENCE = 1.5
"""A machine that is too slow for its scenario stops after this many times the planned seconds."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a period is shown; changes nothing of what is shown."""

    seconds: float = 60.0
    """Wall-clock time of a whole period."""
    full_speed: bool = False
    """No waiting: as fast as the machine can."""
    checkpoint_every_s: float = 10.0


@dataclass(frozen=True, slots=True)
class DemoResult:
    """How a run ended."""

    snapshot: DemoSnapshot
    files: list[tuple[str, str]]
    at_end: bool
    """Whether the period was shown to its end."""


class Visitors(Protocol):
    """People who look at the demo by its console, and do something."""

    def serve(self, wait_s: float, stop: threading.Event) -> None:
        """Show them what was appended, and do what they ask for so many seconds, or until ``stop`` is set."""


class Demo:
    """A demo in a directory; to be closed, because it holds files open.

    Parameters
    ----------
    directory : where the log, the checkpoints and the exports live.
    scenario : the content.
    tasks : what is done with it.
    stop : set by whoever wants the run to end after the block in work.
    runner : where full models are trained; see ``Retraining``.
    """

    def __init__(
        self,
        directory: Path,
        scenario: Scenario,
        tasks: Sequence[TaskSpec],
        stop: threading.Event,
        runner: Runner | None = None,
    ) -> None:
        self.directory, self.scenario = directory, scenario
        self._stop = stop
        self._blocks: Iterator[RecordBlock] = iter(())
        self._config = scenario.simulation()
        self.log = OutputLog(directory / "log")
        self.host = EmbeddedHost(
            tasks, self.log, checkpoints=directory / "state", observe=self._observe,
            full=full_models(tasks, ModelSettings(provider="cpu", registry=str(directory / "models"))),
            decisions=True,  # thresholds in force: the console shows them
        )  # fmt: skip
        self._journal, self._histories, self._measures = Journal(), MetricHistories(), Measures()
        self._thresholds: dict[str, float] = {}
        self._saving: Future[None] | None = None
        """The checkpoint that is being written beside the loop."""
        # Before resuming, which cuts the log back to its newest checkpoint.
        end = self.log.next_seq
        resumed, self.cut = self.host.resume(), self.log.next_seq < end
        """Whether the run before ended without a checkpoint: what followed its newest one is made again."""
        if resumed:
            self._journal = msgspec.msgpack.decode(self.host.resumed_extra, type=Journal)
        self._stories = {
            name: Story(Retraining(p.task, p.features, directory, first_at=scenario.first_training_ts, runner=runner))
            for name, p in self.host.pipelines.items()
            if p.task.full is not None
        }
        for name, story in self._stories.items():
            story.restore(self._journal.retraining.get(name, b""))
        self.resumed_blocks = self._journal.blocks
        """Blocks that an earlier run had finished."""
        self._events_before = self.host.stats.events
        self.event_ts = self._config.start_ts + self.resumed_blocks * self._config.block_s
        """How far event time has come, epoch seconds."""
        self.visitors: Visitors | None = None
        self.link = ""
        """Of the console, where there is one."""

    @property
    def complete(self) -> bool:
        """Whether the whole stream is behind."""
        return self._journal.blocks >= self.scenario.blocks

    def skip(self) -> None:
        """Bring the simulator to the first block that is not in the log yet; takes seconds when many are."""
        self._blocks = simulate(self._config)
        for _ in islice(self._blocks, self.resumed_blocks):
            if self._stop.is_set():
                break

    def run(self, pace: Pace, show: Callable[[DemoSnapshot], None]) -> DemoResult:
        """Show the stream to the end of its period.

        ``show`` gets a snapshot a few times a second.
        """
        period = self.scenario.blocks_per_period
        first = self.resumed_blocks
        end = min((first // period + 1) * period, self.scenario.blocks)
        per_block = pace.seconds / period
        duration = per_block * (end - first)
        began = time.perf_counter()
        saved = show_at = 0.0
        self._retrain()  # an earlier run may have been stopped while it waited for a training
        while self._journal.blocks < end and not self._stop.is_set():
            due = 0.0 if pace.full_speed else (self._journal.blocks - first) * per_block
            self._wait(max(due - (time.perf_counter() - began), 0.0))
            self._process(next(self._blocks))
            elapsed = time.perf_counter() - began
            self._measures.progress(elapsed, self.host.stats.events)
            if elapsed >= show_at:
                show(self._snapshot(elapsed, duration))
                cost = time.perf_counter() - began - elapsed
                # What drawing just cost says when it may be done again.
                show_at = elapsed + max(SHOW_EVERY_S, cost / _SHOW_SHARE)
            if elapsed - saved >= pace.checkpoint_every_s:
                saved = elapsed
                self.checkpoint()
            if elapsed > _PATIENCE * duration and not pace.full_speed:
                break
        self.checkpoint()
        elapsed = time.perf_counter() - began
        return self._finish(elapsed, duration, self._journal.blocks >= end)

    def stay(self) -> None:
        """Be there for visitors until the demo is to stop."""
        while not self._stop.is_set():
            self._wait(1.0)

    def _wait(self, seconds: float) -> None:
        if self.visitors is None:
            self.log.take()
            self._stop.wait(seconds)
        else:
            self.visitors.serve(seconds, self._stop)

    def request(self, asked: RetrainRequest) -> None:
        """A person asks for a new model."""
        if (story := self._stories.get(asked.task)) is not None:
            story.retraining.ask(asked)

    def _process(self, block: RecordBlock) -> None:
        """Append a block topic by topic; each batch goes through the host as soon as it is in the log."""
        for topic in INPUTS:
            records = [Record(*record) for record in block.topics[topic]]
            for first in range(0, len(records), self.log.max_batch):
                began = time.perf_counter()
                for batch in self.log.append(topic, records[first : first + self.log.max_batch]):
                    self.host.process(batch)
                self._measures.batch(time.perf_counter() - began)
        self._journal.blocks += 1
        # The last block reaches past the end, for what arrives late.
        self.event_ts = min(block.end, self._config.end_ts)
        self._retrain()

    def _retrain(self) -> None:
        """Let the trainers go on; what they say of models takes its place in the log here, behind a whole block."""
        for story in self._stories.values():
            updates, findings = story.step(self.event_ts, self._stop)
            self._journal.findings += findings
            for update in updates:
                for batch in self.log.append(MODEL_UPDATES, [update_record(update, self.event_ts)]):
                    self.host.process(batch)

    def _observe(self, pipeline: TaskPipeline, out: StepOutput) -> None:
        self._journal.observe(pipeline, out)
        story = self._stories.get(pipeline.task.name)
        if story is not None:
            story.retraining.observe(out)
        if out.thresholds is not None and len(out.thresholds):
            self._thresholds[pipeline.task.name] = float(out.thresholds[-1])

    def checkpoint(self) -> None:
        """Keep everything up to here."""
        # One at a time: both would write the same state.
        if self._saving is not None:
            wait([self._saving])
        self.host.checkpoint(self._extra())

    def keep(self) -> bool:
        """Begin to do so while the loop goes on; whether it has begun, as one waits for the end of the other."""
        if self._saving is not None and not self._saving.done():
            return False
        self._saving = self.host.begin_checkpoint(self._extra())
        return True

    def _extra(self) -> bytes:
        self._journal.retraining = {name: story.retraining.snapshot() for name, story in self._stories.items()}
        return msgspec.msgpack.encode(self._journal)

    def _snapshot(self, elapsed: float, duration: float, *, final: bool = False) -> DemoSnapshot:
        host, done = self.host, self.host.stats.events - self._events_before
        p50, p95, p99 = self._measures.percentiles_ms
        return DemoSnapshot(
            elapsed_s=elapsed,
            duration_s=duration,
            events=done,
            events_per_s=done / max(elapsed, 1e-9) if final else self._measures.rate,
            event_ts=self.event_ts,
            latency_p50_ms=p50,
            latency_p95_ms=p95,
            latency_p99_ms=p99,
            tasks=tuple(
                task_row(pipeline, self._histories, self._thresholds.get(name, math.nan))
                for name, pipeline in host.pipelines.items()
            ),
            alerts=pressing(host),
            drifts=tuple(reversed(self._journal.findings)),
            dead_letters=host.stats.dead_letters,
            duplicates=sum(intake.duplicates for intake in host.intake.values()),
            late=sum(intake.late for intake in host.intake.values()),
            rate_history=tuple(self._measures.history),
            full=tuple(story.row() for story in self._stories.values()),
            paths=(("files", str(self.directory)),),
            console=self.link,
        )

    def _finish(self, elapsed: float, duration: float, at_end: bool) -> DemoResult:
        last = self._snapshot(elapsed, duration, final=True)
        state = {
            "at_end": at_end,
            "resumed_from_block": self.resumed_blocks,
            "stopped": self._stop.is_set(),
            "waited_for_training_s": round(sum(s.retraining.waited_s for s in self._stories.values()), 2),
            "events_per_busy_s": round(last.events / max(self._measures.busy_s, 1e-9)),
        }
        files = export(self.directory, self.scenario, self.host, self._journal, last, state)
        return DemoResult(last, [*files, ("log of all topics", str(self.directory / "log"))], at_end)

    def close(self) -> None:
        """Stop what trains, and close the files."""
        for story in self._stories.values():
            story.retraining.close()
        self.log.close()
