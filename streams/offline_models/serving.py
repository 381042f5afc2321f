"""The full models of one process: loaded beside the old ones, then swapped in between two batches by one assignment.

An artefact that cannot be used is refused, with a line in the log, a metric and a word in the status, and what served
before goes on. Loading is the caller's thread (`weir.streams.offline_models.update_follower`) or, embedded, its turn
(`apply_now`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from weir.models.serving.active_models import Pair
from weir.models.serving.model_runner import PROVIDERS, FullRunner
from weir.models.types import StepModel
from weir.online.batch import FloatMatrix, FloatVector
from weir.online.codec.wire import ModelUpdate
from weir.online.features.store import FeatureStore
from weir.online.full_columns import SEEN
from weir.online.task.full_spec import FullScorer
from weir.streams.errors import in_words
from weir.streams.offline_models.model_updates import Ref, UpdateFold, Versions
from weir.streams.ops.metrics import Metrics

log = logging.getLogger(__name__)

RETRY_S: Final = 30.0
"""After this an artefact that was refused is tried again, as long as it is wanted: a share may have been away."""
BITS: Final = {"float32": 32, "float16": 16, "int8": 8}
_KNOWN: Final = SEEN.index("full.known")

Load = Callable[[Ref], StepModel]
"""Loads, checks and warms an artefact of one task; raises ``WeirError`` for one that cannot be used."""


@dataclass(frozen=True, slots=True)
class FullTask:
    """One task's runner, and how its artefacts are loaded."""

    name: str
    runner: FullRunner
    load: Load


@dataclass(slots=True)
class _ServedModel:
    """What is loaded of a task, and what could not be."""

    task: FullTask
    wanted: Versions = field(default_factory=Versions)
    models: dict[Ref, StepModel] = field(default_factory=dict)
    refused: dict[Ref, tuple[str, float]] = field(default_factory=dict)
    """Why, and when, in monotonic seconds."""
    champion: Ref | None = None
    shadow: Ref | None = None

    def missing(self) -> list[Ref]:
        """What has to be loaded, the champion first."""
        # A dict, for its order, and as both may be the same.
        wanted = dict.fromkeys(ref for ref in (self.wanted.champion, self.wanted.shadow) if ref is not None)
        return [ref for ref in wanted if ref not in self.models and ref not in self.refused]

    def swap(self) -> bool:
        """Serve what is wanted and loaded; whether that is something else than before."""
        champion = self._champion()
        shadow = self._shadow(champion)
        changed = (champion, shadow) != (self.champion, self.shadow)
        if changed:
            # Both at once: no batch is scored by the new champion beside the old shadow.
            self.task.runner.slots.swap(Pair(self._model(champion), self._model(shadow)))
            self.champion, self.shadow = champion, shadow
        # What serves stays loaded, also when another is wanted and cannot be loaded.
        kept = {champion, shadow, self.wanted.champion, self.wanted.shadow}
        self.models = {ref: model for ref, model in self.models.items() if ref in kept}
        self.refused = {ref: why for ref, why in self.refused.items() if ref in kept}
        return changed

    def _champion(self) -> Ref | None:
        """The one that is wanted; while that is not there, the one before it."""
        wanted = self.wanted.champion
        return wanted if wanted is None or wanted in self.models else self.champion

    def _shadow(self, champion: Ref | None) -> Ref | None:
        """The one that is wanted, if it is there; while its champion's successor is not there, the one before it."""
        wanted = self.wanted.shadow
        # A promotion that is still loading: the old champion serves on, and must not be its own shadow.
        if wanted is not None and wanted == champion:
            return self.shadow
        return wanted if wanted in self.models else None

    def _model(self, ref: Ref | None) -> StepModel | None:
        return None if ref is None else self.models[ref]


class FullModels:
    """The full models of the tasks that have one.

    Parameters
    ----------
    tasks : one for each task with ``[full]``.
    metrics : of the process; a throw-away one when not given.
    """

    def __init__(self, tasks: Iterable[FullTask] = (), metrics: Metrics | None = None) -> None:
        self._fold = UpdateFold()
        self._served = {task.name: _ServedModel(task) for task in tasks}
        self.metrics = metrics or Metrics()
        self._scorers = {task.name: _TimedRunner(task.name, task.runner, self.metrics) for task in self.tasks}

    @property
    def tasks(self) -> list[FullTask]:
        """Those that have a full model."""
        return [served.task for served in self._served.values()]

    def scorer(self, task: str) -> FullScorer | None:
        """The full model of a task as the scoring stage uses it; ``None`` where it has none."""
        return self._scorers.get(task)

    # -- what is wanted, what is there -----------------------------------------------------------------------------

    def want(self, updates: Iterable[ModelUpdate]) -> None:
        """Take in updates in the order of the log, and serve what is there already."""
        for update in updates:
            self._fold.apply(update)
        for name, served in self._served.items():
            served.wanted = self._fold.versions(name)
            self._swap(served)

    def missing(self) -> list[tuple[FullTask, Ref]]:
        """What is wanted, and neither loaded nor refused."""
        return [(served.task, ref) for served in self._served.values() for ref in served.missing()]

    def loaded(self, task: str, ref: Ref, model: StepModel) -> None:
        """An artefact is loaded; nothing happens where it is not wanted any more."""
        served = self._served[task]
        if ref in (served.wanted.champion, served.wanted.shadow):  # a newer update may have overtaken the load
            served.models[ref] = model
            self._swap(served)

    def refuse(self, task: str, ref: Ref, error: Exception) -> None:
        """An artefact cannot be used."""
        served = self._served[task]
        goes_on = f"version {served.champion.version} goes on" if served.champion is not None else "there is none"
        log.error("task %s: full model version %d is refused, %s: %s", task, ref.version, goes_on, in_words(error))
        served.refused[ref] = (str(error), time.monotonic())  # tried again later: see RETRY_S
        self.metrics.inc("weir_full_refused_total", task=task)

    def retry(self, after_s: float = RETRY_S) -> None:
        """Forget refusals that are so old, so that what is still wanted is tried again."""
        now = time.monotonic()
        for served in self._served.values():
            served.refused = {ref: why for ref, why in served.refused.items() if now - why[1] < after_s}

    def apply_now(self, updates: Sequence[ModelUpdate]) -> None:
        """Take in updates, load and swap before returning: where everything has its place in one order."""
        for update in updates:
            self.want([update])
            self._load_now()

    def resume(self, updates: Sequence[ModelUpdate]) -> None:
        """Serve what these updates, taken in before, come to; what was replaced since is not loaded."""
        self.want(updates)
        self._load_now()

    def _load_now(self) -> None:
        for task, ref in self.missing():
            try:
                model = task.load(ref)
            except Exception as error:  # noqa: BLE001 - whatever is wrong with an artefact, scoring goes on
                self.refuse(task.name, ref, error)
            else:
                self.loaded(task.name, ref, model)

    def _swap(self, served: _ServedModel) -> None:
        if not served.swap():
            return
        name, champion, shadow = served.task.name, served.champion, served.shadow
        log.info("task %s: full model %s", name, _said(champion, shadow))
        self.metrics.inc("weir_full_swaps_total", task=name)
        for slot, ref in (("champion", champion), ("shadow", shadow)):
            self.metrics.set("weir_full_version", ref.version if ref is not None else 0, task=name, slot=slot)
        model = served.models[champion] if champion is not None else None
        self.metrics.set("weir_full_provider", PROVIDERS[model.provider] if model is not None else 0, task=name)
        self.metrics.set("weir_full_bits", BITS[model.precision] if model is not None else 0, task=name)

    # -- for people ------------------------------------------------------------------------------------------------

    def describe(self) -> Mapping[str, Mapping[str, object]]:
        """By task, what serves, what is wanted, and what was refused, with the reasons."""
        return {name: self._describe(served) for name, served in self._served.items()}

    def outline(self) -> Mapping[str, object]:
        """The same without reasons, which name places: for an endpoint that everybody may ask."""
        return {name: {**said, "refused": [*map(int, said["refused"])]} for name, said in self.describe().items()}  # type: ignore[call-overload]

    @staticmethod
    def _describe(served: _ServedModel) -> Mapping[str, object]:
        def number(ref: Ref | None) -> int | None:
            return ref.version if ref is not None else None

        model = served.models.get(served.champion) if served.champion is not None else None
        return {
            "champion": number(served.champion),
            "shadow": number(served.shadow),
            "wanted": number(served.wanted.champion),
            "provider": model.provider if model is not None else None,
            "precision": model.precision if model is not None else None,
            "refused": {str(ref.version): why for ref, (why, _) in served.refused.items()},
        }


def _said(champion: Ref | None, shadow: Ref | None) -> str:
    beside = f", version {shadow.version} in its shadow" if shadow is not None else ""
    return (f"version {champion.version}" if champion is not None else "none") + beside


class _TimedRunner:
    """A runner whose calls are timed, and whose failures and rows without a full model are counted and told."""

    def __init__(self, task: str, runner: FullRunner, metrics: Metrics) -> None:
        self._task, self._runner, self._now, self._failing = task, runner, metrics.now, False
        self._counters = {
            "failed": metrics.counter("weir_full_failed_total", task=task),
            "rebuilt": metrics.counter("weir_full_rebuilt_total", task=task),
            "not_finite": metrics.counter("weir_full_not_finite_total", task=task),
        }
        self.width, self.row_bytes, self.schema = runner.width, runner.row_bytes, runner.schema
        self._took = metrics.histogram("weir_full_seconds", task=task)
        self._degraded = metrics.counter("weir_degraded_total", task=task)

    def score(
        self, table: str, store: FeatureStore, keys: Sequence[str], ts: FloatVector, x: FloatMatrix
    ) -> FloatMatrix:
        """See `FullScorer.score`."""
        began, counts = self._now(), self._runner.counts
        before = {name: getattr(counts, name) for name in self._counters}
        made = self._runner.score(table, store, keys, ts, x)
        self._took.observe(self._now() - began)
        for name, counter in self._counters.items():
            counter.inc(getattr(counts, name) - before[name])
        failing = counts.failed > before["failed"]
        if failing and not self._failing:  # told once, not with every batch: a GPU that went away fails all of them
            log.error("task %s: the full model fails, scores are made without it: %s", self._task, counts.last_error)
        self._failing = failing
        if unknown := len(made) - int(np.count_nonzero(made[:, _KNOWN])):
            self._degraded.inc(unknown)
        return made
