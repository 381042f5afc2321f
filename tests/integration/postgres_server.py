"""A real PostgreSQL for tests, in a directory of its own."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

BIN = max(Path("/usr/lib/postgresql").glob("*/bin"), default=None)


def _run(*command: str | Path) -> None:
    """As the user of Debian's package where we are root, which PostgreSQL refuses to be."""
    head = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    subprocess.run([*head, *command], check=True, stdout=subprocess.DEVNULL, cwd="/")


@contextmanager
def postgres_server() -> Iterator[str]:
    """The URL of a server that runs meanwhile."""
    assert BIN is not None, "install Debian's postgresql"
    directory = Path(subprocess.check_output(["mktemp", "-d", "/tmp/weir-postgres-XXXXXX"], text=True).strip())
    if os.geteuid() == 0:
        shutil.chown(directory, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    data = directory / "data"
    _run(BIN / "initdb", "-D", data, "-U", "weir", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
    options = f"-p {port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={directory} -c fsync=off"
    _run(BIN / "pg_ctl", "-D", data, "-o", options, "-l", directory / "log", "-w", "start")
    try:
        yield f"postgresql+psycopg://weir@127.0.0.1:{port}/postgres"
    finally:
        _run(BIN / "pg_ctl", "-D", data, "-m", "immediate", "stop")
        shutil.rmtree(directory)
