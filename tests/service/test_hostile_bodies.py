"""Bodies that want to hurt: each gets a clear 4xx, in bounded memory, and the service goes on."""

from __future__ import annotations

import asyncio
import gzip
import json
import tracemalloc
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import cramjam
import pytest
from httpx import AsyncClient

from tests.service.running import EVENT, listening, make_service, running
from weir.streams.service.parts import OverloadError

pytestmark = pytest.mark.anyio
GOOD = json.dumps(EVENT).encode()
MIB = 1 << 20


def keys(count: int) -> bytes:
    return b"{" + b",".join(b'"k%d":1' % i for i in range(count)) + b"}"


async def lives(client: AsyncClient) -> bool:
    """Whether the service still takes an event."""
    answer = await client.post("/v1/events", json=EVENT)
    return answer.status_code == 200 and (await client.get("/ready")).status_code == 200


REFUSED = {  # what is refused as a record, with words of the reason
    "deep": (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "nested deeper than 32"),
    "deep and cut off": (b'{"a":' * 100_000, "nested deeper than 32"),
    "deep array in a record": (b'{"v":1,"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested deeper than 32"),
    "a million keys": (keys(1_000_000), "oversized: "),
    "many keys": (keys(50_000), "missing"),
    "many properties": (GOOD[:-1] + b',"properties":' + keys(10_000) + b"}", "properties"),
    "NUL in an id": (GOOD.replace(b'"e1"', b'"e\\u0000"'), "event_id"),
    "raw NUL": (GOOD.replace(b'"e1"', b'"e\0"'), "control character"),
    "invalid UTF-8": (GOOD.replace(b'"e1"', b'"e\xff"'), "byte 0xff"),
    "overlong UTF-8": (GOOD.replace(b'"e1"', b'"e\xc0\xaf"'), "byte 0xc0"),
    "a lone surrogate": (GOOD.replace(b'"e1"', b'"e\\ud800"'), "surrogate"),
    "a repeated key": (GOOD[:-1] + b',"user_id":"u2"}', "given more than once"),
    "a repeated key, escaped": (GOOD[:-1] + b',"us\\u0065r_id":"u2"}', "given more than once"),
    "a huge number": (GOOD.replace(b"9.5", b"1" * 5_000), "a number of 5000 characters"),
    "infinity": (GOOD.replace(b"9.5", b"1e999"), "amount"),
    "NaN": (GOOD.replace(b"9.5", b"NaN"), "NaN"),
    "a trailing comma": (GOOD[:-1] + b",}", "comma"),
    "two objects on a line": (GOOD + GOOD, "not JSON"),
    "an id of a megabyte": (GOOD.replace(b'"e1"', b'"' + b"e" * 900_000 + b'"'), "event_id"),
}
NONE = {  # what is no body of records, with its status and words
    "empty": (b"", 400, "empty"),
    "an empty array": (b" [] ", 400, "empty"),
    "blank": (b" \r\n\t", 400, "empty"),
    "a byte order mark": (b"\xef\xbb\xbf" + GOOD, 400, "byte order mark"),
    "UTF-16": (GOOD.decode().encode("utf-16"), 400, "UTF-16"),
    "XML": (b"<event/>", 400, "XML or HTML"),
    "a form": (b"user_id=u1&ts=3", 400, "no records"),
    "gzip without saying so": (gzip.compress(GOOD), 400, "gzip data"),
    "a number": (b"17", 400, "no records"),
    "an array cut off": (b"[" + GOOD + b",", 400, "cut off"),
    "an array and more": (b"[" + GOOD + b"] " + GOOD, 400, "after its end"),
    "a deep array": (b"[" * 1_000_000, 400, "cut off"),
    "a string that never ends": (b'[{"a":"' + b"x" * MIB, 400, "cut off"),
    "too many items": (b"[" + b"0," * 5_000_000 + b"0]", 413, "more than 10,000"),
    "too many lines": (b"{}\n" * 5_000_000, 413, "more than 10,000"),
    "empty lines": (b"{}\n{}" + b"\n" * 10_000_000, 413, "more than 10,000"),
    "too many bytes": (b" " * (17 * MIB), 413, "allowed 16,777,216"),
}


@pytest.fixture(scope="module")
async def client(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[AsyncClient]:
    """Of one service that lives through all of it."""
    async with running(tmp_path_factory.mktemp("service")) as (_, client):
        yield client


@pytest.mark.parametrize("name", REFUSED)
async def test_a_hostile_record_is_refused_with_words_and_harms_no_other(name: str, client: AsyncClient) -> None:
    record, words = REFUSED[name]
    alone = await client.post("/v1/events", content=record)
    decided = await client.post("/v1/decisions", content=record)
    good = json.dumps({**EVENT, "event_id": f"beside {name}"}).encode()
    beside = await client.post(
        "/v1/events", content=record + b"\n" + good, headers={"Content-Type": "application/x-ndjson"}
    )
    assert await lives(client)
    assert (alone.status_code, alone.json()["title"]) == (422, "All refused")
    assert words in alone.json()["detail"]
    assert words in decided.json()["results"][0]["reason"]
    assert (beside.json()["accepted"], beside.json()["refused"]) == (1, 1)


@pytest.mark.parametrize("name", NONE)
async def test_a_body_that_holds_no_records_says_what_it_is(name: str, client: AsyncClient) -> None:
    body, status, words = NONE[name]
    for route in ("events", "labels", "decisions"):
        answer = await client.post(f"/v1/{route}", content=body)
        assert await lives(client), route
        assert answer.status_code == status, route
        assert answer.headers["Content-Type"] == "application/problem+json", route
        told = answer.json()["detail"]
        assert words in told or (status == 413 and route == "decisions" and "more than 1,000" in told), route


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_a_bomb_is_refused_before_it_is_unpacked(encoding: str, tmp_path: Path) -> None:
    if encoding == "gzip":
        packer = zlib.compressobj(1, wbits=31)
        bomb = b"".join(packer.compress(bytes(MIB)) for _ in range(256)) + packer.flush()
    else:
        packed = cramjam.zstd.Compressor()
        for _ in range(256):
            packed.compress(bytes(MIB))
        bomb = bytes(packed.finish())
    assert len(bomb) < 2 * MIB
    async with running(tmp_path) as (_, client):
        tracemalloc.start()
        answer = await client.post("/v1/events", content=bomb, headers={"Content-Encoding": encoding})
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert await lives(client)
    assert (answer.status_code, answer.json()["limit"]) == (413, 16 * MIB)
    assert most < 64 * MIB


@pytest.mark.parametrize(
    ("encoding", "body", "status", "words"),
    [
        ("gzip", b"no gzip", 400, "not gzip"),
        ("gzip", gzip.compress(GOOD, mtime=0)[:-9], 400, "ends early"),
        ("zstd", b"no zstd", 400, "not zstd"),
        ("zstd", bytes(cramjam.zstd.compress(GOOD))[:-3], 400, "zstd"),
        ("br", GOOD, 415, "gzip or zstd"),
        ("gzip, gzip", gzip.compress(gzip.compress(GOOD, mtime=0), mtime=0), 415, "one of them"),
    ],
)
async def test_a_body_that_is_not_what_its_encoding_says(
    encoding: str, body: bytes, status: int, words: str, tmp_path: Path
) -> None:
    async with running(tmp_path) as (_, client):
        answer = await client.post("/v1/events", content=body, headers={"Content-Encoding": encoding})
        assert await lives(client)
    assert answer.status_code == status
    assert words in answer.json()["detail"]


async def test_an_array_of_tiny_items_takes_no_memory(tmp_path: Path) -> None:
    body = b"[" + b"{}," * 5_000_000 + b"{}]"
    async with running(tmp_path) as (_, client):
        assert await lives(client)
        tracemalloc.start()
        answer = await client.post("/v1/events", content=body)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert answer.status_code == 413
    assert most < 4 * len(body)  # the body, whole and in parts


async def test_too_much_that_waits_is_503_and_may_be_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def full(*_: object) -> None:
        raise OverloadError("50,000 records wait")

    async with running(tmp_path) as (service, client):
        with monkeypatch.context() as patch:
            patch.setattr(service.log, "append", full)
            for route in ("events", "decisions"):
                answer = await client.post(f"/v1/{route}", json=EVENT)
                assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
        assert await lives(client)


# On a socket of their own: what no client library would send


async def talk(port: int, *parts: bytes, half_close: bool = False) -> bytes:
    """Send raw bytes, and read until the connection ends."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    for part in parts:
        writer.write(part)
        await writer.drain()
    if half_close:
        writer.write_eof()
    answer = await reader.read()
    writer.close()
    return answer


def post(*headers: str) -> bytes:
    lines = ("POST /v1/events HTTP/1.1", "Host: 127.0.0.1", *headers, "", "")
    return "\r\n".join(lines).encode()


async def takes_events(port: int) -> bool:
    head = post(f"Content-Length: {len(GOOD)}", "Connection: close")
    return (await talk(port, head, GOOD)).startswith(b"HTTP/1.1 200")


async def test_bodies_on_the_wire(tmp_path: Path) -> None:
    service = make_service(tmp_path, serve={"intake": {"body_timeout_s": 0.2}})
    async with listening(service) as port:
        # A body that never comes, and one that stops half way: a slow-loris does not hold its place for long.
        assert b"HTTP/1.1 408" in await talk(port, post("Content-Length: 100"))
        assert b"Body too slow" in await talk(port, post("Content-Length: 100"), GOOD[:20])
        assert b"HTTP/1.1 408" in await talk(port, post("Transfer-Encoding: chunked"), b'5\r\n{"v":\r\n')
        # One that says it is larger than allowed is refused before it is sent.
        assert b"HTTP/1.1 413" in await talk(port, post(f"Content-Length: {1 << 40}"))
        # Lengths that are none, and both ways of saying one, are refused by the server itself.
        for headers in (["Content-Length: -1"], ["Content-Length: x"], ["Content-Length: 9", "Content-Length: 10"]):
            answer = await talk(port, post(*headers), GOOD, half_close=True)
            assert answer.startswith(b"HTTP/1.1 4")
        # More than its length: the rest is no request.
        head = post("Content-Length: 5")
        assert b"HTTP/1.1 4" in await talk(port, head, GOOD, half_close=True)
        # Chunked, as clients that do not know the length send it.
        chunks = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in (GOOD[:30], GOOD[30:])) + b"0\r\n\r\n"
        whole = await talk(port, post("Transfer-Encoding: chunked", "Connection: close"), chunks)
        assert whole.startswith(b"HTTP/1.1 200")
        # A connection that ends in the middle of a body.
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(post("Content-Length: 100") + GOOD[:20])
        await writer.drain()
        writer.close()
        assert await takes_events(port)
