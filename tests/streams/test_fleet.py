"""Processes that are kept running: real ones, with a fleet in a process of its own, as it waits for signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from tests.integration.kafka_broker import REPOSITORY, eventually
from weir.streams.config.settings import WorkerSettings

FLEET = """
import asyncio, logging, sys
from weir.streams.ops.fleet import Fleet, Pauses

logging.basicConfig(level="INFO")
member = [sys.executable, "-c", sys.argv[1]]
commands = [[*member, str(n), status] for n, status in enumerate(sys.argv[2].split(","))]
sys.exit(asyncio.run(Fleet(commands, PAUSES).run()))
"""
MEMBER = """
import signal, sys, time
from pathlib import Path
from weir.streams.ops.fleet import end_with_stdin

number, status = sys.argv[1:]
said = Path(number)

def end(*_):
    with said.open("a") as out:
        out.write("told ")
    if status != "deaf":
        sys.exit(int(status))

signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, signal.SIG_DFL)
end_with_stdin()
with said.open("a") as out:
    out.write("up ")
while True:
    time.sleep(60)
"""
PATIENCE_S = 60.0


class Running:
    """A fleet of members that write down in files of their numbers what happens to them."""

    def __init__(self, folder: Path, statuses: str, pauses: str = "Pauses(0.05, 0.1)") -> None:
        self._folder, self._count = folder, statuses.count(",") + 1
        with (folder / "log").open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-c", FLEET.replace("PAUSES", pauses), MEMBER, statuses], cwd=folder, stderr=log,
                env={**os.environ, "PYTHONPATH": str(REPOSITORY)}, start_new_session=True,
            )  # fmt: skip

    def __enter__(self) -> Running:
        self.wait_for(["up"] * self._count)
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()  # its members end with it, as a test makes sure
        self.process.wait()

    def members(self) -> list[psutil.Process]:
        """The processes that run now."""
        return list(psutil.Process(self.process.pid).children())

    def told(self) -> list[str]:
        """What each member wrote."""
        files = [self._folder / str(n) for n in range(self._count)]
        return [file.read_text().strip() if file.exists() else "" for file in files]

    def wait_for(self, told: list[str]) -> None:
        """Until the members wrote this."""
        eventually(lambda: self.told() == told, PATIENCE_S, f"the members write {told}, not {self.told()}")

    def log(self) -> str:
        """What the fleet said."""
        return (self._folder / "log").read_text()


def test_one_that_ends_is_started_again_and_the_other_goes_on(tmp_path: Path) -> None:
    with Running(tmp_path, "0,0") as fleet:
        first = min(fleet.members(), key=lambda member: member.cmdline()[-2])
        other = {member.pid for member in fleet.members()} - {first.pid}
        first.kill()
        fleet.wait_for(["up up", "up"])
        assert other < {member.pid for member in fleet.members()}
        assert "process 1 of 2 ended with status -9; it starts again in 0.05 s" in fleet.log()


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_a_signal_is_told_to_all_once_and_nothing_is_started_again(
    tmp_path: Path, number: signal.Signals, status: int
) -> None:
    with Running(tmp_path, "0,0,0") as fleet:
        os.killpg(fleet.process.pid, number)  # as a terminal does
        assert fleet.process.wait(PATIENCE_S) == status
        assert fleet.told() == ["up told"] * 3


def test_the_status_is_of_one_that_did_not_end_well(tmp_path: Path) -> None:
    with Running(tmp_path, "0,75") as fleet:
        fleet.process.terminate()
        assert fleet.process.wait(PATIENCE_S) == 75


def test_a_second_ctrl_c_kills_all(tmp_path: Path) -> None:
    with Running(tmp_path, "0,deaf") as fleet:
        members = fleet.members()
        fleet.process.send_signal(signal.SIGINT)
        fleet.wait_for(["up told", "up told"])
        fleet.process.send_signal(signal.SIGINT)
        assert fleet.process.wait(PATIENCE_S) == 130
        assert psutil.wait_procs(members, PATIENCE_S)[1] == []


def test_a_signal_while_one_waits_to_be_started_again_ends_the_wait(tmp_path: Path) -> None:
    with Running(tmp_path, "0,0", "Pauses(1e3, 1e3)") as fleet:
        fleet.members()[0].kill()
        eventually(lambda: "starts again in 1000 s" in fleet.log(), PATIENCE_S, "it waits")
        fleet.process.terminate()
        assert fleet.process.wait(PATIENCE_S) == 0


def test_they_end_with_the_fleet_however_it_ends(tmp_path: Path) -> None:
    with Running(tmp_path, "0,0") as fleet:
        members = fleet.members()
        fleet.process.kill()
        fleet.wait_for(["up told", "up told"])
        assert psutil.wait_procs(members, PATIENCE_S)[1] == []


def test_each_process_has_a_name_and_a_port_of_its_own() -> None:
    settings = WorkerSettings(processes=2, instance_id="shop", web_port=8090)
    found = [settings.of_process(number) for number in (1, 2)]
    assert [(s.instance(), s.web_port, s.processes) for s in found] == [("shop-1", 8090, 1), ("shop-2", 8091, 1)]
    nameless = WorkerSettings(processes=2, web_port=0).of_process(2)
    assert (nameless.instance(), nameless.web_port) == (None, 0)
    assert WorkerSettings(processes=2, web_port="auto").of_process(2).web_port == "auto"


def test_ports_that_do_not_exist_are_refused() -> None:
    with pytest.raises(ValueError, match="web_port = 65535 leaves no port for each of processes = 2"):
        WorkerSettings(processes=2, web_port=65_535)
