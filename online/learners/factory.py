"""From a task's ``[model]`` table to a learner. A new kind is one line in ``REGISTRY``."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from pydantic import Field

from weir.online.frozen import FrozenModel
from weir.online.full_columns import seen_width
from weir.online.learners.auto import Auto
from weir.online.learners.base import Learner
from weir.online.learners.bayesian import BayesianLogistic
from weir.online.learners.beside import HedgedLearner
from weir.online.learners.boosted import BoostedTrees
from weir.online.learners.clipped import ClippingLearner
from weir.online.learners.column import Column, ColumnPrefix
from weir.online.learners.curved import CurvedLogistic
from weir.online.learners.guard import GuardedLearner
from weir.online.learners.hoeffding.adaptive_forest import AdaptiveForest
from weir.online.learners.hoeffding.adaptive_tree import AdaptiveTree
from weir.online.learners.logistic import ScaledLogistic
from weir.online.learners.stack import Stack
from weir.online.mistakes import did_you_mean, shown

REGISTRY: dict[str, Callable[..., Learner] | str] = {
    "logistic": ScaledLogistic,
    "bayesian_logistic": BayesianLogistic,
    "adaptive_tree": AdaptiveTree,
    "adaptive_forest": AdaptiveForest,
    "auto": Auto,
    "curved_logistic": CurvedLogistic,
    "stack": Stack,
    "column": Column,
    "boosted": BoostedTrees,
    "beside_full": HedgedLearner,
    "river": "weir.online.learners.river.by_name:RiverByName",
}
"""By kind: the class, or where it is, for those whose import takes seconds (River's)."""


# Kinds that one wild value would blind for all others of its column.
_CUT_RANGES = {"adaptive_tree", "adaptive_forest", "river"}

_TYPE_WORDS = {float: "a number", int: "a whole number", bool: "true or false", str: "a text"}
# Annotations of parameters that can be checked before anything is built.
_TYPES: dict[str, tuple[type, ...]] = {"float": (float, int), "int": (int,), "bool": (bool,), "str": (str,)}


class LearnerSpec(FrozenModel):
    """What to build: a kind of ``REGISTRY``, its parameters, and the members of a stack.

    Examples
    --------
    >>> spec = LearnerSpec(kind="stack", members=(LearnerSpec(kind="logistic", params={"lr": 0.05}),))
    >>> build_learner(spec, ("a", "b")).features
    ('a', 'b')
    """

    kind: str
    """The learner; each has a table of its parameters."""
    params: dict[str, Any] = Field(default_factory=dict)
    """Parameters of the kind that are other than their defaults."""
    members: tuple[LearnerSpec, ...] = ()
    """Of ``auto``, ``stack`` and ``beside_full``: the learners that it mixes, each with kind and params."""
    estimator: str | None = Field(default=None, exclude_if=lambda value: value is None)
    """Of ``river``: a classifier of River by name; ``params`` are its own, but for ``memory`` and ``seed``."""

    def settings(self) -> dict[str, Any]:
        """What the learner of this kind is built with.

        >>> LearnerSpec(kind="river", estimator="forest.AMFClassifier", params={"step": 0.5, "seed": 1}).settings()
        {'seed': 1, 'estimator': 'forest.AMFClassifier', 'params': {'step': 0.5}}
        """
        if (self.kind == "river") != (self.estimator is not None):
            told = f"learner {self.kind!r} with estimator = {self.estimator!r}"
            raise ValueError(f'{told}: kind = "river" needs an estimator, no other kind takes one')
        if self.kind != "river":
            return self.params
        own = {name: value for name, value in self.params.items() if name in ("memory", "seed")}
        given = {name: value for name, value in self.params.items() if name not in own}
        return {**own, "estimator": self.estimator, "params": given}


AUTO_MEMBERS = (
    LearnerSpec(kind="boosted"),
    LearnerSpec(kind="boosted", params={"depth": 3}),
    LearnerSpec(kind="boosted", params={"every": 50, "buffer": 4000, "trees": 50}),
    LearnerSpec(kind="curved_logistic"),
    LearnerSpec(kind="curved_logistic", params={"half_life": 3000.0}),
    LearnerSpec(kind="logistic", params={"lr": 0.2, "intercept_lr": 0.2}),
)
"""Members of ``auto`` where a task names none."""


def known_parameters(kind: str) -> tuple[str, ...]:
    """Names that ``params`` of a ``kind`` may hold."""
    names = inspect.signature(_class_of(kind)).parameters
    return tuple(sorted(n for n in names if n not in ("features", "members")))


def build_learner(spec: LearnerSpec, features: Sequence[str]) -> Learner:
    """Build the learner of ``spec`` over the columns ``features``; those after a full model's own are only logged.

    What learns is ``GuardedLearner`` against hostile rows, as a whole.

    Raises
    ------
    ValueError
        On an unknown kind or parameter (the message lists the known ones), on a value the learner refuses, on members
        where the kind takes none, and on repeated feature names.
    """
    names = tuple(features)
    if len(set(names)) != len(names) or not names:
        twice = sorted({n for n in names if names.count(n) > 1})
        raise ValueError(f"{len(names)} features, repeated: {twice}: a learner needs at least one, each named once")
    if (seen := seen_width(names)) < len(names):
        return ColumnPrefix(build_learner(spec, names[:seen]), names)
    learner = _build(spec, names)
    # A column that is passed through has learned nothing that a row could spoil.
    return learner if isinstance(learner, Column) else GuardedLearner(learner)


def _build(spec: LearnerSpec, names: tuple[str, ...]) -> Learner:
    """The learner alone, or as a member."""
    build = _class_of(spec.kind)
    known, params = known_parameters(spec.kind), spec.settings()
    unknown = sorted(set(params) - set(known))
    if unknown:
        raise ValueError(
            f"learner {spec.kind!r} has no parameter {', '.join(unknown)}; {did_you_mean(unknown[0], known)}"
        )
    _check_types(spec.kind, params)
    takes_members = "members" in inspect.signature(build).parameters
    if spec.members and not takes_members:
        raise ValueError(f"learner {spec.kind!r} takes no members, got {len(spec.members)}; a stack does")
    if takes_members:
        inner = HedgedLearner.member_features(names) if build is HedgedLearner else names
        return build(names, members=tuple(_build(m, inner) for m in members_of(spec)), **params)
    learner = build(names, **params)
    return ClippingLearner(learner) if spec.kind in _CUT_RANGES else learner


def members_of(spec: LearnerSpec) -> tuple[LearnerSpec, ...]:
    """The learners that one of ``auto``, ``stack`` or ``beside_full`` mixes: its own, or those of ``auto``."""
    return spec.members or (AUTO_MEMBERS if spec.kind == "auto" else ())


# Parameters of kinds that compile something only after many examples.
_HASTY: dict[str, dict[str, int]] = {"boosted": {"every": 16, "buffer": 64}}


def hasty(spec: LearnerSpec) -> LearnerSpec:
    """A learner of the same kind that needs a few dozen examples for all it ever does: to compile that beforehand.

    >>> hasty(LearnerSpec(kind="stack", members=(LearnerSpec(kind="boosted", params={"depth": 3}),))).members[0].params
    {'depth': 3, 'every': 16, 'buffer': 64}
    """
    members = tuple(hasty(member) for member in members_of(spec))
    return spec.model_copy(update={"params": spec.params | _HASTY.get(spec.kind, {}), "members": members})


def _check_types(kind: str, params: dict[str, Any]) -> None:
    """A number given as text would only fail at the first event."""
    for name, value in params.items():
        wanted = _TYPES.get(str(inspect.signature(_class_of(kind)).parameters[name].annotation))
        if wanted is not None and (not isinstance(value, wanted) or (isinstance(value, bool) and bool not in wanted)):
            raise ValueError(
                f"learner {kind!r}: {name} = {shown(value)}; give {' or '.join(_TYPE_WORDS[t] for t in wanted)}"
            )
        # Log-odds may be below 0; no other parameter of ours.
        if isinstance(value, float | int) and name == "intercept" and not math.isfinite(value):
            raise ValueError(f"learner {kind!r}: {name} = {shown(value)}; give a number")
        if isinstance(value, float | int) and name != "intercept" and not 0 <= value < math.inf:
            raise ValueError(f"learner {kind!r}: {name} = {shown(value)}; give a number of at least 0")


def _class_of(kind: str) -> Callable[..., Learner]:
    if kind == "alma":
        raise ValueError("learner kind 'alma' was removed: it learned less than others; name bayesian_logistic instead")
    if kind not in REGISTRY:
        raise ValueError(f"unknown learner kind {kind!r}; {did_you_mean(kind, sorted(REGISTRY))}")
    found = REGISTRY[kind]
    if isinstance(found, str):
        module, _, name = found.partition(":")
        made: Callable[..., Learner] = getattr(import_module(module), name)
        return made
    return found
