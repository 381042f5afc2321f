"""Writes a plan as a task file with comments, so that a person sees what was decided and why.

It knows the words of task files, not how the plan came about.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence

import numpy as np

from weir.online.durations import format_duration
from weir.online.labels.join_policy import JoinPolicy
from weir.streams.workbench.profile.plan import DAY_S, ROW_INTERVAL_S, Plan

_UNEVEN = 1.2
"""Delays of labels 0 and 1 whose medians differ by so much are evened out by a maturity."""
_TEXT_CUT = 100


def task_text(plan: Plan) -> str:
    """The task file."""
    parts = (_head(plan), _entities(plan), _categories(plan), _decisions(plan), _source(plan))
    return "\n".join(line for part in parts for line in part) + "\n"


def _q(text: object) -> str:
    """A TOML string."""
    return json.dumps(str(text), ensure_ascii=False).replace("\x7f", "\\u007f")


def _list(texts: Sequence[object]) -> str:
    return f"[{', '.join(map(_q, texts))}]"


def _comment(text: str) -> str:
    return f"# {''.join(c if c.isprintable() else ' ' for c in text)}"


def _guess(plan: Plan, part: str) -> str:
    return f"  {_comment(plan.guesses[part])}" if part in plan.guesses else ""


def _inputs(plan: Plan) -> list[str]:
    """What the model sees."""
    names = [*plan.numbers, *(f"is_{name}" for name in plan.flags), *(f"{name}_group_*" for name in plan.hashed)]
    names += [f"{name}_change" for name in _followed(plan)]
    names += [f"{entity}.*" for entity in _all_entities(plan)]
    names += [f"{name}.target_*" for name in plan.target]
    return names + (["hour", "weekday"] if plan.time is not None and plan.span_s > 2 * DAY_S else [])


def _all_entities(plan: Plan) -> list[str]:
    mine = [plan.entity] if plan.main is not None or plan.label is not None else []
    return [*mine, *plan.second.values()]


def _followed(plan: Plan) -> list[str]:
    """Numbers whose change since the entity's last event is an input."""
    return [] if plan.score_column or plan.main is None else plan.worth


def _head(plan: Plan) -> Iterator[str]:
    files = ", ".join(path.name for path in plan.sample.paths[:3]) + (", ..." if len(plan.sample.paths) > 3 else "")
    width = len(plan.sample.table.table.column_names)
    yield _comment(f"Made by `weir init` from {files}: {plan.sample.rows:,} rows, {width} columns.")
    yield "# A beginning: look at what a comment calls a guess, and at what was left out. All keys: docs/TASKS.md."
    for name, why in plan.left.items():
        yield _comment(f"left out: {name[:_TEXT_CUT]}: {why[:_TEXT_CUT]}")
    yield f"name = {_q(plan.name)}"
    yield f"stream = {_q(plan.stream)}"
    yield f"entity = {_q(plan.entity)}{_guess(plan, 'entity')}"
    if plan.numbers:
        yield f"numbers = {_list(plan.numbers)}"
    yield f"inputs = {_list([plan.score_column] if plan.score_column else _inputs(plan))}"
    yield "indicators = false  # trees tell what is missing by the 0 that stands for it"
    marks = {name: plan.columns[name].missing for name in plan.numbers if plan.columns[name].missing}
    if marks:
        yield "\n[missing]  # numbers far from all others, which stand for no reading"
        yield from (f"{name} = [{', '.join(f'{m:.15g}' for m in found)}]" for name, found in marks.items())
    values = {f"is_{name}": f"{name} == '{word}'" for name, word in plan.flags.items()}
    values |= {f"{name}_change": f"{name} - {plan.entity}.{name}_last" for name in _followed(plan)}
    if plan.score_column == "oddest":
        values["oddest"] = f"max({', '.join(f'{plan.entity}.{name}_odd' for name in plan.worth)})"
    if values:
        yield "\n[values]"
        yield from (f"{name} = {_q(formula)}" for name, formula in values.items())


def _entities(plan: Plan) -> Iterator[str]:
    windows = plan.windows()
    key = "*" if plan.main is None else "device_id" if plan.stream == "device-events" else "user_id"
    yield f"\n[[entities]]{'' if plan.main is not None else '  # no column is an id that comes again'}"
    yield f"name = {_q(plan.entity)}"
    yield f"key = {_q(key)}"
    if plan.score_column:
        for name in plan.worth:
            yield "\n[[entities.anomalies]]  # tells when something new begins"
            yield f"name = {_q(name + '_odd')}\nvalue = {_q(name)}"
        return
    if plan.main is not None:
        each = len(plan.ts) / max(plan.main.distinct, 1)
        yield f"\n[[entities.aggregates]]  # windows by {each:,.0f} events each, one in {plan.gap_s() / DAY_S:.3g} days"
        yield 'name = "events"\nops = ["count", "since_last", "since_first", "gap_mean"]'
        yield f"windows = {_list(windows)}"
        for name in plan.worth:
            yield f"\n[[entities.aggregates]]\nname = {_q(name)}\nvalue = {_q(name)}"
            yield 'ops = ["mean", "std", "last", "ewmean", "over_ewmean"]'
            yield f"windows = {_list(windows[-1:])}\nhalf_life = {_q(windows[-1])}"
    if plan.label is not None:
        yield from _labels(plan, windows, alone=plan.main is None)
    for key, name in plan.second.items():
        yield f"\n[[entities]]\nname = {_q(name)}\nkey = {_q(key)}"
        yield from _labels(plan, windows, alone=False)


def _labels(plan: Plan, windows: Sequence[str], *, alone: bool) -> Iterator[str]:
    yield '\n[[entities.labels]]  # of the labels known by then\nname = "known"'
    yield 'ops = ["share", "last", "ewmean"]' if alone else 'ops = ["positives", "share", "since_positive", "last"]'
    yield f"windows = {_list(windows)}\nhalf_life = {_q(windows[0])}"
    positive, known = plan.positives
    yield f"prior = 5\nprior_share = {positive / max(known, 1):.4g}"


def _categories(plan: Plan) -> Iterator[str]:
    for name in plan.hashed:
        c = plan.columns[name]
        yield f"\n[[categories]]  # {c.distinct} texts\nname = {_q(name)}\ncolumns = {8 if c.distinct <= 8 else 16}"
    positive, known = plan.positives
    for name in plan.target:
        yield f"\n[[categories]]  # {plan.columns[name].distinct:,} texts, each by the share of positives known of it"
        yield f'name = {_q(name)}\nencode = "target"\nprior_share = {positive / max(known, 1):.4g}'


def _decisions(plan: Plan) -> Iterator[str]:
    days = max(plan.span_s / DAY_S, 1e-9)
    if plan.score_column:
        yield "\n# No label: detectors watch the numbers. Name a `label` in [source] to learn from one."
        yield f'[model]\nkind = "column"\nparams = {{ column = {_q(plan.score_column)} }}'
        yield '\n[threshold]\nkind = "fixed"\nvalue = 0.5  # an episode'
        return
    yield '\n[model]\nkind = "auto"'
    if plan.lag_free:
        yield "params = { lag = 0 }  # each label is known before the next row"
    if plan.silent:
        yield "\n[labels.silence]  # no label: is this the last event for so long?"
        yield 'score = "each event"'
        yield f"horizon_s = {_q(format_duration(plan.horizon_s))}  # a guess: longer than nine of ten pauses"
    yield from _waits(plan)
    positive, known = plan.positives
    rate = positive / known if known else 0.01
    a_day = max(rate * plan.sample.rows / days, 1.0)
    yield "\n[threshold]"
    if plan.sample.rows < 2000:
        yield 'kind = "fixed"  # so few rows fill no budget\nvalue = 0.5'
    else:
        yield f'kind = "budget"\nalerts_per_day = {float(f"{a_day:.2g}"):g}  # ' + (
            "as many as there are positives" if known else "1 % of the rows"
        )


def _waits(plan: Plan) -> Iterator[str]:
    """Maturity, and how long predictions wait, where a column says when labels became known."""
    if not (late := plan.delays()):
        return
    no, yes = late
    middle = [float(np.median(late)) for late in (no, yes)] if len(no) and len(yes) else [0.0, 0.0]
    slow = (no, yes)[int(middle[1] > middle[0])]
    if max(middle) > _UNEVEN * min(middle) and float(np.quantile(slow, 0.95)) < _UNEVEN * max(middle):
        wait = format_duration(math.ceil(float(np.quantile(slow, 0.95)) / 3600.0) * 3600.0)
        which = "negatives" if middle[0] > middle[1] else "positives"
        yield f"\n[labels]\nmaturity = {_q(wait)}  # {which} are known later than the others: learn both then"
    latest = max(float(late.max(initial=0.0)) for late in (no, yes))
    if latest >= JoinPolicy().keep_s * 0.9:
        yield f"\n[labels.join]  # the last labels are known {latest / DAY_S:.0f} days after their event"
        yield f'keep_s = "{math.ceil(latest / DAY_S) + 1}d"'


def _source(plan: Plan) -> Iterator[str]:
    yield "\n[source]"
    fed = {*plan.columns}
    constants = {} if plan.stream == "device-events" else {"type": "event"}
    who = "device_id" if plan.stream == "device-events" else "user_id"
    constants |= {} if who in fed else {who: "all"}
    if constants:
        yield f"constants = {{ {', '.join(f'{k} = {_q(v)}' for k, v in constants.items())} }}"
    if plan.event_id is not None:
        yield f"event_id = {_q(plan.event_id.name)}"
    if plan.time is not None:
        yield f"time = {_q(plan.time.name)}{_guess(plan, 'time')}"
        if plan.time.time_format != "auto":
            yield f"time_format = {_q(plan.time.time_format)}{_guess(plan, 'time_format')}"
        if plan.time.kind == "times":
            yield f"time_zone = {_q(plan.time_zone)}  # of times without an offset"
    else:
        yield f'row_interval = "{ROW_INTERVAL_S:.0f}s"  # no column is a time: rows follow each other in file order'
        yield 'order = "arrival"'
    if (label := plan.label) is not None:
        yield f"label = {_q(label.column.name)}{_guess(plan, 'label')}"
        for key, words in (
            ("positive", label.positive),
            ("negative", label.negative),
            ("unlabelled", label.unlabelled),
        ):
            if words and not label.usual:
                yield f"{key} = {_list(words)}{_guess(plan, key)}"
        if label.known is not None:
            yield f"label_known = {_q(label.known.name)}"
        else:
            yield f"label_delay = {_q(format_duration(plan.delay_s))}{_guess(plan, 'label_delay')}"
    if plan.lag_free:
        yield "batch_size = 1  # predict a row, then learn it"
    yield "\n[source.columns]"
    yield from (f"{name} = {_q(column.name)}" for name, column in plan.columns.items())
