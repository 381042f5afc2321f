from __future__ import annotations

import io
import math
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.cells import cell_len
from rich.console import Console, RenderableType

from weir.online.decisions.alert_state import AlertState, Reason, Severity
from weir.streams.cli.offline.demo import from_here
from weir.streams.demo.screen.display import DemoDisplay, ScreenView, plain_line, render_screen, render_summary
from weir.streams.demo.screen.number_words import short_count, sparkline
from weir.streams.demo.screen.snapshot import DemoSnapshot, Finding, FullRow, TaskRow

SIZES = [(80, 24), (100, 30), (160, 50)]
SEVERITIES: tuple[Severity, ...] = ("critical", "high", "medium", "low")


def because(*texts: str) -> tuple[Reason, ...]:
    return tuple(Reason("", 0.0, 0.0, text) for text in texts)


def alert(number: int) -> AlertState:
    at = 1_770_905_100.0 + number
    return AlertState(
        alert_id=f"a{number}",
        status="open",
        threshold=0.4,
        opened_at=at,
        updated_at=at,
        event_ids=(),
        task=("fraud", "churn", "device_failure")[number % 3],
        entity_id=f"user-{number:04d}",
        severity=SEVERITIES[min(number // 3, 3)],
        score=0.99 - 0.01 * number,
        reasons=because("amount 8.4 times the user's usual", "first purchase from this device", "merchant risk 4.1 %"),
        events=1 + number % 3,
    )


def task(name: str, main: str) -> TaskRow:
    metrics = {"auc": 0.9312, "ap": 0.7123, "log_loss": 0.0412, "brier": 0.0061, "f1": math.nan}
    return TaskRow(name, 812_034, 9_120, metrics, main, (0.2, 0.5, 0.7), 0.412, 37, 512)


FULL = DemoSnapshot(
    elapsed_s=24.3,
    duration_s=60.0,
    events=1_934_120,
    events_per_s=81_234.0,
    event_ts=1_770_905_100.0,
    latency_p50_ms=2.13,
    latency_p95_ms=4.02,
    latency_p99_ms=9.31,
    tasks=(task("fraud", "ap"), task("churn", "auc"), task("device_failure", "ap")),
    alerts=tuple(map(alert, range(40))),
    drifts=tuple(
        Finding("drift", 1_770_905_100.0 - 9e4 * i, "fraud", f"amount rose from 1.0{i} to 1.31 (PSI 0.27)", "PSI")
        for i in range(7)
    ),
    full=(FullRow("fraud", 2, 3, "judged: 120/500 labels", busy=True, history=(0.2, 0.81)),),
    dead_letters=112,
    duplicates=304,
    late=41,
    rate_history=(60_000.0, 70_000.0, 81_000.0),
    paths=(("log", "/tmp/weir-demo/log"), ("report", "/tmp/weir-demo/report.json")),
)
LINK = "http://127.0.0.1:8080/?token=" + 43 * "t"
EMPTY = DemoSnapshot(0.0, 60.0, 0, 0.0, 1_770_905_100.0, math.nan, math.nan, math.nan)


def text_of(content: RenderableType, width: int, height: int = 30) -> str:
    console = Console(file=io.StringIO(), width=width, height=height)
    console.print(content)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize(("width", "height"), SIZES)
@pytest.mark.parametrize("snapshot", [FULL, EMPTY, replace(FULL, console=LINK)], ids=["full", "empty", "console"])
def test_the_screen_fills_its_size_and_no_more(snapshot: DemoSnapshot, width: int, height: int) -> None:
    lines = text_of(render_screen(snapshot, width, height), width, height).splitlines()
    assert len(lines) == height
    assert max(map(len, lines)) <= width
    assert not snapshot.console or f" {LINK}" in [line.rstrip() for line in lines], "a link is whole, to be clicked"


@pytest.mark.parametrize(("width", "height"), SIZES)
def test_everything_that_matters_is_on_the_screen(width: int, height: int) -> None:
    text = text_of(render_screen(FULL, width, height), width, height)
    for words in (
        "Thu 12 Feb 2026 14:05", "00:24 / 01:00", "81,234", "1,934,120", "2.13 ms", "4.02 ms", "9.31 ms",
        "fraud", "churn", "device_failure", "812k", "9,120", "0.712", "0.931", "0.412", "37/512",
        "CRIT", "user-0000", "user-0001 x2", "amount 8.4 times the user's usual",
        "v2 serves, v3 in shadow", "AP 0.81 ▁█", "judged: 120/500 labels",
        "amount rose from 1.00", "112", "304", "41", "/tmp/weir-demo/log", "Ctrl-C to stop",
    ):  # fmt: skip
        assert words in text, words


def test_more_room_shows_more_alerts_and_metrics() -> None:
    shown = [text_of(render_screen(FULL, *size), *size).count("user-") for size in SIZES]
    assert shown == sorted(shown)
    assert shown[0] < shown[-1]
    assert "brier" not in text_of(render_screen(FULL, 80, 24), 80)
    assert "brier" in text_of(render_screen(FULL, 160, 50), 160)


def test_what_is_not_shown_is_counted() -> None:
    text = text_of(render_screen(FULL, 100, 30), 100)
    shown = text.count("user-")
    assert f"{3 * 37 - shown} more" in text


def test_a_tall_screen_shows_several_reasons() -> None:
    text = text_of(render_screen(FULL, 160, 50), 160, 50)
    assert "first purchase from this device; merchant risk 4.1 %"[:30] in text


def test_the_empty_screen_says_so_instead_of_nan() -> None:
    text = text_of(render_screen(EMPTY, 100, 30), 100)
    assert "nan" not in text
    assert "No task has scored yet." in text
    assert "No alert is open." in text
    assert "Nothing has moved." in text
    assert "Full model" not in text


def test_text_in_brackets_is_shown_and_not_taken_for_markup() -> None:
    tricky = replace(FULL, alerts=(msgspec.structs.replace(FULL.alerts[0], reasons=because("[red]city[/red] [bold]")),))
    assert "[red]city[/red] [bold]" in text_of(render_screen(tricky, 160, 50), 160, 50)


def test_data_cannot_steer_the_terminal() -> None:
    bad = "user\x1b[2J\x07\r\n\x9b31m"
    row = msgspec.structs.replace(FULL.alerts[0], task=bad, entity_id=bad, reasons=because(bad))
    evil = replace(
        FULL,
        tasks=(replace(FULL.tasks[0], name=bad),),
        alerts=(row,),
        drifts=(Finding("drift", 0.0, bad, bad, bad),),
        full=(FullRow(bad, 1, 0, bad),),
        paths=((bad, bad),),
    )
    for text in (
        text_of(render_screen(evil, 160, 50), 160, 50),
        text_of(render_summary(evil, [(bad, bad)], 160), 160),
        plain_line(evil) + "\n",
    ):
        assert all(char.isprintable() or char == "\n" for char in text)


words = st.text(st.characters(max_codepoint=0x2FF) | st.sampled_from("漢字é€"), max_size=80)
number = st.floats(0, 1e12) | st.just(math.nan)


@settings(max_examples=25, deadline=None)
@given(
    size=st.sampled_from(SIZES),
    name=words,
    reasons=st.lists(words, max_size=5).map(tuple),
    value=number,
    count=st.integers(0, 10**12),
    rows=st.integers(0, 60),
)
def test_no_snapshot_overflows(
    size: tuple[int, int], name: str, reasons: tuple[str, ...], value: float, count: int, rows: int
) -> None:
    row = replace(FULL.tasks[0], name=name, scored=count, labels=count, threshold=value, metrics={name: value})
    rate = value if math.isfinite(value) else 0.0
    pressing = msgspec.structs.replace(FULL.alerts[0], entity_id=name, reasons=because(*reasons))
    moved = msgspec.structs.replace(FULL.drifts[0], words=name)
    snapshot = replace(
        FULL, events=count, events_per_s=rate, latency_p50_ms=value, latency_p99_ms=value, dead_letters=count,
        tasks=(row,) * (rows // 10), alerts=(pressing,) * rows,
        drifts=(moved,) * rows, full=(FullRow(name, 1, 2, name, history=(value,)),),
        paths=((name, name),) * 3,
    )  # fmt: skip
    lines = text_of(render_screen(snapshot, *size), *size).splitlines()
    assert len(lines) <= size[1]
    assert max(map(cell_len, lines)) <= size[0]


def test_the_view_takes_the_size_of_the_console() -> None:
    for width, height in SIZES:
        assert text_of(ScreenView(FULL), width, height) == text_of(render_screen(FULL, width, height), width, height)


@pytest.mark.parametrize("width", [80, 100, 160])
def test_the_summary_says_what_happened_and_where_the_files_are(width: int) -> None:
    path = "/tmp/a-rather-long-name-of-a-folder/" + "x" * 60 + "/report.json"
    text = text_of(render_summary(FULL, [("report", path), ("alerts", "alerts.jsonl")], width), width)
    assert max(map(len, text.splitlines())) <= width
    for shown in ("1,934,120 events in 24 s", "7 drifts", "0.712", "v2 serves", "alerts.jsonl", "dead letters 112"):
        assert shown in text
    assert path in "".join(line.strip("│ ").removeprefix("report").strip() for line in text.splitlines())


def test_files_are_called_from_where_a_person_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside, beside = str(tmp_path / "here" / "demo" / "alerts.jsonl"), str(tmp_path / "here-too" / "alerts.jsonl")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert (from_here(inside), from_here(beside)) == ("demo/alerts.jsonl", beside)


def test_the_plain_line_is_one_line_of_ascii() -> None:
    line = plain_line(FULL)
    assert line.isascii()
    assert "\n" not in line
    for words_ in (
        "events=1934120",
        "rate=81234/s",
        "fraud.ap=0.712",
        "churn.auc=0.931",
        "fraud.full=v2",
        "alerts=111",
        "drifts=7",
    ):
        assert words_ in line


def test_anything_but_a_terminal_gets_a_plain_line_now_and_then() -> None:
    out = io.StringIO()
    with closing(DemoDisplay(Console(file=out))) as display:
        for elapsed in range(12):
            display.update(replace(FULL, elapsed_s=float(elapsed)))
    assert [line.split("/")[0] for line in out.getvalue().splitlines()] == ["00:00", "00:05", "00:10"]


def test_a_terminal_gets_the_screen_and_is_left_as_it_was() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100, height=30)

    def show_and_fail() -> None:
        with closing(DemoDisplay(console)) as display:
            display.update(FULL)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        show_and_fail()
    assert "\x1b[?1049h" in out.getvalue()
    assert out.getvalue().rindex("\x1b[?1049l") > out.getvalue().index("Open alerts")


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(-1e9, 1e9) | st.just(math.nan), max_size=50), st.integers(0, 30))
def test_a_sparkline_fits_and_shows_the_extremes(values: list[float], width: int) -> None:
    line = sparkline(values, width)
    finite = [value for value in values if math.isfinite(value)]
    assert len(line) == min(len(finite), width)
    if 0 < len(finite) <= width and max(finite) - min(finite) > 1e-6:
        assert line[finite.index(max(finite))] == "█"
        assert line[finite.index(min(finite))] == "▁"


@given(st.integers(0, 999 * 10**9) | st.sampled_from([9_999, 10_000, 99_949, 99_950, 999_950, 9_995_000, 99_950_000]))
def test_a_short_count_is_short_and_close(count: int) -> None:
    text = short_count(count)
    assert len(text) <= 5
    unit = {"k": 1e3, "M": 1e6, "G": 1e9}.get(text[-1], 1.0)
    assert float(text.rstrip("kMG").replace(",", "")) * unit == pytest.approx(count, rel=0.006, abs=0.5)
