"""Checkpoints of the embedded host: a crash anywhere leaves no trace, and one that does not fit is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.streams.host_runs import CHURN, FRAUD, PARTITIONS, host_on, inputs, outputs, process_all, run, straight_run
from weir.online.errors import StateError
from weir.streams.embedded.embedded_log import EmbeddedLog


@settings(max_examples=4, deadline=None)
@given(st.data())
def test_a_crash_anywhere_leaves_no_trace(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Checkpoints now and then, several crashes, torn files: the outputs are those of the uninterrupted run."""
    straight, calls = straight_run(), inputs()
    folder = tmp_path_factory.mktemp("state")
    every = data.draw(st.integers(1, 9), "checkpoint every")
    crashes = sorted(data.draw(st.sets(st.integers(1, len(calls) - 1), max_size=3), "crashes"))
    for stop in [*crashes, len(calls)]:
        log = EmbeddedLog(PARTITIONS, folder / "log")
        host = host_on(log, checkpoints=folder / "checkpoints")
        resumed = host.resume()
        start = int(host.resumed_extra) if resumed else 0
        for at in range(start, stop):
            log.append(*calls[at])
            waits = at % every == 0 and data.draw(st.booleans(), "checkpoint before it is processed")
            if waits:
                host.checkpoint(b"%d" % (at + 1))
            process_all(host)
            if at % every == 0 and not waits:
                host.checkpoint(b"%d" % (at + 1))
        held = (folder / "log" / "records.log").stat().st_size
        log.close()
        if stop < len(calls):
            _tear(folder / "log" / "records.log", held, data)
    with EmbeddedLog(PARTITIONS, folder / "log") as log:
        assert outputs(log) == straight.outputs
    assert host.stats == straight.host.stats


def _tear(path: Path, keep: int, data: st.DataObject) -> None:
    """Lose some bytes that were written since the last sync; those before ``keep`` are on the disk."""
    size = path.stat().st_size
    lost = data.draw(st.integers(0, min(500, max(0, size - keep))), "bytes lost")
    with path.open("r+b") as file:
        file.truncate(size - lost)


def test_a_checkpoint_taken_with_input_waiting_loses_none_of_it(tmp_path: Path) -> None:
    calls, straight = inputs()[:6], EmbeddedLog(PARTITIONS)
    run(straight, host_on(straight), calls)
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        run(log, host, calls[:3])
        for topic, records in calls[3:]:
            log.append(topic, records)
        host.checkpoint()
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        assert host.resume()
        assert process_all(host) == sum(len(records) for _, records in calls[3:])
        assert outputs(log) == outputs(straight)


def test_resume_takes_up_the_place_in_the_log(tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        run(log, host, inputs()[:6])
        seq = host.seq
        host.checkpoint()
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        host = host_on(log, checkpoints=tmp_path)
        host.resume()
        assert host.seq == seq > 0


def test_without_a_checkpoint_the_log_starts_anew(tmp_path: Path) -> None:
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        run(log, host_on(log), inputs()[:3])
    with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
        assert not host_on(log, checkpoints=tmp_path).resume()
        assert log.next_seq == 0


class TestCheckpoints:
    @pytest.fixture
    def folder(self, tmp_path: Path) -> Path:
        with EmbeddedLog(PARTITIONS, tmp_path / "log") as log:
            host = host_on(log, FRAUD, CHURN, checkpoints=tmp_path)
            run(log, host, inputs()[:3])
            host.checkpoint()
        return tmp_path

    def resume(self, folder: Path, *which: str) -> bool:
        with EmbeddedLog(PARTITIONS, folder / "log") as log:
            return host_on(log, *which, checkpoints=folder).resume()

    def test_the_same_tasks_resume(self, folder: Path) -> None:
        assert self.resume(folder, FRAUD, CHURN)

    def test_one_of_other_tasks_is_refused(self, folder: Path) -> None:
        with pytest.raises(
            StateError, match=r"of the tasks \['churn', 'fraud'\], now there are \['fraud'\]; start with"
        ):
            self.resume(folder, FRAUD)

    def test_one_of_other_features_is_refused(self, folder: Path) -> None:
        with pytest.raises(StateError, match="start with a fresh"):
            self.resume(folder, FRAUD.replace('windows = ["1d"]', 'windows = ["2d"]'), CHURN)

    def test_one_of_another_model_is_refused(self, folder: Path) -> None:
        with pytest.raises(StateError, match="task churn: the state does not fit"):
            self.resume(folder, FRAUD, CHURN.replace('"logistic"', '"adaptive_tree"'))

    @pytest.mark.parametrize("where", [0, 10, 100, -1])
    def test_a_damaged_one_is_refused(self, folder: Path, where: int) -> None:
        path = folder / "checkpoint.bin"
        data = bytearray(path.read_bytes())
        data[where] ^= 1
        path.write_bytes(data)
        with pytest.raises(StateError, match=r"checkpoint.bin: damaged \(\d+ B\); remove the directory"):
            self.resume(folder, FRAUD, CHURN)

    @pytest.mark.parametrize("size", [0, 3, 36, 50])
    def test_a_torn_one_is_refused(self, folder: Path, size: int) -> None:
        path = folder / "checkpoint.bin"
        path.write_bytes(path.read_bytes()[:size])
        with pytest.raises(StateError, match="damaged"):
            self.resume(folder, FRAUD, CHURN)

    def test_one_that_is_ahead_of_its_log_is_refused(self, folder: Path) -> None:
        (folder / "log" / "records.log").unlink()
        with pytest.raises(StateError, match=r"written at batch \d+ of the log, which ends at 0: it is of another log"):
            self.resume(folder, FRAUD, CHURN)

    def test_a_half_written_new_one_leaves_the_old(self, folder: Path) -> None:
        (folder / "checkpoint.part").write_bytes(b"WCP1half")
        assert self.resume(folder, FRAUD, CHURN)
