"""The process that forks others for `tests.integration.forked`: ``python -P forking.py SOCKET MODULE ...``.

It imports the modules, and has one thread. Over the socket comes what a process is to be, with its standard output and
a socket for its number, its descriptor and its exit status. It ends when the socket is closed.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import selectors
import signal
import socket
import sys
import warnings
from importlib import import_module
from typing import Any

_MESSAGE_BYTES = 1 << 17


def load(modules: list[str]) -> None:
    """Import them, and what numba imports for its first kernel."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        for module in modules:
            import_module(module)
    if "numba.core.registry" in modules:
        target = sys.modules["numba.core.registry"].cpu_target
        target.typing_context.refresh()
        target.target_context.refresh()
    gc.collect()
    gc.freeze()


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork until there is nobody to do it for. Returns in each child, too: what it is to be."""
    children: dict[int, tuple[int, socket.socket]] = {}
    with selectors.DefaultSelector() as selector:
        selector.register(requests, selectors.EVENT_READ)
        while True:
            for key, _ in selector.select():
                if key.fd in children:
                    selector.unregister(key.fd)
                    tell(key.fd, *children.pop(key.fd))
                    continue
                message, descriptors, _, _ = socket.recv_fds(requests, _MESSAGE_BYTES, 2)
                if not message:
                    return None
                out, status = descriptors[0], socket.socket(fileno=descriptors[1])
                pid = os.fork()
                if pid == 0:
                    os.dup2(out, 1)
                    os.dup2(out, 2)
                    for each in (requests, status, *(other for _, other in children.values())):
                        each.close()
                    for descriptor in (out, *children):
                        os.close(descriptor)
                    asked: dict[str, Any] = json.loads(message)
                    return asked
                os.close(out)
                descriptor = os.pidfd_open(pid)
                socket.send_fds(status, [str(pid).encode()], [descriptor])
                children[descriptor] = (pid, status)
                selector.register(descriptor, selectors.EVENT_READ)


def tell(descriptor: int, pid: int, status: socket.socket) -> None:
    """Say how a child ended, if anybody still wants to know."""
    _, how = os.waitpid(pid, 0)
    os.close(descriptor)
    with status:
        try:
            status.send(str(os.waitstatus_to_exitcode(how)).encode())
        except BrokenPipeError:
            return


def become(asked: dict[str, Any]) -> None:
    """Be ``python [-P] -m MODULE ARGUMENTS``."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(asked["cwd"])
    os.environ.clear()
    os.environ.update(asked["environment"])
    words = iter(asked["arguments"])
    if (word := next(words)) == "-P":
        word = next(words)
    else:
        sys.path.insert(0, asked["cwd"])
    assert word == "-m", asked["arguments"]
    module = next(words)
    sys.argv = [module, *words]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C at the terminal is for pytest
    requests = socket.socket(fileno=int(sys.argv[1]))
    load(sys.argv[2:])
    asked = serve(requests)
    if asked is not None:
        become(asked)
