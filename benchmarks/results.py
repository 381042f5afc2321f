"""Writes RESULTS.md: what was asked and reached, what each run cost, and each data set's tables and caveats.

It knows outcomes and published rows, not how they came about. The page holds no date and no machine's name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks import published, resultnotes
from benchmarks.protocol_list import Protocol
from benchmarks.published import NAB_PROFILES, Row

Outcomes = Mapping[str, dict[str, Any] | None]
"""By protocol: an outcome as JSON has it, ``None`` where there is none."""

_HEAD = """# Results on the published protocols

Written by `make bench-protocols` (`python -m benchmarks.run_protocols`), which runs each task of
[protocols/](protocols) once through `weir backtest` and hands the scores to the evaluators of the shared folder. One
pass in event time; every row is scored before anything is learned from it, and no label is used before its delay has
passed. Online models only, on the CPU. Rows in **bold** are Weir's; the others are published or re-run by others, as
their source says. The notes under each table say where its rows are not like for like.
"""


def render(protocols: Sequence[Protocol], outcomes: Outcomes, shared: Path, cores: int) -> str:
    """The page as Markdown."""
    parts = [
        _HEAD,
        "## What was asked",
        _targets(protocols, outcomes),
        "## What the runs cost",
        _costs(outcomes, cores),
    ]
    for protocol in protocols:
        title, section = _SECTIONS[protocol.name]
        parts.append(f"## {title}")
        outcome = outcomes.get(protocol.name)
        if outcome is None:
            parts.append("Not run with this task file.")
        elif outcome["error"] is not None:
            parts.append(f"Failed: `{outcome['error']}`")
        else:
            parts += section(outcome, shared)
        parts.append(_reproduce(protocol))
    return "\n\n".join(part.strip() for part in parts) + "\n"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table; the columns between the first and the last are numbers.

    >>> print(table(("who", "AUC", "source"), [("me", ".5", "here")]))
    | who | AUC | source |
    |---|---:|---|
    | me | .5 | here |
    """
    rule = ["---", *["---:"] * (len(head) - 2), "---"]
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(rule)}|", *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def number(value: float | None, digits: int) -> str:
    """A number as the tables show it; a share loses its leading zero.

    >>> number(0.8765, 3), number(67.44, 1), number(20000.0, 0), number(None, 3)
    ('.876', '67.4', '20,000', '')
    """
    if value is None:
        return ""
    text = f"{value:,.{digits}f}"
    return text.replace("0.", ".", 1) if digits >= 3 and text.startswith(("0.", "-0.")) else text


def _rows(rows: Sequence[Row], digits: int) -> list[list[str]]:
    return [[r.name, *(number(v, digits) for v in r.values), r.source] for r in rows]


def _weir(name: str, values: Sequence[float | None], digits: int, note: str) -> list[str]:
    return [f"**{name}**", *(f"**{number(v, digits)}**" if v is not None else "" for v in values), note]


def _targets(protocols: Sequence[Protocol], outcomes: Outcomes) -> str:
    rows = []
    for protocol in protocols:
        outcome = outcomes.get(protocol.name) or {"evaluations": {}, "run": {}, "error": "not run"}
        found = {**outcome["evaluations"], "run": outcome["run"]} if outcome["error"] is None else {}
        for t in protocol.targets:
            got = t.measured(found)
            verdict = "not measured" if got is None else "reached" if got >= t.at_least else "**short**"
            asked = number(t.at_least, t.digits)
            rows.append([protocol.name, t.measure, number(got, t.digits), asked, t.best_published, verdict])
    return table(("data set", "measure", "Weir", "asked at least", "best published", "verdict"), rows)


def _costs(outcomes: Outcomes, cores: int) -> str:
    rows = []
    for name, outcome in outcomes.items():
        run = outcome["run"] if outcome is not None else {}
        if run:
            counts = [f"{run[k]:,}" for k in ("rows", "rejected", "scored", "labelled", "model_version")]
            times = [f"{run['wall_s']:.1f}", f"{run['cpu_s']:.1f}", number(run["rows_per_s"], 0)]
            rows.append([name, *counts, *times, f"{len(run['features'])} inputs"])
    head = ("data set", "rows", "rejected", "scored", "labelled", "learned", "wall s", "CPU s", "rows/s", "model")
    return f"{table(head, rows)}\n\n{resultnotes.COSTS.format(cores=cores).strip()}"


def _reproduce(protocol: Protocol) -> str:
    name, data = protocol.name, str(protocol.data_in(Path("../shared")))
    lines = [
        f"python -m benchmarks.run_protocols --only {name}  # which runs:",
        f"weir backtest benchmarks/protocols/{name}.toml --data {data} \\",
        f"  --scores benchmarks/out/{name}.scores.parquet --report benchmarks/out/{name}.report.json",
    ]
    for extra in protocol.calls.values():
        call = ["python", f"../shared/eval/{protocol.evaluator}", "--scores"]
        told = (part.format(data=data) for part in extra)
        lines.append(" ".join([*call, f"benchmarks/out/{name}.eval{protocol.suffix}", *told]))
    return "Reproduce:\n\n```sh\n" + "\n".join(lines) + "\n```"


def _fraud(outcome: dict[str, Any], shared: Path) -> list[str]:
    measures = ("auc_roc", "average_precision", "card_precision_100")
    weeks = outcome["evaluations"]

    def means(label: str) -> list[float]:
        return [weeks[label]["result"][m]["mean"] for m in measures]

    spread = "±".join(("", " / ".join(number(weeks["test"]["result"][m]["std"], 3) for m in measures)))
    ours = [_weir("Weir, online", means("test"), 3, f"this run; {spread} over the weeks")]
    head = ("model", "ROC AUC", "AP", "CP@100", "source")
    folds = [
        [kind, f["first_test"], f"{f['transactions']:,}", f"{f['frauds']}", *(number(f[m], 3) for m in measures), "7"]
        for kind in ("validation", "test")
        for f in weeks[kind]["folds"]
    ]
    folds.append(["**validation**", "mean", "", "", *(f"**{number(v, 3)}**" for v in means("validation")), "28"])
    folds.append(["**test**", "mean", "", "", *(f"**{number(v, 3)}**" for v in means("test")), "28"])
    by_week = ("weeks", "first day", "transactions", "frauds", "ROC AUC", "AP", "CP@100", "days")
    m = outcome["run"].get("metrics", {})
    notes = resultnotes.FRAUD.format(features=len(outcome["run"].get("features", ())) or "?", own=_own(m))
    return [table(head, [*ours, *_rows(published.fraud(shared), 3)]), table(by_week, folds), notes]


def _said(outcome: dict[str, Any]) -> dict[str, Any]:
    """The result of each evaluator call, by its label."""
    return {label: said["result"] for label, said in outcome["evaluations"].items() if "result" in said}


def _own(metrics: dict[str, float]) -> str:
    """Weir's own prequential metrics, as words."""
    names = {"roc_auc": "ROC AUC", "average_precision": "AP", "log_loss": "log loss", "brier": "Brier", "ece": "ECE"}
    return ", ".join(f"{words} {number(metrics[k], 4)}" for k, words in names.items() if k in metrics) or "not kept"


def _churn(outcome: dict[str, Any], shared: Path) -> list[str]:
    found = _said(outcome)
    whole, late = found["all"], found["late"]
    ours = [
        _weir("Weir, online", (whole["auc"], whole["ap_stay"]), 4, f"this run; all {whole['eligible']:,} players"),
        _weir(
            "Weir, online, later players", (late["auc"], late["ap_stay"]), 4,
            f"this run; the {late['eligible']:,} players first seen since 2015-06-01",
        ),
    ]  # fmt: skip
    rows = [*ours, *_rows(published.churn(shared), 3)]
    return [table(("model", "ROC AUC", 'AP of "stay"', "source"), rows), resultnotes.CHURN.format(**whole)]


def _nab(outcome: dict[str, Any], shared: Path) -> list[str]:
    found = _said(outcome)

    def ours(label: str, kind: str) -> list[float | None]:
        return [found[label][p][kind]["score"] for p in NAB_PROFILES]

    at = found["all"]["standard"]["fixed"]
    head = ("detector", "standard", "low FP", "low FN", "source")
    rows = [
        _weir("Weir, the scoreboard's threshold rule", ours("all", "optimised"), 1, "this run; comparable"),
        _weir(f"Weir, threshold {at['threshold']:g} for all profiles", ours("all", "fixed"), 1, "this run; stricter"),
    ]
    known = [
        _weir("Weir, threshold rule on these 7 files", ours("known", "optimised"), 1, "this run"),
        _weir(f"Weir, threshold {at['threshold']:g}", ours("known", "fixed"), 1, "this run"),
    ]
    notes = resultnotes.NAB.format(
        **at, windows=outcome["evaluations"]["all"]["windows"], **outcome["evaluations"]["extra"]
    )
    return [
        table(head, [*rows, *_rows(published.nab(shared), 1)]),
        "The 7 files of known cause (`realKnownCause/`) alone; nothing published is split so:",
        table(head, known),
        notes,
    ]


def _elec2(outcome: dict[str, Any], shared: Path) -> list[str]:
    r, extra = outcome["evaluations"]["all"]["result"], outcome["evaluations"]["extra"]
    note = f"this run; kappa {number(r['kappa'], 4)}, kappa-temporal {number(r['kappa_temporal'], 4)}"
    rows = [_weir("Weir, online stack", (r["accuracy"], r["f1_up"]), 4, note), *_rows(published.elec2(shared), 4)]
    shares = {k: number(extra[k], 4) for k in ("late_accuracy", "late_last_class")}
    notes = resultnotes.ELEC2.format(last=number(r["last_class_accuracy"], 4), **shares)
    return [table(("model", "accuracy", "F1 of UP", "source"), rows), notes]


def _late(baselines: Callable[[], list[Row]]) -> Callable[[dict[str, Any], Path], list[str]]:
    """The section of rows whose labels are known after a time of their own."""

    def section(outcome: dict[str, Any], _: Path) -> list[str]:
        r = outcome["evaluations"]["all"]["result"]
        note = f"this run; {r['rows']:,} judged rows, log loss {number(r['log_loss'], 4)}, ECE {number(r['ece'], 4)}"
        rows = [_weir("Weir, online", (r["auc"], r["average_precision"]), 3, note), *_rows(baselines(), 3)]
        return [table(("model", "ROC AUC", "AP", "source"), rows), resultnotes.LATE]

    return section


def _smap(outcome: dict[str, Any], _: Path) -> list[str]:
    r = outcome["evaluations"]["all"]["result"]
    note = f"this run; mean over {r['entities']} channels"
    rows = [_weir("Weir, state", (r["auc"], r["average_precision"], r["event_f1"]), 3, note)]
    return [table(("score", "ROC AUC", "AP", "event F1", "source"), [*rows, *_rows(published.smap(), 3)])]


_SECTIONS: Mapping[str, tuple[str, Callable[[dict[str, Any], Path], list[str]]]] = {
    "fraud_handbook": ("Fraud Detection Handbook", _fraud),
    "churn_dodge_the_mud": ("Dodge the Mud (churn)", _churn),
    "device_nab": ("Numenta Anomaly Benchmark", _nab),
    "online_elec2": ("Elec2", _elec2),
    "device_smap_msl": ("SMAP and MSL (states of spacecraft)", _smap),
    "churn_bookings": ("Hotel bookings that are cancelled", _late(published.bookings)),
    "retail_lapse": ("Households that lapse", _late(published.lapse)),
    "device_backblaze": ("Disk drives that fail", _late(published.drives)),
}
