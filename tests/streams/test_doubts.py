"""What ``weir check`` says is odd of a task and its data."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.streams import awkward_tables as awkward
from tests.streams.awkward_tables import Rows
from tests.streams.drafted_tasks import drafted, written
from weir.online.decisions.threshold_policy import BudgetThreshold
from weir.online.task.spec import TaskSpec
from weir.streams.backtest.runner import run_backtest
from weir.streams.checks.findings import Check
from weir.streams.workbench.profile import sampled
from weir.streams.workbench.profile.doubts import doubts_of


def found(checks: list[Check]) -> dict[str, str]:
    return {check.name: check.status for check in checks if check.status != "OK"}


def test_a_clean_task_has_no_doubts_and_each_odd_thing_is_told(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    n = 3000
    y = (rng.random(n) < 0.1).astype(int)
    day = [(awkward.START + timedelta(hours=2.4 * i)).isoformat() for i in range(n)]
    clean: Rows = {
        "at": day,
        "who": [f"u{i % 50}" for i in range(n)],
        "eur": rng.normal(size=n).tolist(),
        "bad": y.tolist(),
    }
    task = """
name = "payments"
entity = "user"
inputs = ["eur", "user.*"]
numbers = ["eur"]
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "eur", value = "eur", ops = ["mean"], windows = ["7d"] }]
[model]
kind = "logistic"
[threshold]
kind = "budget"
alerts_per_day = 1
[source]
columns = { user_id = "who", eur = "eur" }
time = "at"
label = "bad"
label_delay = "1d"
"""

    def doubts(changed: Rows, old: str = "", new: str = "") -> dict[str, str]:
        paths = written(tmp_path, clean | changed)
        return found(doubts_of(TaskSpec.from_toml(task.replace(old, new) if old else task), paths))

    assert doubts({}) == {}
    assert doubts({"eur": [1.5] * n}) == {"constant": "WARN"}
    assert doubts({"eur": (y + 0.1 * rng.random(n)).tolist()}) == {"leak": "FAIL"}
    assert doubts({"bad": [0] * n}) == {"labels": "FAIL"}
    assert doubts({"who": [f"u{i}" for i in range(n)]}) == {"entities": "WARN"}
    assert doubts({"at": day[::-1]}) == {"order": "WARN"}
    assert doubts({}, "= 1\n", "= 9\n") == {"budget": "WARN"}
    assert doubts({}, '"7d"', '"900d"') == {"windows": "WARN"}
    assert doubts({}, 'label_delay = "1d"', 'label_delay = "400d"') == {"label delay": "FAIL"}
    later = [day[min(i + 80, n - 1)] for i in range(n)]
    known = 'label_known = "known"\n[labels.join]\nkeep_s = "6d"'
    assert doubts({"known": later}, 'label_delay = "1d"', known) == {"horizon": "FAIL"}
    assert doubts({"known": ["2024-12-01T00:00:00Z", *later[1:]]}, 'label_delay = "1d"', 'label_known = "known"') == {
        "early labels": "WARN"
    }


@pytest.mark.parametrize(
    ("key", "join", "without"),
    [("*", "", ""), ("user_id", 'match = "entity_range"\nrange_s = "9m"\n', "event_id"), ("user_id", "", "")],
)
def test_labels_of_files_are_found_as_the_join_finds_them(tmp_path: Path, key: str, join: str, without: str) -> None:
    events: list[dict[str, Any]] = [
        {"event_id": f"e{n}", "user_id": f"u{n % 5}", "ts": 1.7e9 + 600 * n, "amount": n} for n in range(200)
    ]
    labels = [
        {"label_id": f"l{n}", "task": "t", "entity_id": e["user_id"], "event_id": e["event_id"], "ts": e["ts"] + 60}
        for n, e in enumerate(events)
    ]
    (tmp_path / "events.jsonl").write_text("".join(json.dumps({"v": 1, "type": "x", **e}) + "\n" for e in events))
    lines = [{name: v for name, v in each.items() if name != without} for each in labels[:150]]
    told = "".join(json.dumps({"v": 1, "value": int(n % 2), **each}) + "\n" for n, each in enumerate(lines))
    (tmp_path / "labels.jsonl").write_text(told)
    task = TaskSpec.from_toml(
        'name = "t"\nentity = "e"\ninputs = ["hour"]\n[[entities]]\nname = "e"\n'
        f'key = "{key}"\n[model]\nkind = "logistic"\n[labels.join]\n{join}'
    )
    checks = doubts_of(task, [tmp_path / "events.jsonl"], [tmp_path / "labels.jsonl"])
    assert {check.name: check.found for check in checks}["labels"] == "150 labels, 75 (50.00%) positive"


def test_monthly_snapshots_are_no_odd_clock(tmp_path: Path) -> None:
    months = [f"2024-{m:02}-28" for m in range(1, 13)]
    who = [(month, k) for month in months for k in range(300 if month != months[-1] else 2)]
    table: Rows = {
        "snapshot": [month for month, _ in who],
        "member": [f"m{k}" for _, k in who],
        "hours": [k * 3 % 7 for _, k in who],
        "churned": [int(k % 9 == 0) for _, k in who],
        "known": [(datetime.fromisoformat(month) + timedelta(days=35)).date().isoformat() for month, _ in who],
    }
    draft, task = drafted(paths := written(tmp_path, table))
    notes = run_backtest(TaskSpec.from_toml(draft.text.replace('kind = "auto"', 'kind = "logistic"')), paths).notes
    assert "labels late" not in {note.kind for note in notes}
    assert isinstance(task.threshold, BudgetThreshold)
    assert task.threshold.alerts_per_day * len(months) == pytest.approx(
        sum(table["churned"]), rel=0.1
    )  # not by 331 days
    assert not {"clock", "pause"} & {check.name for check in doubts_of(task, paths)}


def test_the_rows_between_the_stretches_of_a_large_file_are_no_pause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = awkward.rows(4_000)
    paths = written(tmp_path, table)
    monkeypatch.setattr(sampled, "_TEXT_BYTES", paths[0].stat().st_size * 3 // 4)
    assert "pause" not in {check.name for check in doubts_of(drafted(paths)[1], paths)}
