"""What the columns of a task are of, and in which unit, for those who put them into words."""

from __future__ import annotations

import ast
import math
import re
from collections.abc import Callable, Iterator

from weir.online.anomaly.detector import build_detector
from weir.online.decisions.feature_name import FeatureName, Subject, words
from weir.online.decisions.operations import OPERATIONS, Of, duration
from weir.online.features.spec import Aggregate, Anomaly
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.learners.factory import LearnerSpec
from weir.online.task.categories import Category
from weir.online.task.spec import TaskSpec

_UNDONE: dict[str, Callable[[float], float]] = {
    # Bounded where the function would raise beyond the largest float.
    "log": lambda value: math.exp(min(value, 700.0)),
    "log1p": lambda value: math.expm1(min(value, 700.0)),
    "log10": lambda value: float(10.0 ** min(value, 300.0)),
    "sqrt": lambda value: value * value,
}
_TOLD = 4
"""Texts of one group that a reason names, at most."""
_VIEWS = ("the level of one sensor", "the level of one sensor given the others", "the roughness of one sensor")
_KEEPS_UNIT = ("abs", "ceil", "clip", "floor", "max", "min", "or_else", "round", "where")


def subjects_of(task: TaskSpec) -> dict[str, Subject]:
    """What each value, aggregate and detector is of, by its name or ``<entity>.<name>``.

    >>> seen = {"name": "seen", "ops": ["count"], "windows": ["1d"], "where": "amount > 5"}
    >>> user = {"name": "user", "key": "user_id", "aggregates": [seen, {"name": "all", "ops": ["since_last"]}]}
    >>> spec = {"name": "t", "entity": "user", "entities": [user], "values": {"days": "user.all_since_last / 86400"}}
    >>> found = subjects_of(TaskSpec.model_validate(spec | {"inputs": ["*"], "model": {"kind": "logistic"}}))
    >>> found["user.seen"].chosen, found["days"].made_of[0]
    (True, 'user.all_since_last')
    """
    found: dict[str, Subject] = {}
    for entity in task.entities:
        for a in entity.windowed:
            counts = isinstance(a, Aggregate)
            of: Of = "events" if counts else "labels"
            prior = getattr(a, "prior", 0.0)
            given, chosen = (_given(a.value, a.name) if counts else ""), a.where is not None
            found[f"{entity.name}.{a.name}"] = Subject(
                of, a.value, chosen, given, _is_duration(a.value, task), estimated=prior > 0.0
            )
        for d in entity.anomalies:
            if d.score == "state":
                found |= {d.column(entity.name, output): _of_state(d, output) for output in d.outputs}
                continue
            params = build_detector(d.params).params
            weights = {key.removesuffix("_weight"): value for key, value in params if key.endswith("_weight")}
            found[f"{entity.name}.{d.name}"] = Subject(
                "anomaly", d.value, given=_given(d.value, d.name), weights=weights
            )
    for name, source in task.derived.items():
        # Ratios of windows, whose names tell all that is to be said.
        if "." in name:
            continue
        tree = _parsed(source)
        found[name] = Subject(
            value=source,
            duration=_is_duration(source, task),
            flag=_is_flag(tree),
            made_of=_undone(tree, task),
            says=_compared(tree),
        )
    for category in task.categories:
        for group, name in enumerate(category.groups()):
            found[name] = found[name]._replace(says=_of_group(category, group), one_of=category.name)
    for name in _scores(task.model):
        found[name] = found.get(name, Subject())._replace(made_of=None, behind=tuple(_behind(name, task)))
    return found


def _compared(tree: ast.expr) -> tuple[str, str] | None:
    """What the comparison of a text column with one text says, and its contrary.

    >>> _compared(_parsed("plan != 'pro'")), _compared(_parsed("amount == 3"))
    (('plan is not pro', 'plan is pro'), None)
    """
    match tree:
        case ast.Compare(left=ast.Name(id=name), ops=[op], comparators=[ast.Constant(value=str(text))]):
            says = _is_or_not(name, text or "empty")
            return says if isinstance(op, ast.Eq) else says[::-1] if isinstance(op, ast.NotEq) else None
    return None


def _of_group(category: Category, group: int) -> tuple[str, str]:
    """What it says that a text is of a group by its hash: which of the known ones it then is."""
    members = category.members(group)
    more = " or another one" if len(members) > _TOLD else ""
    return _is_or_not(category.name, " or ".join(members[:_TOLD]) + more if members else f"of group {group}")


def _is_or_not(name: str, what: str) -> tuple[str, str]:
    subject = words(name).strip()
    return f"{subject} is {what}", f"{subject} is not {what}"


def _of_state(detector: Anomaly, output: str) -> Subject:
    op, _, sensor = output.partition("_")
    codes = detector.values if op == "sensor" else _VIEWS if op == "view" else ()
    others = [words(other) for other in detector.values if other != sensor]
    told = " and ".join(others) if len(others) < 4 else f"the other {len(others)} sensors"
    imply = f"{told} {'implies' if len(others) == 1 else 'imply'}" if others else "is usual"
    return Subject("state", given=sensor or detector.name, op=op, codes=codes, others=imply)


def _parsed(source: str) -> ast.expr:
    return ast.parse(source, mode="eval").body


def _given(source: str | None, name: str) -> str:
    """The column that an event must have for this to have a value, or what the task calls the value."""
    if source is None or source in TIME_COLUMNS:
        return ""
    tree = _parsed(source)
    if isinstance(tree, ast.Constant) or source.startswith("or_else(") or _is_flag(tree):
        return ""
    column = re.fullmatch(r"hash\((\w+)\)|(\w+)", source)
    return (column[1] or column[2]) if column else name


def _said(tree: ast.expr) -> Iterator[ast.expr]:
    """What an expression can come to be, in one unit: its parts but constants, conditions and ``nan()``."""
    match tree:
        case ast.Constant() | ast.Call(func=ast.Name(id="nan")):
            return
        case ast.IfExp(body=a, orelse=b) | ast.BinOp(left=a, op=ast.Add() | ast.Sub(), right=b):
            parts = [a, b]
        case ast.Call(func=ast.Name(id=function), args=args) if function in _KEEPS_UNIT:
            parts = args[1:] if function == "where" else args
        case _:
            yield tree
            return
    for part in parts:
        yield from _said(part)


def _is_flag(tree: ast.expr) -> bool:
    """Whether an expression says yes or no, or nothing."""
    said = [part.func if isinstance(part, ast.Call) else part for part in _said(tree)]
    kinds = ast.Compare | ast.BoolOp
    return bool(said) and all(isinstance(p, kinds) or ast.unparse(p).startswith(("not ", "isnan")) for p in said)


def _is_duration(source: str | None, task: TaskSpec) -> bool:
    """Whether an expression is seconds."""
    names = [ast.unparse(part) for part in _said(_parsed(source or "0"))]
    features = [FeatureName.parse(name) for name in names]
    return bool(names) and all(
        _is_duration(task.values[f.full], task)
        if f.full in task.values
        else f.entity is not None and (op := OPERATIONS[f.of].get(f.op)) is not None and op.show is duration
        for f in features
    )


def _undone(tree: ast.expr, task: TaskSpec) -> tuple[str, Callable[[float], float]] | None:
    """The one column that a value is a function of, and what gives it back."""
    match tree:
        case ast.Name(id=name) if name in task.values:
            return _undone(_parsed(task.values[name]), task) or (name, float)
        case ast.Name() | ast.Attribute():
            return ast.unparse(tree), float
        case ast.Call(func=ast.Name(id=function), args=[inner]) if function in _UNDONE:
            back = _UNDONE[function]
        case ast.BinOp(left=inner, op=ast.Div(), right=ast.Constant(value=int() | float() as by)) if by:
            back = lambda value: value * by  # noqa: E731
        case ast.BinOp(left=inner, op=ast.Mult(), right=ast.Constant(value=int() | float() as by)) if by:
            back = lambda value: value / by  # noqa: E731
        case _:
            return None
    made = _undone(inner, task)
    return made and (made[0], lambda value: made[1](back(value)))


def _scores(model: LearnerSpec) -> Iterator[str]:
    """The columns that are scores themselves."""
    if model.kind == "column" and isinstance(column := model.params.get("column"), str):
        yield column
    for member in model.members:
        yield from _scores(member)


def _behind(name: str, task: TaskSpec) -> Iterator[str]:
    """What a column is made of, down to what is no value: features, raw columns, a detector's components."""
    for part in _names(_parsed(task.values[name])) if name in task.values else ():
        yield from _behind(part, task) if part in task.values else (part,)
    for d in (d for e in task.entities for d in e.anomalies if name == f"{e.name}.{d.name}"):
        if d.score == "state":  # of each sensor a column a view
            yield from (f"{name}_{told}_{sensor}" for sensor in d.values for told in ("off", "implied", "rough"))
        else:
            yield from (f"{name}_{output}" for output in d.outputs if output not in ("", "expected"))


def _names(tree: ast.expr) -> list[str]:
    """Columns in an expression, a feature as ``<entity>.<name>``."""
    return [ast.unparse(n) for n in ast.walk(tree) if isinstance(n, ast.Attribute)] + [
        n.id for n in ast.walk(tree) if isinstance(n, ast.Name)
    ]
