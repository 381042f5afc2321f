"""The detector of states: what it finds, what its p-values promise, and that nothing but the rows before decides."""

from __future__ import annotations

import re
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from weir.online.anomaly.state_detector import StateDetector
from weir.online.anomaly.state_params import StateParams
from weir.online.batch import EventBatch
from weir.online.decisions.reasons import ReasonWriter
from weir.online.errors import TaskError
from weir.online.features import kernel
from weir.online.features.spec import Anomaly
from weir.online.task.reason_subjects import subjects_of
from weir.online.task.spec import TaskSpec
from weir.online.task.task_shape import engine_of
from weir.streams.embedded.memory_store import MemoryFeatureStore

Floats = NDArray[np.float64]
SENSORS = ("flow", "pressure", "current")
T0 = 1.7e9


def pump(n: int, seed: int = 1) -> Floats:
    """``(3, n)``: pressure and current follow the flow."""
    rng = np.random.default_rng(seed)
    flow = 30.0 + 2.0 * rng.normal(size=n)
    return np.stack([flow, 5.0 + 0.2 * flow, 2.0 + 0.5 * flow]) + rng.normal(size=(3, n)) * [[0.2], [0.05], [0.1]]


def run(
    values: Floats,
    reference: str | None = "400 rows",
    flag: Floats | None = None,
    restart: Floats | None = None,
    step_s: float = 1.0,
    **params: str,
) -> dict[str, Floats]:
    """One entity from its start, a second between rows, by the name of an output."""
    d, n = values.shape
    detector = StateDetector(SENSORS[:d], reference, StateParams.model_validate(params))
    rows = np.full((d + 2, n), np.nan)
    rows[:d] = values
    rows[d] = np.nan if flag is None else flag
    rows[d + 1] = np.nan if restart is None else restart
    state = np.zeros((1, detector.state_width))
    out = detector.run_columns(state, np.zeros(n, np.int64), np.array(T0 + step_s * np.arange(float(n))), rows)
    return {name: out[:, k] for k, name in enumerate(detector.outputs)} | {"state": state[0]}


_number = st.one_of(st.floats(-1e3, 1e3), st.sampled_from([0.0, 1.0, np.nan, np.nan, np.inf, 1e16, -1e16, 5e-324]))
_row = st.tuples(
    st.integers(0, 1),
    _number,
    _number,
    st.sampled_from([np.nan, 0.0, 1.0, 1.0]),
    st.sampled_from([np.nan] * 30 + [1.0]),
)


@settings(max_examples=5, deadline=None)
@given(
    rows=st.lists(_row, min_size=1, max_size=60),
    repeat=st.integers(1, 4),
    cuts=st.lists(st.integers(0, 240), max_size=5),
    reference=st.sampled_from(["35 rows", "40s", None]),
)
def test_the_result_depends_neither_on_cuts_nor_on_other_entities(
    rows: list[tuple[int, float, float, float, float]], repeat: int, cuts: list[int], reference: str | None
) -> None:
    table = np.array(rows * repeat)
    slots, values, ts = (
        table[:, 0].astype(np.int64),
        np.ascontiguousarray(table[:, 1:].T),
        np.array(T0 + np.arange(float(len(table)))),
    )
    detector = StateDetector(("a", "b"), reference, StateParams(smooth="3 rows", hold="5 rows"))
    whole_state, cut_state = np.zeros((2, detector.state_width)), np.zeros((2, detector.state_width))
    whole = detector.run_columns(whole_state, slots, ts, values)
    edges = [0, *sorted(min(c, len(ts)) for c in cuts), len(ts)]
    parts = [detector.run_columns(cut_state, slots[a:b], ts[a:b], values[:, a:b]) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    assert cut_state.tobytes() == whole_state.tobytes()
    score = whole[:, 0][~np.isnan(whole[:, 0])]
    assert ((score >= 0.0) & (score <= 1.0)).all()
    for slot in range(2):
        mine = slots == slot
        alone = detector.run_columns(
            np.zeros((1, detector.state_width)), np.zeros(mine.sum(), np.int64), ts[mine], values[:, mine]
        )
        np.testing.assert_array_equal(alone, whole[mine])


@pytest.mark.parametrize("at", [50, 399, 400, 700])
def test_neither_the_reference_nor_a_score_sees_later_rows(at: int) -> None:
    values = pump(1000)
    other = values.copy()
    other[:, at:] = -3.0 * other[:, at:] + 7.0
    one, two = run(values), run(other)
    for name in one.keys() - {"state"}:
        np.testing.assert_array_equal(one[name][:at], two[name][:at])
    learned = slice(7 + 3 * 9, None)  # behind the head and the sensors' newest values: model, calibration, kept rows
    assert (one["state"][learned].tobytes() == two["state"][learned].tobytes()) == (at >= 400)


def test_nothing_is_said_in_the_reference() -> None:
    out = run(pump(500))
    assert np.isnan(out[""][:400]).all()
    assert np.isfinite(out[""][400:]).all()


def test_p_values_of_normal_data_are_uniform() -> None:
    """Over machines, as neighbouring rows of one share their smoothing; a little cautious, as the theory says."""
    p = 1.0 - np.concatenate([run(pump(2400, seed), "2000 rows")[""][2050::50] for seed in range(45)])
    for level in (0.02, 0.05, 0.1, 0.25, 0.5, 0.75):
        error = 3.0 * np.sqrt(level * (1.0 - level) / len(p)) + 0.03
        assert abs((p <= level).mean() - level) < error, level


def _leak(values: Floats) -> None:
    values[0, 700:1000] -= 3.0  # a deviation and a half of the flow alone, many of what the others imply


@pytest.mark.parametrize(
    ("sensor", "view", "spoil"),
    [
        ("flow", 2, _leak),
        ("pressure", 3, lambda v: v.__setitem__((1, slice(700, 1000)), v[1, 700])),
        ("current", 3, lambda v: v.__setitem__((2, slice(700, 1000)), v[2, 700:1000] + 5.0 * (-1.0) ** np.arange(300))),
        ("current", 2, lambda v: v.__setitem__((2, slice(700, 1000)), v[2, 700:1000] + np.linspace(0, 9.0, 300))),
    ],
    ids=["leak", "stuck", "noisy", "drift"],
)
def test_a_state_is_told_while_it_lasts_and_the_sensor_is_named(sensor: str, view: int, spoil: object) -> None:
    values = pump(1400)
    assert callable(spoil)
    spoil(values)
    out = run(values)
    alarm, lasting = out[""] > 0.99, slice(800, 1000)
    assert alarm[lasting].all()
    assert alarm[410:700].mean() < 0.1
    assert not alarm[1200:].all()
    number = SENSORS.index(sensor) + 1
    assert (out["sensor"][lasting] == number).mean() > 0.95
    assert view in out["view"][lasting]  # a stuck one may also stand off what the others imply
    parts = np.sum([out[f"part_{name}"] for name in SENSORS], axis=0)
    np.testing.assert_allclose(parts[lasting], 1.0)


def test_what_the_others_imply_is_in_the_sensors_own_unit() -> None:
    values = pump(1000)
    values[0, 700:] -= 3.0
    out = run(values)
    assert abs(out["implied_flow"][800:].mean() + 3.0) < 0.4
    assert abs(out["off_flow"][800:].mean() + 3.0) < 0.4
    assert abs(out["expected"][800:].mean() - 30.0) < 0.5


def test_after_maintenance_the_reference_begins_again() -> None:
    values, restart = pump(2000), np.full(2000, np.nan)
    values[1, 800:] += 4.0  # a new pressure gauge
    restart[1000] = 1.0
    out = run(values, restart=restart)
    assert (out[""][850:1000] > 0.99).all()
    assert np.isnan(out[""][1000:1400]).all()
    assert (out[""][1400:] > 0.99).mean() < 0.1


def test_a_flag_says_when_the_reference_runs() -> None:
    values, flag = pump(2000), np.full(2000, np.nan)
    values[1, 800:] += 4.0
    flag[[0, 300, 1000, 1400]] = [1.0, 0.0, 1.0, 0.0]  # missing between: as it was
    out = run(values, None, flag)
    assert np.isnan(out[""][:300]).all()
    assert (out[""][850:1000] > 0.99).all()
    assert np.isnan(out[""][1000:1400]).all()
    assert (out[""][1400:] > 0.99).mean() < 0.1


def test_a_duration_is_event_time() -> None:
    out = run(pump(1000), "10m", step_s=2.0)
    assert np.isnan(out[""][:300]).all()
    assert np.isfinite(out[""][300:]).all()


def test_a_missing_sensor_is_not_judged_and_the_others_are() -> None:
    values = pump(1500)
    values[2, 600:1200] = np.nan
    values[0, 900:] -= 3.0
    out = run(values, hold="20 rows")
    assert np.isnan(out["part_current"][630:1200]).all()
    assert (out[""][640:900] > 0.99).mean() < 0.1
    assert (out[""][960:1200] > 0.99).all()
    assert (out["sensor"][960:1200] == 1).all()
    assert np.isfinite(out["part_current"][1210:]).all()


def test_sensors_that_come_in_events_of_their_own_are_carried_on() -> None:
    values = pump(4000)
    for j in range(3):
        values[j, np.arange(4000) % 3 != j] = np.nan
    values[1, 3000:] += 4.0
    out = run(values, "1500 rows")
    assert (out[""][1500:3000] > 0.99).mean() < 0.1
    assert (out[""][3100:] > 0.99).all()
    assert (out["sensor"][3100:] == 2).all()


def test_glitches_neither_spoil_the_reference_nor_are_states() -> None:
    values = pump(1000)
    values[[0, 1, 2, 0, 1], [60, 120, 190, 290, 360]] *= 50.0
    values[[0, 1, 2], [450, 500, 550]] *= 50.0
    values[0, 700:] -= 3.0
    out = run(values)
    assert (out[""][410:700] > 0.99).mean() < 0.1
    assert (out[""][740:] > 0.99).all()


def test_a_row_of_missing_values_reads_and_changes_nothing() -> None:
    values = pump(600)
    whole = run(values)
    values = np.insert(values, 500, np.nan, axis=1)
    read = run(values, step_s=0.0)
    same = run(np.delete(values, 500, axis=1), step_s=0.0)
    assert read["state"].tobytes() == same["state"].tobytes()
    assert read[""][500] == read[""][499]
    assert whole[""].shape == same[""].shape


def test_a_constant_sensor_is_quiet_until_it_moves_however_far_from_0() -> None:
    values = pump(1000)
    values[0] = 48_211_733.0
    values[0, 700:] += 100_000.0
    out = run(values)
    assert (out[""][410:700] > 0.99).mean() < 0.1
    assert (out[""][705:] > 0.99).all()
    assert (out["sensor"][705:] == 1).all()


@pytest.mark.parametrize(("unit", "zero"), [(1e-9, 0.0), (1e9, 0.0), (1.0, 273.15)])
def test_the_unit_of_a_sensor_does_not_matter(unit: float, zero: float) -> None:
    values = pump(900)
    values[0, 700:] -= 3.0
    other = np.array(values * unit + zero)
    np.testing.assert_allclose(run(other)[""][400:], run(values)[""][400:], atol=0.02)
    np.testing.assert_array_equal(run(other)["sensor"][730:], run(values)["sensor"][730:])


TASK = """
name = "pumps"
stream = "device-events"
entity = "pump"
inputs = ["pump.state*"]
[[entities]]
name = "pump"
key = "device_id"
[[entities.anomalies]]
name = "state"
score = "state"
values = ["flow", "pressure", "current"]
{more}
[model]
kind = "column"
params = {{ column = "pump.state" }}
"""


def test_a_task_file_makes_columns_of_it() -> None:
    task = TaskSpec.from_toml(TASK.format(more="reference = \"status == 'commissioning'\""))
    engine = engine_of(task, MemoryFeatureStore())
    values = pump(900)
    values[0, 700:] -= 3.0
    numbers = dict(zip(SENSORS, values, strict=True))
    status: list[str | None] = ["commissioning" if i < 400 else "on" for i in range(900)]
    device: list[str | None] = ["p1"] * 900
    ids = [str(i) for i in range(900)]
    batch = EventBatch(ids, T0 + np.arange(900.0), [""] * 900, {"device_id": device}, numbers, {"status": status})
    columns = engine.process(batch, np.full(900, kernel.EVENT, dtype=np.uint8)).columns
    score = np.asarray(columns["pump.state"], dtype=np.float64)
    assert np.isnan(score[:400]).all()
    assert (score[740:] > 0.99).all()
    assert {"pump.state_sensor", "pump.state_part_flow", "pump.state_off_current"} <= {*engine.features}


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ('reference = "30 rows"', "needs 45 rows at least"),
        ('reference = "7 parsecs"', "is not a duration"),
        ('value = "flow"', "neither takes the other"),
        ('params = { smoth = "3 rows" }', "smooth"),
        ('params = { smooth = "0 rows" }', "is no span above 0"),
        ('restart = "status ="', "restart"),
    ],
)
def test_what_a_task_file_cannot_mean_is_told(more: str, words: str) -> None:
    with pytest.raises(TaskError, match=words):
        engine_of(TaskSpec.from_toml(TASK.format(more=more)), MemoryFeatureStore())


def test_a_detector_of_before_is_what_it_was() -> None:
    assert Anomaly(name="odd", value="amount").model_dump() == {"name": "odd", "value": "amount", "params": {}}


def test_the_reason_of_a_state_is_the_sensor_in_its_own_unit() -> None:
    task = TaskSpec.from_toml(TASK.format(more=""))
    engine = engine_of(task, MemoryFeatureStore())
    values = pump(1600)
    values[0, 700:900] -= 3.1
    values[1, 1200:] = values[1, :400].mean()
    device: list[str | None] = ["p1"] * 1600
    batch = EventBatch(
        [""] * 1600, T0 + np.arange(1600.0), [""] * 1600, {"device_id": device}, dict(zip(SENSORS, values, strict=True))
    )
    x = engine.process(batch, np.full(1600, kernel.EVENT, dtype=np.uint8)).x
    writer = ReasonWriter(engine.features, entity="pump", subjects=subjects_of(task))
    score = np.zeros((2, len(engine.features)))
    score[:, engine.features.index("pump.state")] = 5.0
    told = [reasons[0].text for reasons in writer.write(x[[890, 1300]], score)]
    assert re.fullmatch(
        r"this pump is farther .*: this pump's flow is (2\.[5-9]|3\.[0-6])\d* below what pressure and current imply",
        told[0],
    )
    assert re.fullmatch(r".*: this pump's pressure moves 0\.[0-3]x as much as usual from reading to reading", told[1])
