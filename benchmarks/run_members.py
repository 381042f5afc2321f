"""`auto` beside each of its members alone, on the six protocols that have labels.

Run: ``python -m benchmarks.run_members [--part before|judged] [--only NAME] [--learner JSON] [--shared PATH]`` from the
repository's root; all six sets take some 15 minutes of one core. Of each set one backtest with `auto` is recorded
(``benchmarks/recorded.py``); every learner is then replayed over it, so that all see the same features, labels and
delays, also where the protocol's task file names another model. `auto` is as ``weir init`` writes it: with ``lag = 0``
where labels are known before the next row (Elec2). ``before`` are the rows before the judged ones, to choose by;
``judged`` are those of the evaluators: of churn and Elec2, where they judge the whole stream, the part on which no
setting was chosen.

Prints how far `auto` is from its own backtest, AP, AUC and ECE of every learner, and what `auto` has more than the
best member by each of the two, with an interval of 95 % (paired bootstrap of entities, or of days where all rows are of
one). The last line is JSON. Recordings are kept in ``--out``: remove them after a change of features.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import runpy
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from numpy.typing import NDArray

if not __package__:  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.protocol_list import HERE, PROTOCOLS, VALIDATION_WEEKS, Protocol
from benchmarks.recorded import Recording, record
from weir.online.batch import BoolVector, FloatVector, IntVector
from weir.online.learners.factory import LearnerSpec, members_of
from weir.streams.task_files import load_task
from weir.streams.workbench.measures import bootstrap, interval, measure, reliability

AUTO: Final = LearnerSpec(kind="auto")
AT_ONCE: Final = LearnerSpec(kind="auto", params={"lag": 0})
_DAY_S: Final = 86_400.0
_LATE_S: Final = 21 * _DAY_S
"""How long before the end of the data a row of the judged part is mature (SOURCE.md of the bookings)."""


@dataclass(frozen=True, slots=True)
class Rows:
    """The k rows of a part of a set."""

    at: IntVector
    """``(k,)`` places in the recording."""
    y: BoolVector
    fold: IntVector
    """AP and AUC are means over folds, as the evaluator takes them."""
    unit: NDArray[Any]
    """What the bootstrap draws."""
    turned: bool = False
    """Whether it is the label 0 that is to be found: ``y`` says so already, scores are turned."""


Pick = Callable[[Recording, Path, Path, bool], Rows]
"""Rows of a recording, by its data file, the evaluator's script, and whether the judged ones are asked for."""


def _marked(since: float, by_day: bool = False) -> Pick:
    """Rows by the data's own mark; those before it from ``since`` on, when something was learned."""

    def pick(r: Recording, data: Path, evaluator: Path, judged: bool) -> Rows:
        del evaluator  # which rows it judges is a column of the data
        marks = pq.read_table(data, columns=["row", "judged"])
        marked = np.zeros(len(marks), np.bool_)
        marked[np.asarray(marks["row"])] = np.asarray(marks["judged"])
        mine = marked[r.event_id.astype(np.int64)]
        if not judged:
            # Of others a cancellation is known by the end of the data and a stay is not, as in the judged part.
            mature = r.matures_at <= r.ts.max() - _LATE_S
            mine = (r.ts >= since) & (r.ts < r.ts[mine].min()) & mature & ~np.isnan(r.label)
        at = np.flatnonzero(mine)
        unit = np.floor(r.ts[at] / _DAY_S) if by_day else r.entity_id[at]
        return Rows(at, r.label[at] == 1, np.zeros(len(at), np.int64), unit)

    return pick


def _fraud(r: Recording, data: Path, evaluator: Path, judged: bool) -> Rows:
    """The cards that the evaluator leaves in each of four weeks."""
    protocol = runpy.run_path(str(evaluator))
    weeks = protocol["BOOK_WEEKS"] if judged else VALIDATION_WEEKS
    transactions = protocol["load_transactions"]([data])
    parts = [protocol["test_set"](transactions, pd.Timestamp(week)) for week in weeks]
    chosen = pd.concat(parts)
    place = pd.Series(np.arange(len(r.event_id)), index=r.event_id.astype(np.int64))
    fold = np.repeat(np.arange(len(parts)), [len(part) for part in parts])
    at = place[chosen.TRANSACTION_ID].to_numpy()
    return Rows(at, chosen.TX_FRAUD.to_numpy() == 1, fold, r.entity_id[at])


def _churn(r: Recording, data: Path, evaluator: Path, judged: bool) -> Rows:
    """Eligible players, from the second half of the log; who stays is the rarer class."""
    protocol = runpy.run_path(str(evaluator))
    players = protocol["labels"](protocol["read_csv"](data, ["device", "time"]))
    late = players["first"] >= protocol["parse_time"]("2015-06-01")
    chosen = players[late if judged else ~late]
    place = pd.Series(np.arange(len(r.entity_id)), index=r.entity_id)
    at = place[chosen.index.astype(str)].to_numpy()
    return Rows(at, chosen.churn.to_numpy() == 0, np.zeros(len(at), np.int64), r.entity_id[at], turned=True)


def _elec2(r: Recording, data: Path, evaluator: Path, judged: bool) -> Rows:
    """The last 60 % of the stream, or the first 40 %."""
    del data, evaluator
    cut = int(len(r.ts) * 0.4)
    at = np.arange(cut, len(r.ts)) if judged else np.arange(cut)
    return Rows(at, r.label[at] == 1, np.zeros(len(at), np.int64), np.floor(r.ts[at] / _DAY_S))


SETS: Final[dict[str, tuple[str, LearnerSpec, Pick]]] = {
    "fraud": ("fraud_handbook", AUTO, _fraud),
    "churn": ("churn_dodge_the_mud", AUTO, _churn),
    "elec2": ("online_elec2", AT_ONCE, _elec2),
    "drives": ("device_backblaze", AUTO, _marked(1_380_585_600.0)),
    "bookings": ("churn_bookings", AUTO, _marked(1_441_065_600.0, by_day=True)),
    "lapse": ("retail_lapse", AUTO, _marked(1_489_536_000.0)),
}
"""By name: the protocol, its `auto`, and its rows."""


def recording(protocol: Protocol, auto: LearnerSpec, shared: Path, out: Path) -> Recording:
    """What a backtest with `auto` showed it; the kept one of the same task file, learner and members."""
    told = f"{protocol.task.read_text()}{auto}{members_of(auto)}"
    path = out / f"{protocol.name}-{hashlib.sha256(told.encode()).hexdigest()[:12]}.npz"
    if not path.is_file():
        task = load_task(protocol.task).model_copy(update={"model": auto})
        record(task, protocol.data_in(shared)).save(path)
    return Recording.load(path)


def title(spec: LearnerSpec) -> str:
    """A learner in a word or some.

    >>> title(LearnerSpec(kind="boosted", params={"depth": 3}))
    'boosted depth=3'
    """
    mixed = f"of {len(spec.members)}" if spec.members else ""
    return " ".join(filter(None, [spec.kind, mixed, *(f"{k}={v:g}" for k, v in spec.params.items())]))


def judge(rows: Rows, scores: Sequence[FloatVector]) -> tuple[list[dict[str, float]], dict[str, NDArray[np.float64]]]:
    """AP, AUC and ECE of each, and the first two over resamples, ``(S, resamples)``."""
    taken = [1.0 - s[rows.at] if rows.turned else s[rows.at] for s in scores]
    names = {"ap": "average_precision", "auc": "roc_auc"}
    folds = [np.flatnonzero(rows.fold == fold) for fold in np.unique(rows.fold)]
    drawn = [bootstrap(rows.y[of], [s[of] for s in taken], rows.unit[of], seed=k) for k, of in enumerate(folds)]
    found = []
    for s in taken:
        measured = [measure(rows.y[of], s[of]) for of in folds]
        means = {short: float(np.mean([m[name] for m in measured])) for short, name in names.items()}
        found.append({**means, "ece": reliability(rows.y, s).ece})
    return found, {short: np.mean([d[name] for d in drawn], axis=0) for short, name in names.items()}


def compare(name: str, rows: Rows, r: Recording, specs: Sequence[LearnerSpec], recorded: LearnerSpec) -> dict[str, Any]:
    """Replay learners, the first of which is compared with the best of the others; print the table."""
    scores = [r.replay(spec) for spec in specs]
    found, drawn = judge(rows, scores)
    units = len(np.unique(rows.unit))
    print(f"\n{name}: {len(rows.at):,} rows, {int(rows.y.sum()):,} positives, {len(r.y):,} examples learned")
    for spec, one in zip(specs, found, strict=True):
        print(f"  {title(spec):<46}" + "".join(f"{one[m]:>9.4f}" for m in ("ap", "auc", "ece")), flush=True)
    more: dict[str, Any] = {}
    for measured in ("ap", "auc"):
        best = 1 + int(np.argmax([one[measured] for one in found[1:]]))
        gap = interval(found[0][measured] - found[best][measured], drawn[measured][0] - drawn[measured][best], units)
        more[measured] = {"best": title(specs[best]), "more": gap.value, "low": gap.low, "high": gap.high}
        print(f"  {measured} more than {title(specs[best])}: {gap.value:+.4f} ({gap.low:+.4f} to {gap.high:+.4f})")
    learners = {title(spec): one for spec, one in zip(specs, found, strict=True)}
    own = float(np.abs(scores[0] - r.score).max()) if specs[0] == recorded else None
    if own is not None:
        print(f"  replayed and backtested scores differ by {own:g} at most")
    return {"rows": len(rows.at), "positives": int(rows.y.sum()), "replay_off": own, "learners": learners, "more": more}


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_members", description=__doc__.split("\n")[0])
    parser.add_argument("--part", choices=("before", "judged"), default="before", help="which rows")
    parser.add_argument("--only", choices=SETS, action="append", help="repeatable")
    parser.add_argument("--learner", action="append", default=[], metavar="JSON",
                        help="another learner, as a task's [model] says it; repeatable. The first takes the place of "
                        "auto, and its members that of auto's own")  # fmt: skip
    parser.add_argument("--shared", type=Path, default=HERE.parents[1] / "shared", help="folder of data/ and eval/")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "members", help="recordings are kept here")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    options = _options(argv)
    shared, out = options.shared.resolve(), options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    given = [LearnerSpec.model_validate_json(text) for text in options.learner]
    protocols, found = {p.name: p for p in PROTOCOLS}, {}
    for name in options.only or SETS:
        of, auto, pick = SETS[name]
        protocol = protocols[of]
        data = protocol.data_in(shared)
        if not data.is_file():
            print(f"error: no file {data}: name the folder that holds data/ and eval/ with --shared PATH",
                  file=sys.stderr)  # fmt: skip
            return 2
        kept = recording(protocol, auto, shared, out)
        rows = pick(kept, data, shared / "eval" / protocol.evaluator, options.part == "judged")
        first, *others = given or [auto]
        found[name] = compare(name, rows, kept, [first, *members_of(first), *others], auto)
    print(json.dumps({"benchmark": "members", "part": options.part, "sets": found}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
