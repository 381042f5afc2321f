"""``weir dlq`` against a real broker: dead letters are listed and shown, sent again once, or dropped."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
import pytest

from tests.integration.kafka_commands import T0, Weir, event
from weir.online.codec.columns import ColumnRequest
from weir.online.codec.decode import decode_user_events
from weir.online.intake_policy import IntakePolicy
from weir.online.stages.admission import Admission
from weir.streams.config import topics
from weir.streams.kafka.admin import dead_letters as letters_module
from weir.streams.outputs import dead_letter
from weir.streams.records import Record, RefusedRecord

pytestmark = pytest.mark.integration
NOW = 1_790_000_000.0


def bury(weir: Weir, refused: list[tuple[str, int, int, str, bytes, bytes | None]]) -> list[str]:
    """Write dead letters as the hosts do; the ids of the letters."""
    bad = [(t, p, RefusedRecord(o, why, Record(key or b"", raw, NOW))) for t, p, o, why, raw, key in refused]
    records = [dead_letter(t, p, each, NOW, 1 << 20) for t, p, each in bad]
    return [f"{p}-{o}" for p, o in weir.write(topics.DEAD_LETTERS, [(r.key, r.value) for r in records])]


@pytest.fixture
def clean(weir: Weir) -> Weir:
    """No open letters."""
    assert weir("dlq", "drop", "--all", "--yes").status == 0
    return weir


def test_letters_are_listed_by_topic_and_reason_and_shown_by_either_id(clean: Weir) -> None:
    raw = event(1, amount=-4)
    ids = bury(clean, [("user-events", 2, 70 + i, f"amount: too small, got {i}", raw, b"u1") for i in range(3)])
    bury(clean, [("device-events", 0, 5, "not JSON", b"\xff\x1b[2J", None)])
    groups = orjson.loads(clean("dlq", "list", "--json").out)
    assert [(g["topic"], g["reason"], g["count"]) for g in groups] == [
        ("user-events", "amount: too small, got ...", 3),
        ("device-events", "not JSON", 1),
    ]
    each = clean("dlq", "list", "--each", "--topic", "user-events", "--json").lines
    assert [e["origin"] for e in each] == ["user-events-2-70", "user-events-2-71", "user-events-2-72"]
    for letter_id in (ids[1], f"dead-letters-{ids[1]}", "user-events-2-71"):
        page = clean("dlq", "show", letter_id)
        assert page.status == 0
        assert "amount: too small, got 1" in page.out
        assert '"amount": -4' in page.out
        assert "u1" in page.out
    shown = clean("dlq", "show", "device-events-0-5").out
    assert "not JSON: \\xff\\x1b[2J" in shown
    assert "\x1b" not in shown
    missing = clean("dlq", "show", "user-events-9-9")
    assert (missing.status, "no dead letter user-events-9-9" in missing.err) == (2, True)


def test_a_replay_sends_the_same_bytes_under_the_same_key_once(clean: Weir) -> None:
    raws = [event(100 + i, user=f"w{i}") for i in range(20)]
    places = clean.write(topics.USER_EVENTS, [(b"w%d" % i, raw) for i, raw in enumerate(raws)])
    bury(clean, [("user-events", p, o, "unknown field", raws[i], b"w%d" % i) for i, (p, o) in enumerate(places)])
    (kept,) = bury(clean, [("labels", 4, 1, "no such task", b"junk without a key", None)])
    before = len(clean.read(topics.USER_EVENTS))
    dry = clean("dlq", "replay", "--topic", "user-events", "--dry-run")
    assert (dry.status, "nothing done (--dry-run)" in dry.err) == (0, True)
    assert len(clean.read(topics.USER_EVENTS)) == before
    done = clean("dlq", "replay", "--topic", "user-events", "--yes")
    assert (done.status, "replayed 20 dead letters" in done.err) == (0, True), done.err
    sent = {r.value: r for r in clean.read(topics.USER_EVENTS) if r.headers}
    assert set(sent) == set(raws)
    for i, raw in enumerate(raws):
        assert (sent[raw].key, sent[raw].partition) == (b"w%d" % i, places[i][0]), "the entity's partition again"
        assert sent[raw].headers[0][0] == letters_module.REPLAYED_FROM
    again = clean("dlq", "replay", "--topic", "user-events", "--yes")
    assert (again.status, "nothing done" in again.err) == (0, True)
    assert len(clean.read(topics.USER_EVENTS)) == before + 20
    assert [e["id"] for e in clean("dlq", "list", "--each", "--json").lines] == [f"dead-letters-{kept}"]
    assert {e["state"] for e in clean("dlq", "list", "--each", "--done", "--json", "--reason", "unknown").lines} >= {
        "replayed"
    }
    assert clean("dlq", "replay", "labels-4-1").status == 0
    (found,) = [r for r in clean.read(topics.LABELS) if r.value == b"junk without a key"]
    assert (found.key, found.partition) == (None, 4), "no key is known: the partition it was in"


def test_a_replay_that_dies_before_its_markers_sends_twice_and_the_intake_drops_the_repeat(
    clean: Weir, monkeypatch: pytest.MonkeyPatch
) -> None:
    bury(clean, [("user-events", 1, 999, "unknown field", event(777, user="twice"), b"twice")])

    def die(*_: Any) -> int:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(letters_module, "mark", die)
        assert clean("dlq", "replay", "user-events-1-999").status == 130
    assert clean("dlq", "replay", "user-events-1-999").status == 0
    sent = [r.value for r in clean.read(topics.USER_EVENTS) if r.key == b"twice"]
    assert len(sent) == 2
    decoded = decode_user_events(sent, ColumnRequest())
    admitted = Admission(IntakePolicy()).admit(decoded.batch, np.full(2, T0))
    assert (admitted.batch.event_id, admitted.duplicates) == (["e777"], 1)


def test_dropped_letters_stay_readable_and_are_not_replayed(clean: Weir) -> None:
    (letter_id,) = bury(clean, [("user-events", 0, 1, "not JSON", b"{", None)])
    assert "dropped 1 dead letters" in clean("dlq", "drop", letter_id).err
    assert "dropped at" in clean("dlq", "show", letter_id).out
    refused = clean("dlq", "replay", letter_id)
    assert (refused.status, f"no open dead letter dead-letters-{letter_id}" in refused.err) == (2, True)


def test_letters_that_cannot_go_back_stop_a_replay_before_its_chunk(clean: Weir) -> None:
    forged = b'{"v":1,"task":"fraud","version":"1","action":"promote"}'
    bury(clean, [("user-events", 0, 1, "not JSON", b"{", None), ("model-updates", 0, 1, "not JSON", forged, None)])
    refused = clean("dlq", "replay", "--all", "--yes")
    assert (refused.status, "it is of model-updates, and letters go back to labels" in refused.err) == (2, True)
    assert clean.read(topics.MODEL_UPDATES) == []
    clean("dlq", "drop", "--all", "--yes")
    clean.write(topics.DEAD_LETTERS, [(None, b"what is this")])
    assert "this record is not a dead letter" in clean("dlq", "list").out
    assert clean("dlq", "replay", "--all", "--yes").status == 2


def test_dlq_wants_to_know_which_letters_and_whether_you_are_sure(clean: Weir) -> None:
    bury(clean, [("user-events", 0, 1, "not JSON", b"{", None)])
    for arguments in ((), ("--all", "--topic", "x")):
        refused = clean("dlq", "drop", *arguments)
        assert (refused.status, "say which letters" in refused.err) == (2, True)
    assert "nothing done" in clean("dlq", "drop", "--all", stdin=b"n\n").err
    unanswered = clean("dlq", "drop", "--all")
    assert (unanswered.status, "give --yes" in unanswered.err) == (2, True)
    assert "dropped 1" in clean("dlq", "drop", "--all", stdin=b"y\n").err
