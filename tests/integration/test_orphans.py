"""What a killed test process had started is killed, however it was started; what ended before is left alone."""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys

import pytest

from tests.integration.kafka_broker import REPOSITORY

STARTS = """
import subprocess, sys, tempfile
from pathlib import Path
from tests.integration.forked import Forks
from tests.integration.orphans import leave_none

sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
started = [subprocess.Popen(sleep, start_new_session=True) for _ in range(2)]
for process in started:
    leave_none(process.pid)
started[0].kill(), started[0].wait()
folder = Path(tempfile.mkdtemp())
(folder / "sleeps.py").write_text("import time; time.sleep(600)")
forks = Forks(("json",))
with (folder / "out").open("wb") as out:
    forked = forks.start(["-m", "sleeps"], forks.environment, folder, out.fileno())
print(started[1].pid, forked.pid, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(not hasattr(signal, "pidfd_send_signal"), reason="the system has no descriptors of processes")
@pytest.mark.parametrize("number", [signal.SIGKILL, None], ids=["killed", "ended"])
def test_nothing_is_left_of_a_test_process(number: signal.Signals | None) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", STARTS], cwd=REPOSITORY, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as tests:
        assert tests.stdout is not None
        left = [os.pidfd_open(int(pid)) for pid in tests.stdout.readline().split()]
        assert len(left) == 2
        if number is not None:
            tests.send_signal(number)
        else:
            tests.communicate()
    for descriptor in left:
        look = select.poll()
        look.register(descriptor, select.POLLIN)
        assert look.poll(60_000), "it still runs"
        os.close(descriptor)
