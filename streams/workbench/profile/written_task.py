"""Writes a plan as a task file with comments, so that a person sees what was decided and why.

It knows the words of task files, not how the plan came about.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from weir.online.durations import format_duration
from weir.online.labels.join_policy import JoinPolicy
from weir.streams.workbench.profile.task_plan import DAY_S, ROW_INTERVAL_S, Plan
from weir.streams.workbench.tuning.task_text import value_text

_UNEVEN, _FEW_ROWS, _CUT, _HIGH = 1.2, 2_000, 300, 2
"""Delays of labels 0 and 1 with medians so far apart wait for a maturity; fewer rows fill no budget; longest reason;
a number so many times its usual one is a high one."""


@dataclass(slots=True)
class _Block:
    """A header of the file with what stands below it, and comments behind either."""

    header: str
    values: dict[str, Any]
    why: str = ""
    whys: dict[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[str]:
        if self.header:
            yield f"\n{self.header}{_comment(self.why)}"
        for key, value in self.values.items():
            yield f"{key} = {value_text(value)}{_comment(self.whys.get(key, ''))}"


def _comment(text: str) -> str:
    return f"  # {''.join(c if c.isprintable() else ' ' for c in text)}" if text else ""


def task_text(plan: Plan) -> str:
    """The task file."""
    files = ", ".join(path.name for path in plan.sample.paths[:3]) + (", ..." if len(plan.sample.paths) > 3 else "")
    head = [
        f"Made by `weir init` from {files}: {plan.sample.rows:,} rows. Look at what a comment calls a guess, and at"
    ]
    head += ["what is left out; docs/TASKS.md says what else a task file may say."]
    head += [f"left out: {name[:100]}: {why[:_CUT]}" for name, why in plan.left.items()]
    blocks = (_top, _entities, _categories, _model, _threshold, _source)
    lines = [_comment(line).lstrip() for line in head]
    return "\n".join([*lines, *(line for of in blocks for block in of(plan) for line in block.lines())]) + "\n"


def _ripe_name(plan: Plan) -> str:
    """What the seconds are called after which both outcomes are known."""
    return "known_after" if "known_after" not in plan.columns else "both_known_after"


def _followed(plan: Plan) -> list[str]:
    """Numbers whose course for an entity is an input."""
    return [] if plan.score_column or plan.main is None else plan.worth


def _top(plan: Plan) -> Iterator[_Block]:
    inputs = [*plan.numbers, *(f"is_{name}" for name in plan.flags), *(f"{name}_group_*" for name in plan.hashed)]
    inputs += [f"{name}_change" for name in _followed(plan)]
    kept = [plan.entity] if plan.main is not None or plan.label is not None else []
    inputs += [f"{entity}.*" for entity in (*kept, *plan.second.values())]
    inputs += [f"!{plan.entity}.{name}_last" for name in _followed(plan)]  # the change says the same
    inputs += [f"{name}.target_*" for name in plan.target]
    inputs += plan.clock()
    ripe = plan.known_after()
    inputs += [_ripe_name(plan)] if ripe is not None else []
    top = {"name": plan.name, "stream": plan.stream, "entity": plan.entity, "numbers": plan.numbers}
    top["inputs"] = [plan.score_column] if plan.score_column else inputs
    whys = {**plan.guesses, "indicators": "trees tell what is missing by the 0 that stands for it"}
    yield _Block("", top | {"indicators": False}, whys=whys)
    marks = {name: list(found) for name in plan.numbers if (found := plan.columns[name].missing)}
    if marks:
        yield _Block("[missing]", marks, "numbers far from all others, which stand for no reading")
    values = {f"is_{name}": f"{name} == '{word}'" for name, word in plan.flags.items()}
    values |= {f"{name}_change": f"{name} - {plan.entity}.{name}_last" for name in _followed(plan)}
    if ripe is not None:
        values[_ripe_name(plan)] = ripe.formula
    if plan.score_column == "oddest":
        values["oddest"] = f"max({', '.join(f'{plan.entity}.{name}_odd' for name in plan.worth)})"
    if values:
        yield _Block("[values]", values)


def _entities(plan: Plan) -> Iterator[_Block]:
    windows, alone = plan.windows(), plan.main is None
    key = "*" if alone else "device_id" if plan.stream == "device-events" else "user_id"
    why = "no column is an id that comes again" if alone else ""
    yield _Block("[[entities]]", {"name": plan.entity, "key": key}, why)
    if plan.score_column:
        for name in plan.worth:
            yield _Block("[[entities.anomalies]]", {"name": f"{name}_odd", "value": name}, "when something new begins")
        return
    if plan.main is not None:
        each, days = len(plan.ts) / max(plan.main.distinct, 1), plan.gap_s() / DAY_S
        events = {
            "name": "events",
            "ops": ["count", "since_last", "since_first", "gap_mean", "gap_std"],
            "windows": windows,
        }
        yield _Block("[[entities.aggregates]]", events, f"windows by {each:,.0f} events each, one in {days:.3g} days")
    for name in _followed(plan):
        course = {"name": name, "value": name, "ops": ["mean", "std", "last", "over_ewmean"]}
        yield _Block("[[entities.aggregates]]", course | {"windows": windows[-1:], "half_life": windows[-1]})
    if plan.label is None:
        return
    usual = f"{plan.entity}.{plan.paid}_over_ewmean" if plan.paid in _followed(plan) and plan.second else ""
    if usual:
        high = {"name": "high", "where": f"{usual} > {_HIGH}", "ops": ["count"], "windows": windows}
        yield _Block("[[entities.aggregates]]", high | {"include_current": False}, "far more than usual")
    why, few = "of the labels known by then", ["share", "last", "ewmean"]
    many = ["positives", "share", "since_positive", "last"]
    known: dict[str, Any] = {"name": "known", "ops": few if alone else many}
    known |= {"windows": list(dict.fromkeys((windows[0], windows[-1]))) if alone else windows}
    known |= {"half_life": windows[0], "prior": 5, "prior_share": plan.rate}
    yield _Block("[[entities.labels]]", known, why)
    for key, name in plan.second.items():
        yield _Block("[[entities]]", {"name": name, "key": key})
        yield _Block("[[entities.labels]]", known | {"ops": many}, why)
        if usual:
            quiet = f"of events whose {plan.paid} explains nothing: the {name} itself may be the reason"
            yield _Block("[[entities.labels]]", known | {"name": "usual", "where": f"{usual} <= {_HIGH}"}, quiet)


def _categories(plan: Plan) -> Iterator[_Block]:
    for name in plan.hashed:
        texts = [text for text, _ in plan.columns[name].spoken(plan.columns[name].distinct)]
        groups = {"name": name, "columns": 8 if len(texts) <= 8 else 16, "texts": texts}
        yield _Block("[[categories]]", groups, f"{len(texts)} texts, which reasons tell apart")
    for name in plan.target:
        why = f"{plan.columns[name].distinct:,} texts, each by the share of positives known of it"
        target = {"name": name, "encode": "target", "prior_share": plan.rate}
        yield _Block("[[categories]]", target | ({"windows": ["30d", "ever"]} if plan.span_s > 60 * DAY_S else {}), why)


def _model(plan: Plan) -> Iterator[_Block]:
    if plan.score_column:
        why = f"{plan.no_label}: detectors watch the numbers; name a `label` in [source] to learn from one"
        yield _Block("[model]", {"kind": "column", "params": {"column": plan.score_column}}, why)
    elif plan.lag_free:
        why = "lag 0: each label is known before the next row"
        yield _Block("[model]", {"kind": "auto", "params": {"lag": 0}}, why)
    else:
        yield _Block("[model]", {"kind": "auto"})
    if plan.silent:
        horizon = {"horizon_s": format_duration(plan.horizon_s)}
        once = {"observe_s": format_duration(plan.observe_s)} | horizon | {"reveal": "at_horizon"}
        silence = once if plan.observe_s else {"score": "each event"} | horizon
        why = f"{plan.no_label}: does no event follow {'its first days' if plan.observe_s else 'this one'} for so long?"
        yield _Block("[labels.silence]", silence, why, plan.guesses)
    late = plan.delays()
    labels, whys = dict[str, Any](), dict[str, str]()
    if (rate := plan.negative_rate()) < 1.0:
        labels["negative_rate"] = rate
        whys["negative_rate"] = "negatives that are learned, each for several: positives are rare"
    if there := len(late) > 0 and all(map(len, late)):
        middle = [float(np.median(each)) for each in late]
        slow = int(middle[1] > middle[0])
        wait_s = math.ceil(float(np.quantile(late[slow], 0.95)) / 3600.0) * 3600.0
        if plan.known_after() is not None:
            labels["maturity"] = _ripe_name(plan)
            whys["maturity"] = f"so late is a {slow} known, by the event's own numbers: learned then, whatever it is"
        elif max(middle) > _UNEVEN * min(middle) and wait_s < _UNEVEN * max(middle) + 3600.0:
            labels["maturity"] = format_duration(wait_s)
            whys["maturity"] = f"{('negatives', 'positives')[slow]} are known later than the others: both wait for it"
    wait, dated = format_duration(plan.delay_s), plan.label is not None and plan.label.dated and bool(plan.label.known)
    if dated:
        labels["maturity"], whys["maturity"] = wait, "a 1 is known sooner than a 0: both are learned then"
    if plan.lag_free:
        labels["act"], whys["act"] = "between rows", "each label is learned before the next row is scored"
    if labels:
        yield _Block("[labels]", labels, whys=whys)
    if dated:
        why = plan.guesses.get("label_delay", "as was said")
        join = {"negative_after_s": wait, "keep_s": f"{math.ceil(plan.latest_s / DAY_S) + 1}d"}
        said = {"keep_s": "for the last date: it corrects that 0"}
        yield _Block("[labels.join]", join, f"an event without a date is a 0 then; {why}", said)
    if not there:
        return
    days = max(float(each.max()) for each in late) / DAY_S
    # Time moves at the next rows only, in months where they are snapshots: predictions are let go before labels come.
    pause = float(np.diff(np.unique(plan.ts[np.isfinite(plan.ts)])).max(initial=0.0)) / DAY_S
    if (days + pause) * DAY_S >= JoinPolicy().keep_s * 0.9:
        keep_s = f"{math.ceil(days + pause) + 1}d"
        yield _Block(
            "[labels.join]", {"keep_s": keep_s}, f"the last labels are known {days:.0f} days after their event"
        )


def _threshold(plan: Plan) -> Iterator[_Block]:
    days = max(plan.span_s / DAY_S, 1e-9)
    if plan.time is not None and len(plan.ts) == plan.sample.rows:  # snapshots come on few days, and alerts with them
        days = min(days, len(np.unique(plan.ts[np.isfinite(plan.ts)] // DAY_S)))
    a_day = max(plan.rate * plan.sample.rows / max(days, 1e-9), 1.0)
    if plan.score_column or plan.sample.rows < _FEW_ROWS:
        why = "an episode of a detector" if plan.score_column else "so few rows fill no budget"
        # All scores are .5 until something is learned, and that is nothing to alert.
        yield _Block("[threshold]", {"kind": "fixed", "value": 0.5 if plan.score_column else 0.51}, why)
    else:
        why = "as many as there are positives" if plan.label is not None else "1 % of the rows"
        yield _Block("[threshold]", {"kind": "budget", "alerts_per_day": float(f"{a_day:.2g}")}, why)


def _source(plan: Plan) -> Iterator[_Block]:
    who, constants = ("device_id", {}) if plan.stream == "device-events" else ("user_id", {"type": "event"})
    constants |= {} if who in plan.columns else {who: "all"}
    source: dict[str, Any] = {"constants": constants} if constants else {}
    whys = dict(plan.guesses)
    if plan.event_id is not None:
        source["event_id"] = plan.event_id.name
        if again := len(plan.ts) - plan.event_id.distinct:
            whys["event_id"] = f"{again:,} rows repeat one and are dropped, as live"
    if plan.time is None:
        source |= {"row_interval": format_duration(ROW_INTERVAL_S), "order": "arrival"}
        whys["row_interval"] = "no column is a time: rows follow each other in file order"
    else:
        source |= {"time": plan.time.name, "time_format": plan.time.time_format, "time_zone": plan.time_zone}
        whys.setdefault("time_zone", "of times without an offset")
    if (label := plan.label) is not None:
        source["label"] = label.column.name
        words = {"positive": label.positive, "negative": label.negative, "unlabelled": label.unlabelled}
        if label.any_date:
            words["negative"] = [""] if label.known is None else []
            whys["positive"] = "any date; whatever has none " + ("is a 0" if label.known is None else "is a 0 later on")
        source |= {} if label.usual else {key: held for key, held in words.items() if held}
        if label.known is not None:
            source["label_known"] = label.known.name
            whys["label_known"] = "there for a 1 alone" if label.dated and not label.any_date else ""
        else:
            source["label_delay"] = format_duration(plan.delay_s)
    yield _Block("[source]", source, whys={key: why for key, why in whys.items() if key != "entity"})
    names = {name: column.name for name, column in plan.columns.items()}
    why = "with _: the name itself means something else in a task, or is another column's"
    yield _Block("[source.columns]", names, whys={name: why for name in names if name.endswith("_")})
