"""What a search tries: inputs, windows and knobs, what is left out, and what cannot be tuned."""

from __future__ import annotations

import copy
import time
import tomllib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as pcsv
import pytest

from tests.streams.workbench.tuned_rows import TASK, rows
from weir.online.batch import PredictionBatch
from weir.online.stages.pipeline import StepOutput
from weir.online.task.spec import TaskSpec
from weir.streams.cli.models.tune import tune_command
from weir.streams.errors import UsageError
from weir.streams.workbench.measures import Interval
from weir.streams.workbench.tuning import study as telling
from weir.streams.workbench.tuning.findings import Row, pick
from weir.streams.workbench.tuning.space import AS_IS, Facts, Space, built
from weir.streams.workbench.tuning.study import Search, changes, document_of, work_folder
from weir.streams.workbench.tuning.task_text import rewritten
from weir.streams.workbench.tuning.time_cut import cut

PROTOCOLS = sorted((Path(__file__).resolve().parents[3] / "benchmarks" / "protocols").glob("*k*.toml"))
SOME = Facts(gap_s=7200.0, span_s=86_400.0 * 60, delay_s=43_200.0, positive=0.1)
NOISE = [f"n{k}" for k in range(14)]


@pytest.mark.parametrize("path", PROTOCOLS, ids=lambda path: path.stem)
def test_every_option_of_every_knob_is_a_task_that_can_be_written(path: Path) -> None:
    text = path.read_text()
    document = tomllib.loads(text)
    assert rewritten(text, document).split("\n") == [*text.rstrip("\n").split("\n"), ""]
    space = Space(document, SOME)
    for edits in space.knobs.values():
        for name, edit in edits.items():
            changed = copy.deepcopy(document)
            edit(changed)
            assert (changed == document) == (name == AS_IS)
            written = rewritten(text, changed)
            assert tomllib.loads(written) == changed
            assert written.count("#") >= text.count("#") - 1
            assert built(changed) is not None


def test_inputs_that_tell_most_of_older_rows_are_tried_alone(tmp_path: Path) -> None:
    """Of 15 numbers two tell the label: they are ranked first, and a dozen do as well as all."""
    rng, n = np.random.default_rng(3), 3_000
    x = {name: rng.normal(size=n) for name in ("x", *NOISE)}
    table = pa.table({
        "user": [f"u{k}" for k in rng.integers(300, size=n)], "at": (np.arange(n) * 6_000.0 + 1.7e9).astype(np.int64),
        **x, "bad": (rng.random(n) < 1 / (1 + np.exp(2.0 - 2 * x["x"] + 2 * x["n3"]))).astype(np.int64),
    })  # fmt: skip
    columns = "".join(f", {name} = '{name}'" for name in NOISE)
    text = TASK.replace('x = "x"', f'x = "x"{columns}').replace('["x"]', str(["x", *NOISE]))
    pcsv.write_csv(table, tmp_path / "rows.csv")
    spec = TaskSpec.from_toml(text)
    study_file = tmp_path / "s"
    made = cut(spec, [tmp_path / "rows.csv"], 0.2, work_folder(study_file))
    one = Search(text, made, study_file, "roc_auc", 1)
    study, reference = one.prepare()
    assert {*reference.facts.telling[:2]} == {"x", "n3"}
    assert one.reference().facts == reference.facts  # as it was kept
    one.run(time.monotonic() + 600, 2, lambda _: None)
    alone = study.trials[1]
    assert changes(alone) == {"inputs": "best 12"}
    assert len(document_of(one, alone, reference.facts)["inputs"]) == 12
    assert alone.value == pytest.approx(study.trials[0].value, abs=0.01)


def test_fewer_inputs_that_are_no_worse_are_taken_and_other_changes_only_where_clearly_better() -> None:
    def row(number: int, value: float, low: float, changed: dict[str, str]) -> Row:
        return Row(number, 0.5 + value, Interval(value, low, value + 0.1, 50), 1.0, changed)

    as_is, fewer = row(0, 0.0, 0.0, {}), row(2, 0.01, -0.02, {"inputs": "best 12"})
    lucky, clear = row(1, 0.02, -0.01, {"seen": "on"}), row(3, 0.01, 0.005, {"learner": "boosted"})
    worse, both = row(4, -0.01, -0.03, {"inputs": "best 24"}), row(5, 0.03, -0.01, {"inputs": "best 12", "seen": "on"})
    metric = "average_precision"
    assert pick([both, lucky, fewer, as_is, worse], metric) == 2
    assert pick([lucky, fewer, clear, as_is], metric) == 3
    assert pick([both, lucky, as_is, worse], metric) == 0


def test_the_clock_is_tried_as_inputs_and_without_it() -> None:
    document = tomllib.loads(TASK.replace('["x"]', '["x", "hour"]'))
    for name, inputs in (("on", ["x", "hour", "weekday"]), ("off", ["x"])):
        changed = copy.deepcopy(document)
        Space(document, SOME).knobs["clock"][name](changed)
        assert changed["inputs"] == inputs


def test_other_windows_of_columns_that_are_named_one_by_one() -> None:
    text = TASK.replace('["x"]', '["x", "user.seen_count_1d"]')
    text = text.replace(
        "[model]", '[[entities.aggregates]]\nname = "seen"\nops = ["count"]\nwindows = ["1d"]\n\n[model]'
    )
    space = Space(tomllib.loads(text), SOME)
    changed = tomllib.loads(text)
    space.knobs["windows"]["long"](changed)
    assert changed["inputs"] == ["x", "user.seen_*"]


def test_a_sample_of_inputs_is_bounded_and_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telling, "_MOST_ROWS", 100)
    sample, rng = telling.InputSample(), np.random.default_rng(4)
    x, text = rng.normal(size=(3_000, 2)), ["a"] * 7
    sample._names = ("noise", "told")
    for k in range(0, 2_800, 7):
        part, none = x[k : k + 7], np.zeros(7)
        batch = PredictionBatch(text, text, none, none, np.zeros(7, np.int64), part)
        sample.add(StepOutput(predictions=batch))
    held = sample._held.rows()
    assert 50 <= len(held) <= 100
    assert held == pytest.approx(x[: 2_800 : sample._held.step].astype(np.float32))
    assert sample.ranked(np.full(2_000, np.nan)) == sample.ranked(np.zeros(2_000)) == []


def test_what_cannot_be_tuned_is_told(tmp_path: Path) -> None:
    pcsv.write_csv(rows().slice(0, 30), tmp_path / "few.csv")
    few = Search(TASK, cut(TaskSpec.from_toml(TASK), [tmp_path / "few.csv"], 0.2, tmp_path), tmp_path / "s", "brier", 1)
    with pytest.raises(UsageError, match=r"24 labels are known .* needs 40 of either|labels are known before the cut"):
        few.reference()
    unlabelled = TaskSpec.from_toml(TASK.replace('label = "bad"\n', "").replace('label_delay = "12h"\n', ""))
    with pytest.raises(UsageError, match="no labels to tune by"):
        cut(unlabelled, [tmp_path / "few.csv"], 0.2, tmp_path)
    (tmp_path / "bad.toml").write_text(TASK)
    with pytest.raises(UsageError, match="give --data FILE"):
        tune_command(tmp_path / "bad.toml")
