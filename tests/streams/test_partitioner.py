"""Which partitioner producers use: by what they wrote, settled once, and kept."""

from __future__ import annotations

import asyncio
import zlib
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from weir.streams.config.settings import Settings
from weir.streams.errors import UsageError
from weir.streams.kafka.partitioners import PartitionerName, partitions_of, partitions_of_text
from weir.streams.worker.identity import partitioner
from weir.streams.worker.identity.partitioner import settle_partitioner, which


@given(st.lists(st.text(max_size=40), max_size=20), st.integers(2, 64))
def test_crc32_is_that_of_zlib_and_murmur2_that_of_the_producer(ids: list[str], partitions: int) -> None:
    crc = [zlib.crc32(text.encode()) % partitions for text in ids]
    assert partitions_of_text(ids, partitions, "crc32").tolist() == crc
    murmur = partitions_of([text.encode() for text in ids], partitions)
    np.testing.assert_array_equal(partitions_of_text(ids, partitions), murmur)


@pytest.mark.parametrize("partitions", [2, 4, 12])
@pytest.mark.parametrize("by", ["murmur2", "crc32"])
def test_a_partitioner_is_known_by_what_it_did(by: PartitionerName, partitions: int) -> None:
    ids = [f"user-{i}" for i in range(60)]
    at = dict(zip(ids, partitions_of_text(ids, partitions, by).tolist(), strict=True))
    assert which(at, partitions) == by


def test_producers_that_set_no_key_or_disagree_get_kafkas_own() -> None:
    ids = [f"user-{i}" for i in range(60)]
    assert which({text: i % 4 for i, text in enumerate(ids)}, 4) == "murmur2"
    crc = dict(zip(ids[:30], partitions_of_text(ids[:30], 4, "crc32").tolist(), strict=True))
    mixed = crc | dict(zip(ids[30:], partitions_of_text(ids[30:], 4).tolist(), strict=True))
    assert which(mixed, 4) == "murmur2"


def test_a_few_entities_say_nothing() -> None:
    assert which({"a": 1, "b": 2}, 4) is None


class Link:
    """Redis with one key."""

    prefix = "weir"

    def __init__(self, held: bytes | None = None) -> None:
        self.held = held

    async def execute(self, name: str, key: str, *args: str) -> bytes | None:
        assert key == "weir:partitioner"
        if name == "SET" and self.held is None:
            self.held = args[0].encode()
        return self.held


class Context:
    def __init__(self, link: Link, setting: str) -> None:
        self.link, self.settings = link, Settings.model_validate({"topics": {"partitioner": setting}})


def settled(link: Link, setting: str = "auto") -> str:
    return asyncio.run(settle_partitioner(cast("Any", Context(link, setting))))


def test_what_is_settled_is_kept_and_not_looked_for_again(monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[str] = []

    async def find(_: object) -> str:
        looks.append("look")
        return "crc32"

    monkeypatch.setattr(partitioner, "_find", find)
    link = Link()
    assert [settled(link), settled(link)] == ["crc32", "crc32"]
    assert looks == ["look"]


def test_who_is_first_settles_it(monkeypatch: pytest.MonkeyPatch) -> None:
    link = Link()

    async def find(_: object) -> str:
        link.held = b"murmur2"  # another worker, meanwhile
        return "crc32"

    monkeypatch.setattr(partitioner, "_find", find)
    assert settled(link) == "murmur2"


def test_a_setting_settles_it_and_must_not_contradict_the_state() -> None:
    link = Link()
    assert settled(link, "crc32") == "crc32"
    with pytest.raises(UsageError, match="partitioner = 'murmur2', and the state in Redis was made by 'crc32'"):
        settled(link, "murmur2")
