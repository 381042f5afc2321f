"""Searches settings of the encoder with Optuna: validation later than learning, median pruner, resumable study.

The first trial is the settings one starts with, so that the best found is never worse than these. A study is a journal
file; with the same file a search goes on, and a trial that was broken off is run again from its checkpoint. One process
at a time. Sources: Akiba et al. 2019, Optuna; Bergstra et al. 2011, Algorithms for hyper-parameter optimization (TPE).
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from weir.models.errors import ModelError
from weir.models.training.training_run import fitted, metrics_of
from weir.models.training.training_settings import EncoderSettings
from weir.models.types import Progress, TrainingSet

_FOLD = 1_000
"""Intermediate values of fold k are at steps from ``k * _FOLD``."""
_WARM_TRIALS = 4
VARIED = (
    "knots", "dropout", "pretrain_epochs", "rate", "pretrain_rate", "weight_decay", "next_weight", "event_dropout",
    "time_jitter", "length",
)  # fmt: skip
OnTrial = Callable[["TrialResult"], None]


@dataclass(frozen=True, slots=True)
class TrialResult:
    """The outcome of one trial."""

    number: int
    state: str
    """``complete``, ``pruned`` or ``fail``."""
    value: float | None
    """Mean validation metric over the folds; ``None`` when it failed."""
    settings: Mapping[str, Any]
    """The settings that the search varied."""


def suggest(trial: optuna.Trial, base: EncoderSettings) -> EncoderSettings:
    """Settings of a trial: what matters most, within ranges that train in minutes."""
    return replace(
        base,
        knots=trial.suggest_categorical("knots", _with((0, 8, 16), base.knots)),
        dropout=trial.suggest_float("dropout", 0.0, 0.4),
        pretrain_epochs=trial.suggest_int("pretrain_epochs", 0, 3),
        rate=trial.suggest_float("rate", 5e-4, 1e-2, log=True),
        pretrain_rate=trial.suggest_float("pretrain_rate", 5e-4, 1e-2, log=True),
        weight_decay=trial.suggest_float("weight_decay", 1e-4, 1e-1, log=True),
        next_weight=trial.suggest_float("next_weight", 1e-3, 1.0, log=True),
        event_dropout=trial.suggest_float("event_dropout", 0.0, 0.3),
        time_jitter=trial.suggest_float("time_jitter", 0.0, 0.3),
        length=trial.suggest_categorical("length", _with((32, 64, 128), base.length)),
    )


def _with(choices: tuple[int, ...], base: int) -> list[int]:
    return sorted({*choices, base})


@dataclass
class Tuner:
    """A search over one or more folds of one task.

    Parameters
    ----------
    folds : training sets, each validated later than it learns; the metric is the mean over them.
    base : what the search starts from, and what is not varied.
    study : journal file, made when it is not there. Beside it a folder keeps the checkpoint of the running trial.
    seed : of the search and of every training.
    """

    folds: Sequence[TrainingSet]
    base: EncoderSettings
    study: Path
    seed: int

    def run(self, trials: int, progress: Progress, on_trial: OnTrial) -> TrialResult:
        """Run until the study has ``trials`` finished trials; returns the best.

        Raises
        ------
        ModelError
            Nothing could be trained, or the study is of other data or settings.
        """
        study = self._open()
        while _finished(study) < trials:
            self._trial(study, progress, on_trial)
        done = [t for t in study.trials if t.state == TrialState.COMPLETE]
        if not done:
            raise ModelError(f"no trial of {self.study} was completed: give it more trials, or less to train on")
        return _result(study.best_trial)

    def _open(self) -> optuna.Study:
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study.parent.mkdir(parents=True, exist_ok=True)
        backend = JournalFileBackend(str(self.study))
        try:
            study = optuna.create_study(
                storage=optuna.storages.JournalStorage(backend),
                study_name="encoder",
                direction="maximize",
                load_if_exists=True,
                # Another seed for each run of a study, which would else draw the same trials again.
                sampler=optuna.samplers.TPESampler(seed=self.seed + _count(self.study)),
                pruner=optuna.pruners.MedianPruner(n_startup_trials=_WARM_TRIALS, n_warmup_steps=1),
            )
        except (ValueError, LookupError, TypeError) as exc:  # of a line that is no entry of a study
            raise ModelError(f"{self.study} is no study ({exc}): name another file") from None
        about = self._about()
        if study.user_attrs.setdefault("about", about) != about:
            raise ModelError(f"{self.study} is a study of other data or settings: name another file")
        if not study.trials:
            study.set_user_attr("about", about)
            study.enqueue_trial(_varied(self.base), skip_if_exists=True)
        for left in study.get_trials(states=(TrialState.RUNNING,)):  # of a process that was killed
            _give_up(study, left)
        return study

    def _about(self) -> str:
        first = self.folds[0]
        told = [asdict(self.base), self.seed, len(self.folds), first.cutoff, first.valid_from, len(first.history)]
        return hashlib.sha256(json.dumps(told, default=str).encode()).hexdigest()

    def _trial(self, study: optuna.Study, progress: Progress, on_trial: OnTrial) -> None:
        trial = study.ask()
        try:
            value = self._value(trial, suggest(trial, self.base), progress)
        except optuna.TrialPruned:
            study.tell(trial, state=TrialState.PRUNED)
        except BaseException:  # also Ctrl-C: the trial is run again when the search goes on
            _give_up(study, study.trials[trial.number])
            raise
        else:
            study.tell(trial, value)
        on_trial(_result(study.trials[trial.number]))

    def _value(self, trial: optuna.Trial, settings: EncoderSettings, progress: Progress) -> float:
        """Train on every fold and return the mean metric; tells the pruner after each epoch."""
        name = hashlib.sha256(json.dumps(trial.params, sort_keys=True).encode()).hexdigest()[:16]
        work = self.study.with_name(f"{self.study.name}.work") / name
        found: list[float] = []
        for fold, data in enumerate(self.folds):
            best = [-np.inf]

            def told(phase: str, epoch: int, metric: float, fold: int = fold, best: list[float] = best) -> None:
                best[0] = max(best[0], metric)
                if phase == "fine-tune":
                    trial.report(float(np.mean([*found, best[0]])), fold * _FOLD + epoch)
                    if trial.should_prune():
                        shutil.rmtree(work)
                        raise optuna.TrialPruned

            # In a folder by its parameters: the trial that is run again after a kill finds its checkpoint under another
            # number.
            loop = fitted(settings, data, work / str(fold), self.seed, None, (progress, lambda: False, told))
            found.append(metrics_of(loop).get(f"valid_{settings.metric}", float("nan")))
        shutil.rmtree(work)
        if not np.isfinite(found).all():
            raise ModelError("the validation has only one class: lengthen validation in [full.training]")
        return float(np.mean(found))


def _varied(base: EncoderSettings) -> dict[str, Any]:
    """The parameters of `suggest` at the settings one starts from."""
    return {name: getattr(base, name) for name in VARIED}


def _give_up(study: optuna.Study, trial: optuna.trial.FrozenTrial) -> None:
    """Fail a trial that was broken off, and put its settings first in line."""
    study.tell(trial.number, state=TrialState.FAIL)
    if trial.params:
        study.enqueue_trial(trial.params)


def _finished(study: optuna.Study) -> int:
    return len(study.get_trials(deepcopy=False, states=(TrialState.COMPLETE, TrialState.PRUNED)))


def _count(study: Path) -> int:
    return len(study.read_bytes().splitlines()) if study.is_file() else 0


def _result(trial: optuna.trial.FrozenTrial) -> TrialResult:
    return TrialResult(trial.number, trial.state.name.lower(), trial.value, trial.params)
