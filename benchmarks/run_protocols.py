"""Runs every published protocol through ``weir backtest``, judges the scores and writes RESULTS.md.

Run: ``python -m benchmarks.run_protocols [--only NAME] [--shared PATH] [--skip-run]`` from the repository's root. Each
task of ``benchmarks/protocols`` runs once over its data in the command line's own process; the evaluators of the
shared folder judge the scores. Intermediate files go to ``benchmarks/out``. The last line printed is one JSON object;
the exit status is 1 when a protocol failed and 2 when there is nothing to run on.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

if not __package__:  # run as a file rather than with -m
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.protocol_list import HERE, PROTOCOLS, Protocol
from benchmarks.results import render
from benchmarks.scoreformats import convert_file

ROOT = HERE.parent
CLI = (sys.executable, "-P", "-m", "weir.streams.cli.main")


class ProtocolFailedError(Exception):
    """A step of one protocol did not work; the others still run."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one protocol came to; kept as JSON beside its scores."""

    name: str
    task_digest: str
    """Of the task file that was run: an outcome of another one is not shown."""
    run: dict[str, Any] = field(default_factory=dict)
    evaluations: dict[str, Any] = field(default_factory=dict)
    error: str | None = None

    def reached(self, protocol: Protocol) -> bool:
        """Whether every target was reached."""
        got = [(t.measured({**self.evaluations, "run": self.run}), t) for t in protocol.targets]
        return self.error is None and all(v is not None and v >= t.at_least for v, t in got)


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()[:16]


def _call(command: Sequence[str], what: str, *, capture: bool) -> str:
    """Output of a command; raises ``ProtocolFailedError`` with the end of what it said."""
    done = subprocess.run(command, cwd=ROOT, check=False, text=True, stdout=subprocess.PIPE if capture else None,
                          stderr=subprocess.PIPE if capture else None)  # fmt: skip
    if done.returncode != 0:
        said = (done.stderr or "").strip().splitlines()[-3:]
        raise ProtocolFailedError(f"{what}: exit status {done.returncode}: {' / '.join(said) or 'see above'}")
    return done.stdout or ""


def backtest(protocol: Protocol, data: Path, out: Path) -> dict[str, Any]:
    """Run the task through the real command line; how long it took and what it counted."""
    scores, report = out / f"{protocol.name}.scores.parquet", out / f"{protocol.name}.report.json"
    command = [
        *CLI, "backtest", str(protocol.task), "--data", str(data), "--scores", str(scores), "--report", str(report),
    ]  # fmt: skip
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    _call(command, "weir backtest", capture=False)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    told = json.loads(report.read_text())
    counted = {k: told[k] for k in ("rows", "rows_per_s", "scored", "labelled", "rejected", "model_version")}
    shown = {k: v for k, v in told["metrics"]["cumulative"].items() if isinstance(v, int | float)}
    return {**counted, "wall_s": wall, "cpu_s": cpu, "features": told["features"], "metrics": shown}


def judge(protocol: Protocol, data: Path, shared: Path, out: Path) -> dict[str, Any]:
    """The evaluator's last JSON line of every call, and the protocol's extra numbers."""
    scores = out / f"{protocol.name}.scores.parquet"
    if not scores.is_file():
        raise ProtocolFailedError(f"no scores in {scores}; run without --skip-run")
    converted = out / f"{protocol.name}.eval{protocol.suffix}"
    convert_file(protocol.convert, scores, data, converted)
    found: dict[str, Any] = {}
    script = str(shared / "eval" / protocol.evaluator)
    for label, extra in protocol.calls.items():
        told = (part.format(data=data) for part in extra)
        said = _call([sys.executable, script, "--scores", str(converted), *told], protocol.evaluator, capture=True)
        found[label] = json.loads(said.strip().splitlines()[-1])
        print(f"  {label}: {json.dumps(found[label]['result'])[:200]}", flush=True)
    if protocol.extra is not None:
        found["extra"] = protocol.extra(converted, data)
    return found


def run_one(protocol: Protocol, shared: Path, out: Path, *, skip_run: bool) -> Outcome:
    """Run and judge one protocol; a failure becomes part of the outcome. The outcome is kept in ``out``."""
    print(f"{protocol.name}:", flush=True)
    outcome = Outcome(protocol.name, _digest(protocol.task))
    data = protocol.data_in(shared)
    try:
        if not data.is_file():
            raise ProtocolFailedError(f"no such file: {data}")
        if skip_run:
            kept = load_outcome(protocol, out)
            if kept is None:
                print("  warning: these scores are not known to come from this task file", flush=True)
            outcome = replace(outcome, run=kept.run if kept is not None else {})
        else:
            outcome = replace(outcome, run=backtest(protocol, data, out))
        outcome = replace(outcome, evaluations=judge(protocol, data, shared, out))
    except (ProtocolFailedError, OSError, ValueError, KeyError, IndexError) as exc:
        outcome = replace(outcome, error=f"{exc}" if isinstance(exc, ProtocolFailedError) else repr(exc))
        print(f"  FAILED: {outcome.error}", file=sys.stderr, flush=True)
    (out / f"{protocol.name}.outcome.json").write_text(json.dumps(asdict(outcome), indent=2))
    return outcome


def load_outcome(protocol: Protocol, out: Path) -> Outcome | None:
    """The kept outcome of an earlier run of the same task file."""
    path = out / f"{protocol.name}.outcome.json"
    if not path.is_file():
        return None
    kept = Outcome(**json.loads(path.read_text()))
    return kept if kept.task_digest == _digest(protocol.task) else None


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run_protocols", description=__doc__.split("\n")[0])
    names = [p.name for p in PROTOCOLS]
    parser.add_argument("--only", choices=names, action="append", help="only this protocol; repeatable")
    parser.add_argument("--shared", type=Path, default=ROOT.parent / "shared", help="folder of data/ and eval/")
    parser.add_argument("--skip-run", action="store_true", help="judge the scores already in --out again")
    parser.add_argument("--out", type=Path, default=HERE / "out", help="folder of intermediate files")
    parser.add_argument("--results", type=Path, default=HERE / "RESULTS.md", help="the page to write")
    return parser.parse_args(argv)


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; gives the exit status."""
    options = _options(argv)
    shared: Path = options.shared.resolve()
    absent = [str(shared / part) for part in ("data", "eval") if not (shared / part).is_dir()]
    if absent:
        print(f"error: no folder {', '.join(absent)}: the data sets and evaluators are not part of this repository; "
              "name the folder that holds data/ and eval/ with --shared PATH", file=sys.stderr)  # fmt: skip
        return 2
    out: Path = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    chosen = [p for p in PROTOCOLS if options.only is None or p.name in options.only]
    ran = {p.name: run_one(p, shared, out, skip_run=options.skip_run) for p in chosen}
    shown = {p.name: ran[p.name] if p.name in ran else load_outcome(p, out) for p in PROTOCOLS}
    page = {name: asdict(o) if o is not None else None for name, o in shown.items()}
    options.results.write_text(render(PROTOCOLS, page, shared, os.cpu_count() or 1))
    print(f"wrote {options.results}")
    failed = [o.name for o in ran.values() if o.error is not None]
    reached = {p.name: ran[p.name].reached(p) for p in chosen}
    print(json.dumps({"benchmark": "protocols", "failed": failed, "reached": reached, "outcomes": page}))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
