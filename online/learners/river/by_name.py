"""River's estimators by name behind the ``Learner`` port: ``"preprocessing.StandardScaler | naive_bayes.GaussianNB"``.

A snapshot is numbers (ADR 25), and no table could name the fields of every class of River. But an estimator is a
function of the rows it learned, in their order. So a snapshot holds those rows, and restoring learns them again. That
they stay few, an estimator serves for ``memory`` rows after it has learned ``memory``; then another that began beside
it takes its place: what is older is forgotten. Columns are known to River by their number, whose hash is the same in
every process: no order of a set differs between replicas.

Memory: two estimators, and 2 * ``memory`` rows. Learning costs River's time twice, once all through the first rows.
"""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from functools import reduce
from importlib import import_module
from operator import or_
from typing import Any, ClassVar, Final

import numpy as np
from river import base

from weir.online.batch import BoolVector, FloatMatrix, FloatVector
from weir.online.errors import StateError
from weir.online.learners.logistic import logit_of
from weir.online.learners.state import Arrays, pack_arrays, seal, unpack_arrays, unseal
from weir.online.mistakes import did_you_mean, shown

_NAME: Final = re.compile(r"([a-z_]+)\.([A-Z]\w*)")
_MOST_REPEATS: Final = 100
"""Of a row whose weight an estimator without weights learns as so many rows."""


def _class_of(name: str) -> Any:
    """A class that a module of River exports; ``ValueError`` for any other text."""
    found = _NAME.fullmatch(name.strip())
    if found is None:
        raise ValueError(f"river: {shown(name)} is no estimator; write MODULE.CLASS, such as linear_model.Perceptron")
    try:
        module = import_module(f"river.{found[1]}")
    except ModuleNotFoundError:
        raise ValueError(f"river: no module river.{found[1]}; see riverml.xyz/latest/api/overview") from None
    exported = [each for each in getattr(module, "__all__", ()) if inspect.isclass(getattr(module, each, None))]
    if found[2] not in exported:
        raise ValueError(f"river: no class {name.strip()}; {did_you_mean(found[2], exported)}")
    return getattr(module, found[2])


def _made(name: str, params: Mapping[str, Any], seed: int) -> Any:
    """One object of River; a parameter that is a table with ``river`` is an object, too."""
    cls = _class_of(name)
    known = inspect.signature(cls).parameters
    if unknown := sorted(set(params) - set(known)):
        raise ValueError(f"river: {name} has no parameter {unknown[0]}; {did_you_mean(unknown[0], sorted(known))}")
    given = {
        key: _made(value["river"], {k: v for k, v in value.items() if k != "river"}, seed)
        if isinstance(value, Mapping) and "river" in value
        else value
        for key, value in params.items()
    }
    if "seed" in known:  # without one it would draw from the system's own, and no replica would agree
        given.setdefault("seed", seed)
    try:
        return cls(**given)
    except (TypeError, ValueError) as exc:
        raise ValueError(f"river: {name}: {exc}") from exc


@dataclass(eq=False, repr=False)
class RiverByName:
    """An estimator of River that begins anew now and then, so that it can be stored as rows.

    Parameters
    ----------
    features : names of the F columns; River sees their numbers.
    estimator : a classifier, ``MODULE.CLASS``, with transformers before it: ``A | B | C``.
    params : of the classifier; ``{river = "optim.Adam", lr = 0.1}`` as a value stands for an object of River.
    memory : rows it has learned, at least, when it serves, and learns more until it is replaced; the first serves from
        its start.
    seed : of whatever takes one and is given none.

    Raises
    ------
    ValueError
        On a name that River does not export, a parameter that it does not have, or what is no binary classifier.

    Examples
    --------
    >>> model = RiverByName(("a",), estimator="preprocessing.StandardScaler | linear_model.LogisticRegression")
    >>> x = np.array([[0.0], [1.0]] * 100)
    >>> model.learn_many(x, x[:, 0] > 0, np.ones(200))
    >>> [bool(p > 0.5) for p in model.predict_many(x[:2])]
    [False, True]
    """

    features: tuple[str, ...]
    _: KW_ONLY
    estimator: str = ""
    params: dict[str, Any] = field(default_factory=dict)
    memory: int = 10_000
    seed: int = 0
    kind: ClassVar[str] = "river"

    def __post_init__(self) -> None:
        if self.memory < 1:
            raise ValueError(f"river: memory = {self.memory}; give at least 1 row, such as 10000")
        self._begin()
        steps = getattr(self._serves, "steps", None)
        final = self._serves if steps is None else list(steps.values())[-1]
        self._weighted = "w" in inspect.signature(final.learn_one).parameters
        self._try_out()

    def _try_out(self) -> None:
        """Raise ``ValueError`` at once for an estimator that cannot learn numbers, or gives no probabilities."""
        one, zeros = self._fresh(), np.zeros((2, len(self.features)))
        try:
            self._teach(one, zeros, np.array([True, False]), np.ones(2))
            one.predict_proba_one(dict.fromkeys(range(len(self.features)), 0.0))
        except Exception as exc:  # whatever an estimator of somebody else's making raises
            raise ValueError(f"river: {self.estimator} does not learn such rows: {exc!r}; name another one") from exc

    def _fresh(self) -> Any:
        *before, last = self.estimator.split("|")
        steps = [_made(name, {}, self.seed) for name in before]
        final = _made(last, self.params, self.seed)
        if not isinstance(final, base.Classifier) or not all(isinstance(step, base.Transformer) for step in steps):
            raise ValueError(f"river: {self.estimator!r} is not transformers before one classifier, joined by |")
        return reduce(or_, [*steps, final])

    def _begin(self) -> None:
        """Nothing is learned, and nothing kept."""
        self._serves: Any = self._fresh()
        self._next: Any = None
        self._rows: list[tuple[FloatMatrix, BoolVector, FloatVector]] = []
        self._start = self._seen = 0  # the first row that the serving one learned; rows learned in all

    def predict_many(self, x: FloatMatrix) -> FloatVector:
        """Probability of the positive class, ``(n, F)`` to ``(n,)``; .5 before anything is learned."""
        out = np.empty(len(x))
        for i, row in enumerate(x.tolist()):
            said = self._serves.predict_proba_one(dict(enumerate(row)))
            yes = float(said.get(True, 0.0)) if said else 0.5
            out[i] = min(max(yes, 0.0), 1.0) if math.isfinite(yes) else 0.5
        return out

    def learn_many(self, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        """Learn rows in order."""
        at = 0
        while at < len(x):
            end = min(len(x), at + self.memory - self._seen % self.memory)
            self._learn(x[at:end].copy(), y[at:end].copy(), weight[at:end].copy())
            at = end

    def _learn(self, *rows: Any) -> None:
        """Learn the rows up to the next change of places."""
        self._rows.append(rows)
        self._seen += len(rows[0])
        for one in (self._serves, self._next):
            if one is not None:
                self._teach(one, *rows)
        if self._seen % self.memory:
            return
        if self._next is not None:
            self._serves, self._start = self._next, self._seen - self.memory
            self._held()
        self._next = self._fresh()

    def _teach(self, one: Any, x: FloatMatrix, y: BoolVector, weight: FloatVector) -> None:
        for row, label, w in zip(x.tolist(), y.tolist(), weight.tolist(), strict=True):
            named = dict(enumerate(row))
            if self._weighted:
                one.learn_one(named, label, w=w)
            else:
                for _ in range(min(max(round(w), 1), _MOST_REPEATS)):
                    one.learn_one(named, label)

    def _held(self) -> tuple[FloatMatrix, BoolVector, FloatVector]:
        """The rows that the serving estimator learned, now kept as one piece."""
        nothing = (np.empty((0, len(self.features))), np.empty(0, np.bool_), np.empty(0))
        x, y, weight = (np.concatenate(parts) for parts in zip(nothing, *self._rows, strict=True))
        # What only the one before had learned goes.
        skip = len(x) - (self._seen - self._start)
        self._rows = [(x[skip:], y[skip:], weight[skip:])]
        return self._rows[0]

    def contributions(self, x: FloatMatrix) -> FloatMatrix:
        """How far the log-odds are above those with the feature at its mean of the kept rows, ``(n, F)``."""
        kept = self._held()[0]
        mean = kept.mean(axis=0) if len(kept) else np.zeros(len(self.features))
        own, out = logit_of(self.predict_many(x)), np.empty(x.shape)
        for j in range(x.shape[1]):
            other = x.copy()
            other[:, j] = mean[j]
            out[:, j] = own - logit_of(self.predict_many(other))
        return out

    def snapshot(self) -> bytes:
        """The rows that the serving estimator learned."""
        x, y, weight = self._held()
        arrays: Arrays = {"x": x, "y": y, "weight": weight, "at": np.array([self._start, self._seen])}
        return seal(self.kind, self.features, pack_arrays(arrays))

    def restore(self, state: bytes) -> None:
        """Learn the rows of a snapshot, in at most 3 * ``memory`` steps; ``StateError`` where it is of another kind."""
        arrays = unpack_arrays(unseal(state, self.kind, self.features))
        try:
            x, y, weight, (start, seen) = arrays["x"], arrays["y"], arrays["weight"], arrays["at"].tolist()
        except (KeyError, ValueError) as exc:
            raise StateError(f"no snapshot of a river learner: {exc}") from exc
        kept = seen - start
        fits = x.shape == (kept, len(self.features)) and y.shape == weight.shape == (kept,) and y.dtype == np.bool_
        whole = type(start) is int and start >= 0 == start % self.memory and 0 <= kept < 2 * self.memory
        if not fits or not whole or x.dtype != np.float64 or weight.dtype != np.float64:
            raise StateError(f"{x.shape} numbers of rows {start} to {seen} are no snapshot of memory = {self.memory}")
        self._begin()
        self._start = self._seen = start
        self.learn_many(x, y, weight)
