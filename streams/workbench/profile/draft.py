"""From files to a task file that runs: sample, profile, plan, write, and try what was written on the sample.

It knows the steps, not what any of them decides.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from types import MappingProxyType
from typing import Final

from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.event_files import FileSource
from weir.streams.embedded.memory_store import MemoryFeatureStore
from weir.streams.errors import UsageError
from weir.streams.workbench.profile import roles
from weir.streams.workbench.profile.choices import Ask, plan_of
from weir.streams.workbench.profile.columns import Column, columns_of_sample
from weir.streams.workbench.profile.sampled import Sample, samples_of
from weir.streams.workbench.profile.task_plan import Plan
from weir.streams.workbench.profile.written_task import task_text

_TRIED_ROWS: Final = 4096
_NAMED: Final = re.compile(r"column '(.+?)'(?: is )?(.*)")


@dataclass(frozen=True, slots=True)
class Draft:
    """A task file that was tried, and what it is made of."""

    text: str
    plan: Plan
    left: tuple[str, ...]
    """Files that are left out, each with the reason."""


def draft_task(
    paths: Sequence[Path],
    name: str,
    ask: Ask = None,
    step: Callable[[str], None] = lambda _: None,
    given: Mapping[str, str] = MappingProxyType({}),
) -> Draft:
    """A task file for tables of any layout.

    Parameters
    ----------
    paths : files or folders; of files with different columns those are taken that fit a task best.
    name : of the task.
    ask : answers what is not sure; without it the guesses are taken.
    step : told what is done next.
    given : by part (time, entity, label, positive, label_delay) what is known: it is neither guessed nor asked.

    Raises
    ------
    UsageError
        Where no file can be read, or none holds anything to learn or to watch.
    """
    told = dict[str, str]()

    def once(question: str, guess: str, answers: Sequence[str]) -> str:
        if question not in told:
            told[question] = ask(question, guess, answers) if ask is not None else guess
        return told[question]

    with TemporaryDirectory(prefix="weir-init-") as folder:
        step("reading a sample")
        samples, left = samples_of(paths, Path(folder))
        step("looking at the columns")
        profiled = [(sample, columns_of_sample(sample)) for sample in samples]
        sample, columns = max(profiled, key=lambda pair: _fitness(*pair))
        for other in (other for other in samples if other is not sample):
            files = ", ".join(path.name for path in other.paths)
            left.append(f"{files}: not the columns of {sample.paths[0].name}; join them first where you need both")
        step("trying the task on the sample")
        while True:
            # All over again, without the column: another one takes its part. A person is not asked the same twice.
            plan = plan_of(name, sample, columns, None if ask is None else once, given)
            text = task_text(plan)
            try:
                _try(text, sample)
                return Draft(text, plan, tuple(left))
            except UsageError as exc:
                columns = _without_the_named(columns, exc)  # one less each time


def _fitness(sample: Sample, columns: Sequence[Column]) -> tuple[int, int, int]:
    """A file of events with labels comes first, then one of events, then the one with most rows."""
    timed = roles.guess_time(columns).column is not None
    labelled = roles.guess_label(columns).column is not None
    return 2 * timed + labelled, len(roles.guess_entities(columns)) > 0, sample.rows


def _try(text: str, sample: Sample) -> None:
    """Read the sample by the task; raises ``UsageError`` where a column cannot be read in its part."""
    task = TaskSpec.from_toml(text)
    pipeline = TaskPipeline(task, MemoryFeatureStore())
    first = next(FileSource(task, pipeline.columns, sample.read).batches(_TRIED_ROWS))
    # More than half, the limit of a backtest.
    if len(first.rejects) > len(first.batch):
        raise UsageError(first.rejects[0].reason)


def _without_the_named(columns: Sequence[Column], exc: UsageError) -> list[Column]:
    """The columns, of which the one that ``exc`` names is of no use; raises it where it names none."""
    found = _NAMED.search(str(exc))
    if found is None or not any(c.name == found[1] and not c.why for c in columns):
        raise exc
    return [replace(c, kind="useless", why=found[2] or str(exc)) if c.name == found[1] else c for c in columns]
