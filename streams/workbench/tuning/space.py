"""What a search may change of any task: each knob has named options, each option is an edit of the task's document.

The first option of every knob leaves the task as it is. Options that the task cannot take, such as windows that its
formulas name, are left out; what is learned with, and how fast, is chosen beside them. Spans follow the data.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import ValidationError

from weir.online.durations import format_duration
from weir.online.errors import TaskError
from weir.online.stages.pipeline import TaskPipeline
from weir.online.task.column_plan import columns_of
from weir.online.task.spec import TaskSpec
from weir.streams.embedded.memory_store import MemoryFeatureStore

if TYPE_CHECKING:
    from optuna.trial import BaseTrial

Document = dict[str, Any]
Edit = Callable[[Document], None]
AS_IS: Final = "as is"
_LADDER: Final = tuple(
    [60.0, 300.0, 900.0, 3600.0, 6 * 3600.0] + [86_400.0 * days for days in (1, 3, 7, 14, 30, 90, 180, 365)]
)
_MOST_COLUMNS: Final = 8
"""Raw numbers that get features of their own."""
_FEW: Final = (24, 12)
"""So many inputs may stay of more, the most telling ones."""
_OWN: Final = "tuned"
"""Begins the names of what a search adds."""
_CLOCK: Final = ("hour", "weekday")
_SHARED: Final = {"half_life": [0.0, 500.0, 5_000.0, 50_000.0], "prior_std": (0.1, 3.0, 1.0)}
PARAMS: Final[Mapping[str, Mapping[str, Any]]] = {
    "auto": {"rate": (0.03, 1.0, 0.1), "half_life": (1e4, 3e5, 1e5)},
    "boosted": {
        "learning_rate": (0.03, 0.4, 0.15),
        "depth": [5, 3, 4, 6, 7],
        "l2": (1.0, 50.0, 5.0),
        "every": [250, 100, 1000],
    },
    "curved_logistic": _SHARED,
    "bayesian_logistic": _SHARED,
    "logistic": {"lr": (0.005, 1.0, 0.05), "intercept_lr": (0.005, 1.0, 0.05)},
}
"""By kind of learner and parameter: a list of values, the usual one first; or the lowest, the highest and the usual
value, searched on a logarithmic scale."""


@dataclass(frozen=True, slots=True)
class Facts:
    """What the rows to tune on say of spans and labels."""

    gap_s: float
    """Half of the times between two rows of an entity are shorter."""
    span_s: float
    delay_s: float
    """9 of 10 of either label are known after so long."""
    positive: float
    """Share of the labels."""
    telling: tuple[str, ...] = ()
    """Inputs of the task as it is that tell something of the label, the most telling first."""


@dataclass
class Space:
    """The changes that a search over ``document`` may make.

    Parameters
    ----------
    document : the task as its file says it.
    facts : of the rows to tune on.
    """

    document: Document
    facts: Facts
    knobs: dict[str, dict[str, Edit]] = field(init=False)
    kinds: list[str] = field(init=False)

    def __post_init__(self) -> None:
        self._task = TaskSpec.model_validate(self.document)
        options = _options(self._task, self.facts)
        kept = {knob: {name: e for name, e in edits.items() if self._fits(e)} for knob, edits in options.items()}
        self.knobs = {knob: {AS_IS: _nothing} | edits for knob, edits in kept.items() if edits}
        self.kinds = [AS_IS, *(kind for kind in PARAMS if self.document["model"] != {"kind": kind})]

    def _fits(self, edit: Edit) -> bool:
        changed = deepcopy(self.document)
        edit(changed)
        task = built(changed)
        return task is not None and task != self._task

    def suggest(self, trial: BaseTrial) -> Document:
        """The document that a trial's choices make of the task."""
        made = deepcopy(self.document)
        for knob, edits in self.knobs.items():
            edits[trial.suggest_categorical(knob, list(edits))](made)
        kind = trial.suggest_categorical("learner", self.kinds)
        if kind != AS_IS:
            params: dict[str, Any] = {"lag": 0} if kind == "auto" and self.facts.delay_s <= 0.0 else {}
            for name, about in PARAMS[kind].items():
                if isinstance(about, list):
                    params[name] = trial.suggest_categorical(f"{kind}.{name}", about)
                else:
                    params[name] = float(f"{trial.suggest_float(f'{kind}.{name}', about[0], about[1], log=True):.4g}")
            made["model"] = {"kind": kind, "params": params}
        return made

    def first(self) -> list[dict[str, Any]]:
        """The choices of the first trials: the task as it is, then what is good for most."""
        adds = {knob: "on" for knob, edits in self.knobs.items() if "on" in edits}
        late = {"categories": "recent"} if "recent" in self.knobs.get("categories", {}) else {}
        some = late | {knob: choice for knob, choice in adds.items() if knob in ("labels", "seen")}
        plain: dict[str, str] = {}
        late_by = [name for name in self.knobs.get("maturity", {}) if name not in (AS_IS, "none")]
        ripe = {"maturity": late_by[0]} if late_by else {}
        tried = [(AS_IS, plain)]
        if fewer := [
            {"inputs": name} for name in self.knobs.get("inputs", {}) if name != AS_IS
        ]:  # quick, and often best
            most, least = fewer[0], fewer[-1]
            tried += [(AS_IS, most), ("auto", least), ("boosted", most), ("auto", most | some | ripe)]
        tried += [(AS_IS, adds), ("auto", plain), ("auto", some | ripe), ("boosted", adds), ("auto", adds)]
        tried += [("boosted", plain)]
        return [self._choices(kind if kind in self.kinds else AS_IS, on) for kind, on in tried]

    def _choices(self, kind: str, on: Mapping[str, str]) -> dict[str, Any]:
        params = PARAMS.get(kind, {})
        usual = {f"{kind}.{name}": about[0] if isinstance(about, list) else about[2] for name, about in params.items()}
        return {**dict.fromkeys(self.knobs, AS_IS), **on, "learner": kind, **usual}


def built(document: Document) -> TaskSpec | None:
    """The task of a document; ``None`` where there can be none."""
    try:
        task = TaskSpec.model_validate(deepcopy(document))
        TaskPipeline(task, MemoryFeatureStore())  # formulas and inputs are looked up there
    except (ValidationError, TaskError, ValueError):
        return None
    return task


def _nothing(_: Document) -> None:
    pass


def _options(task: TaskSpec, facts: Facts) -> dict[str, dict[str, Edit]]:
    spans = _spans(facts)
    numbers = [n for n in columns_of(task).numbers if task.source is None or n in task.source.columns][:_MOST_COLUMNS]
    source = task.source
    uneven = source is not None and source.label_known is not None
    delay = format_duration(max(round(facts.delay_s / 86_400.0), 1) * 86_400.0)
    told = facts.telling
    few: dict[str, Edit] = {
        f"best {k}": partial(_set, key="inputs", value=list(told[:k])) for k in _FEW if k < len(told)
    }
    return {
        "inputs": few,
        "windows": {name: partial(_windows, windows=of) for name, of in spans.items()},
        "seen": {"on": partial(_seen, windows=spans["middle"])},
        "levels": {"on": partial(_levels, numbers=numbers, windows=spans["middle"][-2:])},
        "changes": {"on": partial(_changes, numbers=numbers)},
        "labels": {"on": partial(_labels_on, windows=_label_windows(facts), share=facts.positive), "off": _labels_off},
        "categories": {
            "hashed": partial(_categories, encode="hashed"),
            "target": partial(_categories, encode="target", share=facts.positive),
            "recent": partial(_categories, encode="target", share=facts.positive, windows=_label_windows(facts)[:1]),
            "off": partial(_categories, encode="off"),
        },
        "clock": {"on": partial(_clock, seen=True), "off": partial(_clock, seen=False)},
        "maturity": {each: partial(_maturity, value=each) for each in ("none", delay)} if uneven else {},
        "missing marks": {"flipped": partial(_set, key="indicators", value=not task.indicators)},
    }


def _spans(facts: Facts) -> dict[str, list[str]]:
    """Sets of windows, from a few times between two rows of an entity to the whole."""
    fit = [s for s in _LADDER if 2 * facts.gap_s <= s <= facts.span_s] or [
        max(_LADDER[0], min(facts.span_s, _LADDER[-1]))
    ]
    text = [format_duration(float(int(s))) for s in fit]
    middle = text[: 2 * 3 : 2] or text
    return {"short": text[:3], "middle": middle, "long": [*text[-3:], "ever"] if text[-3:] != text[:3] else ["ever"]}


def _label_windows(facts: Facts) -> list[str]:
    fit = [s for s in _LADDER if max(facts.span_s / 50, 60.0) <= s <= facts.span_s / 2] or [_LADDER[0]]
    return [format_duration(s) for s in dict.fromkeys((fit[len(fit) // 3], fit[-1]))]


def _set(document: Document, key: str, value: Any) -> None:
    document[key] = value


def _see(document: Document, *patterns: str) -> None:
    """Let the model see what was added; a task without ``inputs`` sees everything."""
    if "inputs" in document:
        document["inputs"] = [*document["inputs"], *patterns]


def _unsee(document: Document, begins: Sequence[str]) -> None:
    if "inputs" in document and begins:
        kept = [each for each in document["inputs"] if not each.removeprefix("!").startswith(tuple(begins))]
        document["inputs"] = kept or ["*"]


def _clock(document: Document, seen: bool) -> None:
    """Let the model see the hour and the weekday, or neither; a task without ``inputs`` sees no clock."""
    if "inputs" in document:
        there = document["inputs"]
        added = [name for name in _CLOCK if name not in there]
        document["inputs"] = [*there, *added] if seen else [each for each in there if each not in _CLOCK] or there


def _see_all(document: Document, begins: str) -> None:
    """Where some of an aggregate's columns are named one by one, let the model see all: their names are to change."""
    inputs = document.get("inputs", [])
    if any(each.startswith(begins) and "*" not in each for each in inputs):
        document["inputs"] = [*(each for each in inputs if not each.startswith(begins)), f"{begins}*"]


def _windows(document: Document, windows: Sequence[str]) -> None:
    """Other windows for all aggregates of events that have some."""
    for entity in document["entities"]:
        for aggregate in entity.get("aggregates", []):
            if aggregate.get("windows"):
                _see_all(document, f"{entity['name']}.{aggregate['name']}_")
                endless = "gap_trend" in aggregate["ops"]
                aggregate["windows"] = [w for w in windows if not (endless and w == "ever")]
                aggregate.pop("ratios", None)


def _keyed(document: Document) -> list[Document]:
    """The entities that rows name; categories make theirs by themselves."""
    return [entity for entity in document["entities"] if entity["key"] != "*"]


def _scored(document: Document) -> Document:
    return next(entity for entity in document["entities"] if entity["name"] == document["entity"])


def _add(document: Document, entity: Document, table: str, added: Document) -> None:
    entity[table] = [*entity.get(table, []), added]
    _see(document, f"{entity['name']}.{added['name']}_*")


def _seen(document: Document, windows: Sequence[str]) -> None:
    """How often and how long ago each entity was seen."""
    for entity in _keyed(document):
        ops = ["count", "since_last", "since_first", "gap_mean", "gap_std"]
        _add(document, entity, "aggregates", {"name": f"{_OWN}_seen", "ops": ops, "windows": list(windows)})


def _levels(document: Document, numbers: Sequence[str], windows: Sequence[str]) -> None:
    """What is usual of each number for the entity, and the value against it."""
    ops = ["mean", "std", "max", "over_mean", "over_ewmean"]
    for n in numbers:
        added = {"name": f"{_OWN}_{n}"[:48], "value": n, "ops": ops, "windows": list(windows), "half_life": windows[-1]}
        added |= {"half_life": "30d"} if windows[-1] == "ever" else {}
        _add(document, _scored(document), "aggregates", added)


def _changes(document: Document, numbers: Sequence[str]) -> None:
    """What each number rose by since the entity's row before."""
    entity = _scored(document)
    for n in numbers:
        name = f"{_OWN}_last_{n}"[:48]
        entity["aggregates"] = [*entity.get("aggregates", []), {"name": name, "value": n, "ops": ["last"]}]
        document["values"] = document.get("values", {}) | {f"{_OWN}_up_{n}"[:48]: f"{n} - {entity['name']}.{name}_last"}
    _see(document, *(f"{_OWN}_up_{n}"[:48] for n in numbers))


def _labels_on(document: Document, windows: Sequence[str], share: float) -> None:
    """What is known of the labels of each entity, smoothed by the share of positives among all."""
    ops = ["count", "positives", "share", "since_positive"]
    for entity in _keyed(document):
        added = {"name": f"{_OWN}_known", "ops": ops, "windows": list(windows)}
        _add(document, entity, "labels", added | {"prior": 10.0, "prior_share": float(f"{share:.3g}")})


def _labels_off(document: Document) -> None:
    for entity in document["entities"]:
        _unsee(document, [f"{entity['name']}.{each['name']}_" for each in entity.pop("labels", [])])


def _categories(document: Document, encode: str, share: float = 0.0, windows: Sequence[str] = ()) -> None:
    """Texts as groups of a hash, as their share of positives (ever, or of late), or not at all."""
    there = document.get("categories", [])
    if not there:
        return
    for each in there:
        _unsee(document, [f"{each['name']}_group_", f"{each['name']}."])
    if encode == "off":
        del document["categories"]
        return
    own: Document = {"prior_share": float(f"{share:.3g}")} if encode == "target" else {}
    own |= {"windows": list(windows)} if windows else {}
    plain = ("name", "value", *(("columns", "texts") if encode == "hashed" else ("prior",)))
    document["categories"] = [{k: v for k, v in c.items() if k in plain} | {"encode": encode} | own for c in there]
    _see(document, *(f"{c['name']}_group_*" if encode == "hashed" else f"{c['name']}.*" for c in there))


def _maturity(document: Document, value: str) -> None:
    document["labels"] = document.get("labels", {}) | {"maturity": value}
