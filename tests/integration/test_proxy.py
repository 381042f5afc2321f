"""The proxy of the other tests is as bad as it says, and well again when it says so."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.integration.kafka_node import free_ports
from tests.integration.proxy import Proxy

pytestmark = pytest.mark.integration


@pytest.fixture
def echo() -> Iterator[int]:
    """A server that sends back what it gets; its port."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            while data := _receive(connection):
                connection.sendall(data)

    def accept() -> None:
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield int(server.getsockname()[1])
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join()


def _receive(connection: socket.socket) -> bytes:
    try:
        return connection.recv(65_536)
    except ConnectionError:
        return b""


def connect(proxy: Proxy, timeout_s: float = 5) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout_s)


def say(connection: socket.socket, data: bytes) -> bytes:
    connection.sendall(data)
    heard = b""
    while len(heard) < len(data) and (more := connection.recv(65_536)):
        heard += more
    return heard


def test_a_good_network_forwards_everything(echo: int) -> None:
    data = bytes(range(256)) * 4_000
    with Proxy(echo) as proxy, connect(proxy) as connection:
        sender = threading.Thread(target=connection.sendall, args=(data,))
        sender.start()
        heard = b""
        while len(heard) < len(data):
            heard += connection.recv(65_536)
        sender.join()
    assert heard == data


def test_a_delay_is_on_each_way(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as connection:
        assert say(connection, b"warm") == b"warm"
        proxy.delay(there_ms=100, back_ms=50)
        began = time.monotonic()
        assert say(connection, b"slow") == b"slow"
        assert time.monotonic() - began > 0.149


def test_cut_connections_end_and_new_ones_work(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as connection:
        assert say(connection, b"x") == b"x"
        assert proxy.cut() == 1
        assert _receive(connection) == b""
        with connect(proxy) as again:
            assert say(again, b"y") == b"y"


def test_nobody_gets_in_while_it_refuses(echo: int) -> None:
    with Proxy(echo) as proxy:
        proxy.refuse()
        with pytest.raises(ConnectionRefusedError):
            connect(proxy)
        proxy.heal()
        with connect(proxy) as connection:
            assert say(connection, b"z") == b"z"


def test_half_open_connections_get_what_was_held_back_when_it_heals(echo: int) -> None:
    with Proxy(echo) as proxy, connect(proxy) as before:
        assert say(before, b"x") == b"x"
        proxy.hold()
        before.sendall(b"held")
        with connect(proxy, 0.2) as after:
            after.sendall(b"new")
            for connection in (before, after):
                connection.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    connection.recv(10)
            proxy.heal()
            for connection, sent in ((before, b"held"), (after, b"new")):
                connection.settimeout(5)
                assert connection.recv(10) == sent


def test_a_server_that_is_not_there_is_a_connection_that_ends() -> None:
    with Proxy(free_ports(1)[0]) as proxy, connect(proxy) as connection:
        assert _receive(connection) == b""
