"""What a stranger reaches with ``weir init`` and ``weir tune``, beside the hand-written task files of the protocols.

Run: ``python -m benchmarks.run_tune [--only NAME] [--minutes N] [--processes N] [--shared PATH] [--out DIR]`` from the
repository's root. Of each set the data is profiled with every guess taken, but for what the table names as answered;
the draft is tuned on the rows before the judged ones; then the draft, the recommended file and the hand-written one
run over all data, and average precision is taken of the same judged rows: the test part that the set's SOURCE.md names,
else the last fifth. Nothing is chosen on them. The column that marks judged rows is taken out of the data first.

What is done is kept in ``--out``: the same command goes on, a study too. It prints a JSON line a set, the table, and
the exit status is 1 where fewer than five sets reach .97. CPU are the minutes that the search
computed in all its processes: of 20 minutes of two on a machine that does nothing else they are 40.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.protocol_list import HERE, PROTOCOLS, Protocol
from benchmarks.run_protocols import CLI, ROOT
from weir.streams.backtest.outcomes import Keep
from weir.streams.backtest.runner import run_backtest
from weir.streams.errors import WeirError
from weir.streams.task_files import load_task
from weir.streams.workbench.measures import MIN_UNITS, bootstrap, interval, measure
from weir.streams.workbench.profile.draft import draft_task

TO_REACH, SETS_TO_REACH = 0.97, 5
_SIDES: Final = ("hand", "tuned", "init")
_MARK: Final = "judged"
"""Column of a data file that says what the protocol judges: no column of a stranger's table."""


@dataclass(frozen=True, slots=True)
class Problem:
    """A set of data with labels.

    Parameters
    ----------
    name : what it is called here.
    protocol : whose hand-written task file is the measure.
    since : first judged moment that SOURCE.md names, epoch seconds; ``None``: the last fifth of the rows.
    answers : what a person says to a question of ``weir init`` that begins so; the guess is taken of all others.
    """

    name: str
    protocol: str
    since: float | None = None
    answers: Mapping[str, str] = field(default_factory=dict)


PROBLEMS: Final = (
    Problem("drives", "device_backblaze", 1_414_454_400.0),
    Problem("fraud", "fraud_handbook", 1_533_686_400.0),
    Problem("churn", "churn_dodge_the_mud", None, {"After how long a silence": "10d", "When is that asked": "5d"}),
    Problem("lapse", "retail_lapse", 1_498_694_400.0),
    Problem("bookings", "churn_bookings", 1_461_456_000.0),
    Problem("elec2", "online_elec2"),
)


@dataclass(frozen=True, slots=True)
class Bench:
    """One problem, with where its data lies and where its files are kept."""

    problem: Problem
    protocol: Protocol
    source: Path
    folder: Path

    @property
    def data(self) -> Path:
        """What a stranger would have: the file without the protocol's own mark."""
        if self.source.suffix != ".parquet" or _MARK not in pq.read_schema(self.source).names:
            return self.source
        path = self.folder / self.source.name
        if not path.is_file():
            pq.write_table(pq.read_table(self.source).drop_columns([_MARK]), path)
        return path

    def marked(self) -> set[str] | None:
        """Ids of the rows that the protocol judges; ``None`` where it is all of a time."""
        if self.data == self.source:
            return None
        table = pq.read_table(self.source, columns=["row", _MARK])
        return {str(row) for row in table.filter(table[_MARK])["row"].to_pylist()}

    def draft(self) -> Path:
        """The task file of ``weir init``."""
        path, answers = self.folder / "init.toml", self.problem.answers

        def ask(question: str, guess: str, _: Sequence[str]) -> str:
            return next((said for begins, said in answers.items() if question.startswith(begins)), guess)

        path.write_text(draft_task([self.data], self.problem.name, ask if answers else None).text)
        return path

    def share(self, task: Path) -> float:
        """The share of the rows that is judged."""
        spec = load_task(task).source
        if self.problem.since is None or spec is None or spec.time is None:
            return 0.2
        column = pq.read_table(self.source, columns=[spec.time])[0]
        if pa.types.is_timestamp(column.type):
            column = column.cast(pa.timestamp("us")).cast(pa.int64())
            ts = np.asarray(column) / 1e6
        else:
            ts = np.asarray(column, np.float64)
        return float((ts >= self.problem.since).mean())

    def tune(self, task: Path, minutes: float, processes: int) -> tuple[Path, float, dict[str, Any]]:
        """The file that ``weir tune`` recommends, the first moment that it did not read, and what the search took."""
        digest, log = _digest(task.read_text(), str(minutes)), self.folder / "tune.log"
        out, kept, share = self.folder / f"tuned-{digest}.toml", self.folder / f"tuned-{digest}.json", self.share(task)
        if not kept.is_file():
            before = resource.getrusage(resource.RUSAGE_CHILDREN)
            with log.open("w") as said:
                command = [*CLI, "tune", str(task), "--data", str(self.data), "--minutes", str(minutes), "--judge"]
                command += [repr(share), "--processes", str(processes), "--out", str(out)]
                command += ["--study", str(self.folder / f"{digest}.journal")]
                subprocess.run(command, cwd=ROOT, check=True, stdout=said, stderr=subprocess.STDOUT)
            after, words = resource.getrusage(resource.RUSAGE_CHILDREN), log.read_text()
            trials = re.search(r"(?:best|none) of (\d+)", words)
            took = {"minutes": minutes, "cpu_minutes": (after.ru_utime - before.ru_utime) / 60,
                    "load": os.getloadavg()[1], "trials": int(trials[1]) if trials else 0}  # fmt: skip
            kept.write_text(json.dumps(took))
        return out, share, json.loads(kept.read_text())

    def scored(self, task: Path) -> pa.Table:
        """Every row that a task scored, with its label; kept for the next time."""
        path = self.folder / f"{_digest(task.read_text())}.scores.parquet"
        if not path.is_file():
            done = run_backtest(load_task(task), [self.data], None, keep=Keep(outcomes=True, late_labels=True))
            assert done.outcomes is not None
            pq.write_table(done.outcomes.table().select(["event_id", "entity_id", "ts", "score", "label"]), path)
        return pq.read_table(path)


def _digest(*texts: str) -> str:
    return hashlib.sha256("\n".join(texts).encode()).hexdigest()[:12]


def judged(bench: Bench, tables: Sequence[pa.Table], share: float) -> dict[str, Any]:
    """Average precision and ROC AUC of each side on the same rows, and the ratio to the first with its interval.

    Labels are those that the first side knows. Where more than half of them are 1 it is the other value that is to be
    found, as in the protocol.
    """
    frames = [t.to_pandas() for t in tables]
    key = ["event_id"] if all(f.event_id.is_unique for f in frames) else ["entity_id", "event_id"]
    rows = frames[0].dropna(subset=["label"])
    since = bench.problem.since
    rows = rows[rows.ts >= (rows.ts.quantile(1 - share) if since is None else since)]
    if (marked := bench.marked()) is not None:
        rows = rows[rows.event_id.isin(marked)]
    for k, other in enumerate(frames[1:], 1):
        rows = rows.merge(other[[*key, "score"]].rename(columns={"score": f"score_{k}"}), on=key, validate="1:1")
    y: NDArray[np.bool_] = rows.label.to_numpy() == 1
    scores = [rows[name].to_numpy() for name in ("score", *(f"score_{k}" for k in range(1, len(frames))))]
    if y.mean() > 0.5:
        y, scores = ~y, [1.0 - s for s in scores]
    units = rows.entity_id.to_numpy().astype(str)
    if len(np.unique(units)) < MIN_UNITS:
        units = np.floor(rows.ts.to_numpy() / 86_400.0)
    drawn = bootstrap(y, scores, units)["average_precision"]
    found = [measure(y, s) for s in scores]
    told = {side: {"ap": m["average_precision"], "auc": m["roc_auc"]} for side, m in zip(_SIDES, found, strict=False)}
    count = len(np.unique(units))
    for k, side in enumerate(_SIDES[1 : len(frames)], 1):
        ratio = interval(told[side]["ap"] / told["hand"]["ap"], drawn[k] / drawn[0], count)
        told[side] |= {"ratio": ratio.value, "low": ratio.low, "high": ratio.high}
    return {"rows": len(y), "positives": int(y.sum()), **told}


def run_one(bench: Bench, minutes: float, processes: int, *, drafts: bool) -> dict[str, Any]:
    """Draft, tune and judge one problem; with ``drafts`` the draft, too."""
    bench.folder.mkdir(parents=True, exist_ok=True)
    draft = bench.draft()
    tuned, share, took = bench.tune(draft, minutes, processes)
    tables = [bench.scored(task) for task in (bench.protocol.task, tuned, *([draft] if drafts else []))]
    return {"benchmark": "tune", "set": bench.problem.name, "answered": dict(bench.problem.answers), **took,
            **judged(bench, tables, share)}  # fmt: skip


_COLUMNS: Final = (
    "set",
    "rows",
    "positives",
    "hand",
    "init",
    "tuned",
    "ratio",
    "95 %",
    "AUC",
    "minutes",
    "CPU",
    "tried",
)


def show(found: Sequence[Mapping[str, Any]]) -> None:
    """The table: average precision of each side, the ratio of the tuned to the hand-written, and what it took."""
    rows = [(*_COLUMNS, "answered")]
    for f in found:
        hand, tuned = f["hand"], f["tuned"]
        said = ", ".join(f"{question} ...? {answer}" for question, answer in f["answered"].items()) or "--yes"
        rows.append((
            f["set"], f"{f['rows']:,}", f"{f['positives']:,}", f"{hand['ap']:.3f}",
            f"{f['init']['ap']:.3f}" if "init" in f else "-", f"{tuned['ap']:.3f}", f"{tuned['ratio']:.3f}",
            f"{tuned['low']:.3f} .. {tuned['high']:.3f}", f"{hand['auc']:.3f} {tuned['auc']:.3f}",
            f"{f['minutes']:.0f}", f"{f['cpu_minutes']:.1f}", str(f["trials"]), said,
        ))  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_tune", description=__doc__.split("\n")[0])
    parser.add_argument("--only", choices=[p.name for p in PROBLEMS], action="append", help="repeatable")
    parser.add_argument("--minutes", type=float, default=20.0, help="of each search")
    parser.add_argument("--processes", type=int, default=2, help="of each search")
    parser.add_argument("--drafts", action="store_true", help="judge what weir init wrote, too")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of data/")
    parser.add_argument("--out", type=Path, default=HERE / "out" / "tune", help="what is done is kept here")
    parser.add_argument("--keep-going", action="store_true", help="a set that fails stops no other")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    options = _options(argv)
    protocols, found, failed = {p.name: p for p in PROTOCOLS}, [], 0
    for problem in (p for p in PROBLEMS if options.only is None or p.name in options.only):
        protocol = protocols[problem.protocol]
        source, folder = protocol.data_in(options.shared.resolve()), options.out.resolve() / problem.name
        if not source.is_file():
            print(f"error: no file {source}: name the folder that holds data/ with --shared PATH", file=sys.stderr)
            return 2
        try:
            found.append(run_one(Bench(problem, protocol, source, folder), options.minutes, options.processes,
                                 drafts=options.drafts))  # fmt: skip
            print(json.dumps(found[-1]), flush=True)
        except (WeirError, OSError, ValueError, subprocess.CalledProcessError) as exc:
            if not options.keep_going:
                raise
            failed += 1
            print(f"{problem.name}: {exc!r}; see {folder}", file=sys.stderr)
    show(found)
    reached = sum(f["tuned"]["ratio"] >= TO_REACH for f in found)
    return int(failed > 0 or reached < min(SETS_TO_REACH, len(found)))


if __name__ == "__main__":
    sys.exit(main())
