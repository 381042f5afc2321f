"""The host with a log for inputs and one for outputs, and time that passes by ticks: a crash changes no output."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.host_runs import (
    CHURN,
    FRAUD,
    PARTITIONS,
    Call,
    host_on,
    inputs,
    outputs,
    process_all,
    run,
    straight_run,
    values,
)
from tests.streams.test_embedded_inputs import event
from weir.online.errors import StateError
from weir.online.intake_policy import IntakePolicy
from weir.streams.config import topics
from weir.streams.embedded.embedded_host import EmbeddedHost
from weir.streams.embedded.embedded_log import EmbeddedLog, LoggedBatch
from weir.streams.embedded.ticks import tick_record
from weir.streams.records import Record

DAY = 86_400.0
SILENT = CHURN.replace("value = 0.9", "value = 0.0")
BUDGET = 'kind = "budget"\nalerts_per_day = 30\nmin_scores = 100\nmin_days = 0.1'
EVERY = FRAUD.replace(BUDGET, 'kind = "fixed"\nvalue = 0.0')


def ticked() -> list[Call]:
    """The stream of `host_runs`, with time that passes after every few blocks, and once without an event."""
    calls: list[Call] = []
    newest = 0.0
    for number, (topic, records) in enumerate(inputs()):
        newest = max(newest, *(r.ts for r in records))
        calls.append((topic, records))
        if number % 5 == 4:
            calls.append((topics.TICKS, (tick_record(newest - 3600, newest),)))
    return [*calls, (topics.TICKS, (tick_record(newest + 3 * DAY, newest + 3 * DAY), Record(b"", b"soon", newest)))]


class Pair:
    """A host over two logs in a directory, or in memory."""

    def __init__(self, folder: Path | None, *which: str) -> None:
        self.inputs = EmbeddedLog(PARTITIONS, folder / "inputs" if folder else None)
        self.outputs = EmbeddedLog(directory=folder / "outputs" if folder else None)
        self.host = host_on(self.inputs, *which, outputs=self.outputs, checkpoints=folder)

    def close(self) -> None:
        self.inputs.close()
        self.outputs.close()


@functools.cache
def whole_run() -> Pair:
    """The uninterrupted run over `ticked`."""
    pair = Pair(None)
    run(pair.inputs, pair.host, tuple(ticked()))
    return pair


def batches(log: EmbeddedLog) -> list[LoggedBatch]:
    return [
        LoggedBatch(b.seq, b.topic, b.partition, b.base_offset, tuple(b.records)) for b in log.read(topics.OUTPUTS, 0)
    ]


def test_two_logs_hold_what_one_does() -> None:
    made, log = EmbeddedLog(), EmbeddedLog(PARTITIONS)
    host = host_on(log, outputs=made)
    run(log, host, inputs())
    assert outputs(made) == straight_run().outputs
    assert {b.topic for b in log.read(topics.OUTPUTS, 0)} == set()
    assert host.stats == straight_run().host.stats


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_a_crash_anywhere_gives_the_same_outputs_at_the_same_places(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    """Also where the log of outputs lost what was not synced, and where inputs waited at the checkpoint."""
    calls, whole = ticked(), whole_run()
    folder = tmp_path_factory.mktemp("state")
    every = data.draw(st.integers(2, 9), "checkpoint every")
    crashes = sorted(data.draw(st.sets(st.integers(1, len(calls) - 1), min_size=1, max_size=3), "crashes"))
    at = 0
    for stop in [*crashes, len(calls)]:
        pair = Pair(folder)
        pair.host.resume()
        process_all(pair.host)
        held = sum(f.stat().st_size for f in (folder / "outputs").iterdir())
        while at < stop:
            pair.inputs.append(*calls[at])
            at += 1
            if at % every == 0:
                pair.host.checkpoint()
                held = sum(f.stat().st_size for f in (folder / "outputs").iterdir())
            process_all(pair.host)
        pair.close()
        newest = max((folder / "outputs").glob("*.log"))
        lost = data.draw(st.integers(0, max(0, newest.stat().st_size - held)), "bytes of outputs lost")
        with newest.open("r+b") as file:
            file.truncate(newest.stat().st_size - (lost if stop < len(calls) and not at % every else 0))
    with EmbeddedLog(directory=folder / "outputs") as made:
        assert batches(made) == batches(whole.outputs)
    assert pair.host.stats == whole.host.stats
    assert pair.host.store.snapshot() == whole.host.store.snapshot()
    for name, pipeline in pair.host.pipelines.items():
        assert pipeline.snapshot() == whole.host.pipelines[name].snapshot()


def test_without_a_checkpoint_inputs_are_processed_from_the_start(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    run(pair.inputs, pair.host, inputs()[:5])
    before = batches(pair.outputs)
    pair.close()
    pair = Pair(tmp_path)
    assert not pair.host.resume()
    assert (pair.outputs.next_seq, pair.inputs.next_seq > 5) == (0, True)
    process_all(pair.host)
    assert batches(pair.outputs) == before != []
    pair.close()


def test_a_checkpoint_of_one_log_is_not_for_two(tmp_path: Path) -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD, checkpoints=tmp_path)
    host.checkpoint()
    with pytest.raises(StateError, match="the checkpoint is of one log, and this is a host with two logs"):
        host_on(log, FRAUD, outputs=EmbeddedLog(), checkpoints=tmp_path).resume()


def test_a_lost_log_of_outputs_is_told(tmp_path: Path) -> None:
    pair = Pair(tmp_path)
    run(pair.inputs, pair.host, inputs()[:5])
    pair.host.checkpoint()
    pair.close()
    with (
        EmbeddedLog(PARTITIONS, tmp_path / "inputs") as log,
        pytest.raises(StateError, match=r"written at batch \d+ of the log of outputs, which ends at 0"),
    ):
        host_on(log, outputs=EmbeddedLog(), checkpoints=tmp_path).resume()


def test_inputs_that_retention_took_are_needed_or_not(tmp_path: Path) -> None:
    def opened() -> EmbeddedLog:
        return EmbeddedLog(PARTITIONS, tmp_path / "inputs", segment_bytes=2_000)

    outputs_of = EmbeddedLog()
    with opened() as log:
        host = host_on(log, outputs=outputs_of, checkpoints=tmp_path)
        run(log, host, inputs()[:20])
        host.checkpoint()
        old = (tmp_path / "checkpoint.bin").read_bytes()
        run(log, host, inputs()[20:30])
        host.checkpoint()
        log.retain(host.seq, max_bytes=0)
        assert log.first_seq > 20
    with opened() as log:
        host = host_on(log, outputs=outputs_of, checkpoints=tmp_path)
        assert host.resume()
        (tmp_path / "checkpoint.bin").write_bytes(old)
        with pytest.raises(StateError, match=r"the log begins at batch \d+, and batches from \d+ on are needed"):
            host.resume()
        (tmp_path / "checkpoint.bin").unlink()
        with pytest.raises(StateError, match=r"the log begins at batch \d+, and batches from 0 on are needed"):
            host.resume()


# -- what process says -------------------------------------------------------------------------------------------------


def test_the_outcome_names_repeats_and_refusals_by_their_place() -> None:
    log = EmbeddedLog()
    host = host_on(log, FRAUD)
    log.append(topics.USER_EVENTS, [event(1), event(2), event(1), Record(b"u1", b"{", 1.7e9), event(3, ts=4e9)])
    (batch,) = log.read([topics.USER_EVENTS], 0)
    outcome = host.process(batch)
    assert (outcome.records, outcome.repeats.tolist(), sorted(outcome.refused)) == (5, [2], [3, 4])
    letters = [v["reason"] for v in values(outputs(log)[topics.DEAD_LETTERS])]
    assert list(outcome.refused.values()) == letters
    log.append(topics.USER_EVENTS, [event(4), event(2)])
    *_, batch = log.read([topics.USER_EVENTS], 0)
    assert host.process(batch).repeats.tolist() == [1]


def test_what_the_caller_decoded_is_not_decoded_again() -> None:
    log, straight = EmbeddedLog(PARTITIONS), straight_run()
    host = host_on(log)

    def once(*_: Any, **__: Any) -> Any:
        raise AssertionError("decoded twice")

    for topic, records in inputs():
        for batch in log.append(topic, records):
            decoded = host.decode(topic, [r.value for r in batch.records])
            decode, host.decode = host.decode, once  # type: ignore[method-assign]
            outcome = host.process(batch, decoded)
            host.decode = decode  # type: ignore[method-assign]
            assert outcome.records == len(records) or topic in PARTITIONS
    assert outputs(log) == straight.outputs


# -- ticks -------------------------------------------------------------------------------------------------------------


def ticking(*which: str) -> tuple[EmbeddedLog, EmbeddedHost]:
    log = EmbeddedLog()
    return log, host_on(log, *which, intake=IntakePolicy(allowed_lateness=3600))


def test_a_tick_resolves_alerts_that_are_quiet() -> None:
    log, host = ticking(EVERY)
    log.append(topics.USER_EVENTS, [event(n, user_id=f"u{n}") for n in range(5)])
    log.append(topics.TICKS, [tick_record(1.7e9 + 2 * DAY, 1.7e9 + 2 * DAY)])
    process_all(host)
    ends = values(outputs(log)[topics.ALERTS])[5:]
    assert [(v["entity_id"], v["status"]) for v in ends] == [(f"u{n}", "resolved") for n in range(5)]


def test_a_tick_scores_and_labels_who_is_silent() -> None:
    log, host = ticking(SILENT)
    log.append(topics.USER_EVENTS, [event(n, user_id=f"u{n}") for n in range(5)])
    process_all(host)
    assert host.stats.predictions == 0
    log.append(topics.TICKS, [tick_record(1.7e9 + 4 * DAY, 1.7e9 + 4 * DAY)])
    process_all(host)
    assert (host.stats.predictions, host.stats.examples, host.stats.alerts) == (5, 5, 10)
    assert {v["status"] for v in values(outputs(log)[topics.ALERTS])[5:]} == {"resolved"}


def test_a_tick_makes_no_event_late() -> None:
    log, host = ticking(FRAUD)
    log.append(topics.USER_EVENTS, [event(n) for n in range(3)])
    log.append(topics.TICKS, [tick_record(1.7e9 + 9 * DAY, 1.7e9 + 9 * DAY)])
    log.append(topics.USER_EVENTS, [event(5)])
    process_all(host)
    assert (host.stats.events, host.stats.dead_letters) == (4, 0)


@pytest.mark.parametrize("value", [b"", b"soon", b"nan", b"1e300", b"-1", orjson.dumps({"to": 1})])
def test_a_tick_that_says_no_time_is_a_dead_letter(value: bytes) -> None:
    log, host = ticking(FRAUD)
    log.append(topics.TICKS, [Record(b"", value, 1.7e9), tick_record(1.7e9, 1.7e9)])
    process_all(host)
    (letter,) = values(outputs(log)[topics.DEAD_LETTERS])
    assert (letter["topic"], letter["offset"]) == (topics.TICKS, 0)
    assert "in epoch seconds" in letter["reason"]


def test_a_tick_far_ahead_of_its_writing_is_a_dead_letter() -> None:
    log, host = ticking(CHURN)
    log.append(topics.USER_EVENTS, [event(n, user_id=f"u{n}") for n in range(3)])
    log.append(topics.TICKS, [tick_record(1.7e9 + 30 * DAY, 1.7e9)])
    process_all(host)
    assert (host.stats.predictions, host.stats.dead_letters) == (0, 1)
    assert np.isfinite(host.intake["user-events-0"].watermark)
