"""What a command writes is there whole or not at all, and a full disk is one sentence."""

from __future__ import annotations

import errno
import re
import subprocess
import sys
from pathlib import Path

import pytest

from weir.streams.cli import main
from weir.streams.errors import UsageError
from weir.streams.whole_files import write_whole

_LITTLE_SPACE = """
import resource, sys
from pathlib import Path
from weir.streams.errors import UsageError
from weir.streams.whole_files import write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))
try:
    write_whole(Path(sys.argv[1]), b"x" * 101)
except UsageError as exc:
    print(exc)
"""
"""A process of its own: the limit is of all threads and files of one, those of the tests before too."""


def test_a_file_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    target, link = tmp_path / "task.toml", tmp_path / "link.toml"
    write_whole(target, b"before")
    target.chmod(0o640)
    link.symlink_to(target)
    ran = subprocess.run([sys.executable, "-c", _LITTLE_SPACE, str(link)], capture_output=True, text=True, check=True)
    assert re.search(r"link.toml cannot be written: .*check its rights and the", ran.stdout)
    assert (target.read_bytes(), sorted(each.name for each in tmp_path.iterdir())) == (
        b"before", ["link.toml", "task.toml"],
    )  # fmt: skip
    write_whole(link, b"after")
    assert (link.is_symlink(), target.read_bytes(), target.stat().st_mode & 0o777) == (True, b"after", 0o640)


def test_what_is_no_file_is_written_to_and_not_replaced() -> None:
    full, null = Path("/dev/full"), Path("/dev/null")
    with pytest.raises(UsageError, match=r"/dev/full cannot be written: .*No space left"):
        write_whole(full, b"x")
    write_whole(null, b"x")
    assert full.is_char_device()
    assert null.is_char_device()


def test_ctrl_c_before_the_command_has_begun_is_no_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(SystemExit) as ended:
        main.run()
    assert (ended.value.code, capsys.readouterr().err) == (130, "")


def test_a_disk_that_is_full_somewhere_else_is_an_error_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fails(**_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(main, "app", fails)
    with pytest.raises(SystemExit) as ended:
        main.run()
    said = capsys.readouterr().err
    assert (ended.value.code, said) == (
        2, "error: No space left on device: free some, also for temporary files, and run it again\n",
    )  # fmt: skip
