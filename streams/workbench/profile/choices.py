"""Chooses what a task made of a table says: the part of each column, inputs, delay. It asks where it is not sure.

It knows columns and how parts are guessed, not how a task file is written.
"""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from weir.online.batch import FloatVector, IntVector
from weir.online.codec.limits import DEFAULT_LIMITS
from weir.online.codec.wire import WORD_CHARS, DeviceEvent, UserEvent
from weir.online.durations import format_duration, parse_duration
from weir.online.features.expression import FUNCTIONS
from weir.online.features.timecolumns import TIME_COLUMNS
from weir.online.mistakes import did_you_mean
from weir.online.task.spec import known_zone
from weir.streams.errors import UsageError
from weir.streams.workbench.profile import roles, terms
from weir.streams.workbench.profile.columns import Column, read_anew, why_no_time
from weir.streams.workbench.profile.sampled import Sample
from weir.streams.workbench.profile.task_plan import DAY_S, Plan

Ask = Callable[[str, str, Sequence[str]], str] | None
"""Called with a question, the guess, and the answers that there are (any where there are none); gives the answer. Where
there is nobody to ask the guess is taken, and the plan says so."""
_CLOCK: Final = r"^\d{1,2}:\d\d(:\d\d(\.\d+)?)?( ?[AaPp][Mm])?$"
_OFFSET: Final = r":\d\d\S*? ?(Z|UTC|GMT|[+-]\d\d(:?\d\d)?)\W*$"
"""A clock with an offset behind it; that of a date alone, as in 05-01-2026, is a year."""
_FEW_LATER: Final = 0.02
"""Of the dates that say a 1: so many may come after the event was taken for a 0, without a word."""
_NONE, _EACH = "none", "each event"
_MOST_NUMBERS, _MOST_TEXTS, _MOST_SECOND, _MOST_WORTH = 40, 12, 3, 4
"""Inputs that a task begins with: a member of ``auto`` takes the square of their number a row."""
_DELAYS_S: Final = tuple(parse_duration(w) for w in ("0s", "1m", "10m", "1h", "6h", "1d", "2d", "7d"))
_TAKEN: Final = {*UserEvent.model_fields, *DeviceEvent.model_fields, *TIME_COLUMNS, *FUNCTIONS, "hash", "full"}
_WORD_FIELDS: Final = {"user-events": {"channel", "country"}, "device-events": {"status"}}
"""Fields of events that hold one word."""
_MANY, _OFTEN = 30, 200
"""So many entities, none with more events on average, are rather people who come again than sensors that are read."""
_MARK: Final = re.compile(r"[\w .:+-]+")
_NEARLY_ALL, _NOTHING = 0.999, 0.51
"""A value in so many rows, of a column that alone has no higher ROC AUC, is left out."""
_SHOWN: Final = 4
_NEEDED: Final = {
    "time": "most of its values are to be times",
    "entity": "it is to hold ids that come again, known in every row",
    "label": "it is to have 2 to 6 different values, in ten rows at least",
}
_MOST_HASHED: Final = 16
"""Different texts beyond which a text is an input by the share of positives known of it."""


def plan_of(
    name: str, sample: Sample, columns: Sequence[Column], ask: Ask, given: Mapping[str, str] = MappingProxyType({})
) -> Plan:
    """The plan of a task for a table; what is ``given`` of a part is neither guessed nor asked.

    Raises
    ------
    UsageError
        Where there is nothing that a task could learn or watch, or what is given cannot be.
    """
    plan = Plan(name, sample, given=given)
    plan.left |= dict.fromkeys(sample.doubled, "several columns have this name: rename all but one")
    plan.left |= {c.name: c.why for c in columns if c.why}
    constant = [c for c in columns if c.distinct == 1 and c.words & terms.LABEL]
    if constant:
        plan.no_label = f"no label: {constant[0].name} might be it, but {_alike(constant[0])}"
    rest = [c for c in columns if not c.why]
    rest = _choose_time(plan, rest, ask)
    _choose_label(plan, rest, ask)
    rest = [c for c in rest if plan.label is None or c not in (plan.label.column, plan.label.known)]
    plan.event_id = roles.guess_event_id(rest) or roles.guess_repeated_id(rest, sample.table.table)
    rest = [c for c in rest if c is not plan.event_id]
    if plan.event_id is None and plan.time is not None:
        _tell_versions(plan, rest, sample.table.table)
        rest = [c for c in rest if c.name not in plan.left]
    plan.left |= (leaks := roles.leaks(rest, plan.ts if plan.time is not None else None, plan.label))
    rest = [c for c in rest if c.name not in leaks]
    _choose_entities(plan, rest, ask)
    used = {id(c) for c in plan.columns.values()}
    _choose_inputs(plan, [c for c in rest if id(c) not in used])
    if plan.label is None:
        plan.left |= {c.name: f"by its name the label, but {_alike(c)}: nothing can be told apart" for c in constant}
    return plan


def _alike(c: Column) -> str:
    return f"all its values are {c.spoken(1)[0][0]!r}"


def _answer(plan: Plan, ask: Ask, part: str, why: str, question: str, guess: str, answers: Sequence[str] = ()) -> str:
    """What a person says of a part; else the guess, marked as such by ``why``."""
    if part in plan.given:
        if answers and plan.given[part] not in answers:
            raise UsageError(f"{part}: {plan.given[part]!r} is none of {', '.join(map(repr, answers))}")
        return plan.given[part]
    if ask is not None:
        return ask(question, guess, answers)
    plan.guesses[part] = why
    return guess


def _which(plan: Plan, ask: Ask, part: str, question: str, guess: roles.Guess) -> Column | None:
    """The column of a part: the guess, or what a person says where that is not sure."""
    there = {c.name: c for c in ([guess.column] if guess.column else []) + guess.others}
    if (name := plan.given.get(part)) is not None:
        if name not in there and name != _NONE:
            raise UsageError(_unfit(plan, part, name, list(there)))
        return there.get(name)
    if guess.sure or not there:
        return guess.column
    chosen = guess.column.name if guess.column else _NONE
    why = f"a guess; it could be {', '.join([name for name in [*there, _NONE] if name != chosen][:4])}"
    if chosen == _NONE:
        why = f"none by its name; it could be {', '.join(list(there)[:4])}: then say so by --{part}"
    return there.get(_answer(plan, ask, part, why, question, chosen, [*there, _NONE]))


def _unfit(plan: Plan, part: str, name: str, there: list[str]) -> str:
    """That a column cannot have the part that somebody gave it."""
    columns = plan.sample.table.table.column_names
    if name not in columns:
        return f"{part}: no column {name!r}; {did_you_mean(name, columns)}"
    able = f"; these can: {', '.join(there)}" if there else ""
    return f"{part}: the column {name!r} cannot be it: {_NEEDED[part]}{able}"


def _choose_time(plan: Plan, columns: Sequence[Column], ask: Ask) -> list[Column]:
    """Choose the time of the event; the other columns, whose times are read as it is."""
    plan.time = time = _which(plan, ask, "time", "Which column is the time of the event?", roles.guess_time(columns))
    order = dict[str, str]()
    if time is not None and time.unsure:
        form, why = time.time_format, f"a guess: nothing tells {time.unsure}"
        first, question = "day" if form.startswith("%d") else "month", f"Nothing tells {time.unsure}: which?"
        if _answer(plan, ask, "time_format", why, question, first, ["day", "month"]) != first:
            order[form] = f"{form[3:5]}{form[2]}{form[:2]}{form[5:]}"  # %d and %m change places
    if time is not None and time.kind == "times" and not _all_have_offsets(time):
        question, why = "Of which time zone are times without an offset?", "a guess, of times without an offset"
        try:
            plan.time_zone = known_zone(_answer(plan, ask, "time_zone", why, question, plan.time_zone))
        except ValueError as exc:
            raise UsageError(f"time zone: {exc}") from None
    if order or plan.time_zone != "UTC":
        # Spans, windows and delays are those of the times that columns have then: of all, as a delay is between two.
        columns = [c if c.times is None else _as_said(c, order, plan.time_zone) for c in columns]
        plan.time = next((c for c in columns if time is not None and c.name == time.name), None)
    return [c for c in columns if c is not plan.time]


def _as_said(c: Column, order: Mapping[str, str], time_zone: str) -> Column:
    """A column of times, with day and month in the other order where nothing in it tells which that is."""
    return read_anew(c, order.get(c.time_format, c.time_format) if c.unsure else c.time_format, time_zone)


def _all_have_offsets(time: Column) -> bool:
    return bool(pc.all(pc.match_substring_regex(time.texts, _OFFSET)).as_py())


def _choose_label(plan: Plan, columns: Sequence[Column], ask: Ask) -> None:
    found = roles.guess_label(columns, plan.ts if plan.time is not None else None)
    able = {c.name for c in [*([found.column] if found.column else []), *found.others]}
    dated = {c.name for c in columns if c.times is not None and c.known < 0.5} - able
    given_date = plan.given.get("label") in dated
    column = None if given_date else _which(plan, ask, "label", "Which column is the label?", found)
    if column is None:
        _choose_dated_label(plan, columns, ask)
        return
    plan.label = label = roles.meaning_of(column)
    if not label.usual or "positive" in plan.given:
        words = {word: n for word, n in column.spoken(7) if word not in label.unlabelled}
        why = "a guess, of " + ", ".join(f"{word!r} ({n:,})" for word, n in words.items())
        question = f"Which value of {column.name!r} is the one to find?"
        answer = _answer(plan, ask, "positive", why, question, label.positive[0], list(words))
        if answer not in label.positive:
            label.positive, label.negative = [answer], []
    if plan.time is None:
        return
    if "label_delay" not in plan.given:
        label.known = roles.guess_known(columns, plan.ts, label)
        if label.known is None and (ones := roles.guess_known_of_ones(columns, plan.ts, label.y)) is not None:
            label.dated = True
            _wait_for_dates(plan, label, ones, ask)
            return
    if label.known is None:
        guess = format_duration(max(d for d in _DELAYS_S if d <= plan.span_s / 20))
        question, why = "How long after an event is its label known?", "a guess: when do you know the truth?"
        plan.delay_s = _duration("label delay", _answer(plan, ask, "label_delay", why, question, guess))


def _choose_dated_label(plan: Plan, columns: Sequence[Column], ask: Ask) -> None:
    """Choose a date or nothing, such as that of a chargeback, as the label."""
    if plan.time is None:
        return
    question = "No column is a label of two values. Which date, that few rows have, says that the event became a 1?"
    if (column := _which(plan, ask, "label", question, roles.guess_dated_label(columns, plan.ts))) is None:
        return
    plan.label = label = roles.LabelGuess(column, ["*"], usual=False, dated=True)
    if ask is None and "label" not in plan.given:
        plan.guesses["label"] = f"a guess: a later date that {plan.rate:.2%} of the rows have"
    _wait_for_dates(plan, label, column, ask)


def _wait_for_dates(plan: Plan, label: roles.LabelGuess, column: Column, ask: Ask) -> None:
    """Choose how long a date that says a 1 is waited for, until the event is a 0."""
    assert plan.time is not None
    if column.time_format == plan.time.time_format:  # there is one for all times of a task
        label.known = column
    late = roles.late_s(column, plan.ts)
    late = late[np.isfinite(late)]
    # A backtest sees a label an eighth of its delay late at most, and one of days with the next day, whose first rows
    # are still of the day before: until then the event must not be a 0.
    seen_s = 1.125 * float(np.quantile(late, 0.99)) + (0.0 if np.any(plan.ts % DAY_S) else DAY_S)
    most_s = min(seen_s, plan.span_s / 3)
    unit_s = DAY_S if most_s > DAY_S else 3600.0
    guess_s = (np.floor(most_s / unit_s) + 1.0) * unit_s
    guess, later = format_duration(guess_s), float(np.mean(late > guess_s))
    question = f"After how long without a date in {column.name!r} is the event a 0?"
    why = "a guess: nearly all dates come sooner"
    if later > _FEW_LATER:
        why = f"a guess: the data is too short for more, and {later:.0%} of its dates come later"
    plan.delay_s = _duration("label delay", _answer(plan, ask, "label_delay", why, question, guess))
    plan.latest_s = max(float(late.max()), plan.delay_s)


def _tell_versions(plan: Plan, columns: Sequence[Column], table: pa.Table) -> None:
    """Say where rows are versions of others: each would be an event of its own."""
    assert plan.time is not None
    if (c := roles.guess_versions(columns, table, plan.time)) is not None:
        more = len(c.texts) - c.distinct
        why = "with other values at the same time: versions of a row? Then keep one of each"
        plan.left[c.name] = f"{more:,} rows repeat it {why}"
        plan.guesses["event_id"] = f"none, for {more:,} rows repeat {c.name!r} {why}"


def _choose_entities(plan: Plan, columns: Sequence[Column], ask: Ask) -> None:
    """Choose what events are about, and what else that labels are counted by comes again."""
    ranked = roles.guess_entities(columns)
    # Events without a key are not scored at all.
    full = [pair for pair in ranked if pair[1].known >= 0.99]
    plan.main = _which(plan, ask, "entity", "What are events about: which column is its id?", roles.best(full, 1.5))
    if plan.main is not None:
        device = plan.main.words & terms.DEVICE and not plan.main.words & terms.USER
        plan.stream, key = ("device-events", "device_id") if device else ("user-events", "user_id")
        plan.entity, plan.columns[key] = _entity_name(plan.main, set()), plan.main
        if plan.label is None and plan.time is not None and plan.main.distinct >= _MANY:
            guess = "silence" if plan.sample.rows < _OFTEN * plan.main.distinct else "numbers"
            what = f"There is {plan.no_label}. Learn who falls silent, or watch the numbers for what is new?"
            why = f"a guess: {plan.no_label}, so that is learned who falls silent: ids come again"
            plan.silent = _answer(plan, ask, "silence", why, what, guess, ["silence", "numbers"]) == "silence"
            if plan.silent:
                _choose_silence(plan, ask)
    # Labels are what a further entity is counted by: without any it would be a table of rows for nothing.
    others = [c for _, c in ranked if c is not plan.main and c.distinct > _MOST_HASHED and c.words & terms.ENTITY]
    for c in others[: _MOST_SECOND if plan.label is not None else 0]:
        shop = plan.stream == "user-events" and c.words & terms.SHOP and "merchant_id" not in plan.columns
        key = "merchant_id" if shop else _wire_name(c.name, {*plan.columns, plan.entity})
        plan.second[key], plan.columns[key] = _entity_name(c, {plan.entity, *plan.second.values()}), c


def _choose_silence(plan: Plan, ask: Ask) -> None:
    """Choose how long a silence is meant, and when it is asked for."""
    question, why = "After how long a silence is one gone?", "a guess: longer than nine of ten pauses"
    guess = format_duration(plan.usual_silence_s())
    plan.horizon_s = _duration("silence", _answer(plan, ask, "horizon_s", why, question, guess))
    question = f"When is that asked: at {_EACH!r}, or once, so long after the first (such as 5d)?"
    if (answer := _answer(plan, ask, "score", "a guess, or once after the first", question, _EACH)) != _EACH:
        plan.observe_s = _duration("time after the first event", answer)


def _duration(what: str, text: str) -> float:
    try:
        return parse_duration(text)
    except ValueError as exc:
        raise UsageError(f"{what}: {exc}") from None


def _choose_inputs(plan: Plan, columns: Sequence[Column]) -> None:
    """Choose the numbers and texts that tell most of the label, each alone."""
    tells = {c.name: roles.separation(c, plan.label.y) if plan.label is not None else 0.5 for c in columns}
    n, kept, same = len(plan.ts), list[Column](), dict[int, str]()
    for c in columns:
        if (first := same.setdefault(hash(_told(c).tobytes()), c.name)) != c.name:
            plan.left[c.name] = f"it tells the same as {first}"
        elif tells[c.name] < _NOTHING and c.spoken(1)[0][1] > _NEARLY_ALL * n:
            plan.left[c.name] = f"it is {c.spoken(1)[0][0]!r} in more than {_NEARLY_ALL:.1%} of the rows"
        elif c.numbers is not None and c.whole and c.distinct >= 0.95 * n and c.words & terms.ID:
            plan.left[c.name] = "an id of its own for each row"
        elif c.numbers is None and plan.time is not None and _is_clock(c):
            plan.left[c.name] = f"a time of day: a task reads one column of times, so join it with {plan.time.name!r}"
            plan.guesses["time"] = f"{c.name!r} may be the time of these days: join the two, for hours and their order"
        elif c.useful and plan.time is None and (why := why_no_time(c)):
            plan.left[c.name] = why
            plan.guesses["time"] = f"none, though {c.name!r} looks like it: {why}"
        elif c.numbers is None and c.distinct > _MOST_HASHED and (plan.label is None or c.known * n < 5 * c.distinct):
            plan.left[c.name] = f"{c.distinct:,} different texts in {n:,} rows, too many to learn from"
        else:
            kept.append(c)
    for kind, most in (("numbers", _MOST_NUMBERS), ("texts", _MOST_TEXTS)):
        mine = [c for c in kept if c.kind == kind]
        chosen = sorted(mine, key=lambda c: -tells[c.name])[:most]
        for c in mine:
            if c in chosen:
                _add_input(plan, c)
            else:
                plan.left[c.name] = f"the {most} most telling of {len(mine)} {kind} are inputs"
    worth = [name for name in plan.numbers if plan.columns[name].distinct > 5]
    rank = {name: (not plan.columns[name].words & terms.WORTH, -tells[plan.columns[name].name]) for name in worth}
    plan.worth = sorted(worth, key=rank.__getitem__)[:_MOST_WORTH]
    if plan.label is None and not plan.silent and not plan.worth:
        left = "".join(f"; {name}: {why}" for name, why in list(plan.left.items())[:_SHOWN])
        left = f"{'; label: ' + plan.guesses['label'] if 'label' in plan.guesses else ''}{left}"
        raise UsageError(
            f"{', '.join(map(str, plan.sample.paths))}: nothing to learn or to watch: no label, no number that "
            f"changes, and no id that comes again{left}; write a task file by hand, see docs/TASKS.md"
        )


def _told(c: Column) -> FloatVector | IntVector:
    """Its numbers, or texts by their number in order of appearance."""
    if c.numbers is not None:
        return c.numbers
    codes: IntVector = np.asarray(pc.dictionary_encode(c.texts.combine_chunks()).indices.fill_null(-1), np.int64)
    return codes


def _add_input(plan: Plan, c: Column) -> None:
    # The wire has one field `amount`, by which costs are weighed.
    money = plan.stream == "user-events" and "amount" not in plan.columns and _is_money(c)
    taken = {*plan.columns, plan.entity}
    name = "amount" if money else _own_field(plan, c, taken) or _wire_name(c.name, taken)
    plan.columns[name] = c
    if c.numbers is not None:
        plan.numbers.append(name)
    elif c.distinct == 2 and _MARK.fullmatch(word := c.spoken(2)[1][0]):
        plan.flags[name] = word
    elif c.distinct <= _MOST_HASHED:
        plan.hashed.append(name)
    else:
        plan.target.append(name)


def _own_field(plan: Plan, c: Column, taken: set[str]) -> str:
    """The field of events that a text of this name is, such as ``channel``; "" for none."""
    name = c.name.lower()
    if c.numbers is not None or name in taken or name not in _WORD_FIELDS[plan.stream]:
        return ""
    # A longer one would refuse its event, and a sample may not hold the longest.
    return name if 2 * pc.max(pc.utf8_length(c.texts)).as_py() <= WORD_CHARS else ""


def _is_clock(c: Column) -> bool:
    """Whether its values are times of day."""
    return bool(pc.all(pc.match_substring_regex(c.texts.drop_null(), _CLOCK)).as_py())


def _is_money(c: Column) -> bool:
    """Whether it can be the wire's ``amount``, of which one that cannot be read refuses its row."""
    if c.numbers is None or not c.words & terms.MONEY:
        return False
    unread = np.isnan(c.numbers) & np.asarray(pc.is_valid(c.texts))
    return not unread.any() and bool(np.nanmax(np.abs(c.numbers)) < DEFAULT_LIMITS.amount)


def _entity_name(c: Column, taken: set[str]) -> str:
    """A name for what an id is of: ``customer`` for ``CUSTOMER_ID``."""
    *within, own = re.split(r"\.(?=\w)", c.name)
    kept = [word for word in re.split(r"[\W_]+", own) if word.lower() in c.words - terms.ID]
    if within and c.words <= terms.ID | {"serial"}:  # of a struct: customer.id
        kept = within[-1:]
    return _wire_name(" ".join(kept) or c.name, taken)


def _wire_name(name: str, taken: set[str]) -> str:
    """A name that the task can use in formulas: letters, digits and _, not taken and no word of formulas.

    >>> _wire_name("Betrag in EUR", set()), _wire_name("ts", set()), _wire_name("größe", {"grosse"})
    ('betrag_in_eur', 'ts_', 'grosse_')
    """
    plain = unicodedata.normalize("NFKD", name.replace("ß", "ss")).encode("ascii", "ignore").decode()
    plain = re.sub(r"[^a-z0-9]+", "_", plain.lower()).strip("_")[:40] or "column"
    plain = plain if plain[0].isalpha() else f"c_{plain}"
    # Names of the wire and of formulas: a column "hour" would hide the hour.
    taken = taken | _TAKEN
    tried = [plain, f"{plain}_", *(f"{plain}_{k}" for k in range(2, 1000))]
    return next(t for t in tried if t not in taken and not keyword.iskeyword(t))
