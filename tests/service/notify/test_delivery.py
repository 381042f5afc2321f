"""What receivers get: signed webhooks, what apprise makes of a message, alerts of Alertmanager; never at home."""

from __future__ import annotations

import io
import logging
import socket
import threading
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace
from standardwebhooks import Webhook

from docs.pages.wire_examples import notified
from tests.service.notify.receiver import OLD_SECRET, SECRET, Receiver
from weir.streams.config.notify_settings import NotifyTarget
from weir.streams.errors import UsageError
from weir.streams.service.notify import delivery
from weir.streams.service.notify.delivery import Answer, check_target, deliver, public_only
from weir.streams.service.notify.messages import Delivery, document_of, text_of

# Apprise imports all its plugins at the first use.
pytestmark = pytest.mark.filterwarnings("ignore:'imghdr' is deprecated:DeprecationWarning")
BASE = "https://weir.example"
FIRST = notified()
JUDGED = replace(FIRST, id="ntf_2", what="judged", by="ana", verdict="false_alarm")


def target(kind: str, url: str, *, private: bool = True, **more: Any) -> NotifyTarget:
    secrets = [SECRET] if kind == "webhook" else []
    return NotifyTarget.model_validate(
        {"name": "one", "kind": kind, "url": url, "secrets": secrets, "allow_private": private, **more}
    )


def test_a_webhook_is_signed_by_every_secret_and_has_the_id_of_its_message() -> None:
    with Receiver() as receiver:
        answer = deliver(target("webhook", receiver.url, secrets=[SECRET, OLD_SECRET]), Delivery((FIRST,)), BASE)
        assert answer == Answer(True, "HTTP 204 No Content")
        (got,) = receiver.wait(1)
    for secret in (SECRET, OLD_SECRET):
        told = Webhook(secret).verify(got.body, got.headers)
        assert told["type"] == "alert.opened"
        assert told["data"]["thread"] == told["data"]["id"] == got.headers["webhook-id"] == FIRST.id
        assert told["data"]["url"] == f"{BASE}/console/alerts/fraud%3Auser-7%3Apay-1"
    with pytest.raises(Exception, match="No matching signature"):
        Webhook(OLD_SECRET[:-4] + "AAAA").verify(got.body, got.headers)


def test_apprise_takes_a_message_and_a_follow_up_that_names_it() -> None:
    with Receiver() as receiver:
        url = f"json://127.0.0.1:{receiver.port}/hook"
        for message in (FIRST, JUDGED):
            assert deliver(target("apprise", url), Delivery((message,)), BASE).ok
        first, follow_up = (request.json for request in receiver.wait(2))
    assert first["title"] == "[high] fraud: user-7"
    assert first["message"].startswith("17 events in 1 h (usually 2)")
    assert follow_up["title"] == "fraud: user-7: false alarm, says ana"
    assert "This is about the alert of 2023-11-14T22:13:20Z, fraud:user-7:pay-1" in follow_up["message"]


def test_alertmanager_is_told_what_stands_and_what_has_ended() -> None:
    with Receiver() as receiver:
        to = target("alertmanager", f"http://127.0.0.1:{receiver.port}/")
        for message in (FIRST, JUDGED, replace(JUDGED, verdict="unsure"), replace(FIRST, what="resolved")):
            assert deliver(to, Delivery((message,)), BASE).ok
        got = receiver.wait(4)
    assert {request.path for request in got} == {"/api/v2/alerts"}
    alerts = [request.json[0] for request in got]
    assert [alert["labels"] for alert in alerts] == 4 * [
        {"alertname": "WeirAlert", "rule": "desk", "task": "fraud", "entity": "user-7", "severity": "high",
         "alert_id": "fraud:user-7:pay-1"}
    ]  # fmt: skip
    ends = [alert["endsAt"] for alert in alerts]
    assert ends[1] < ends[0], "a verdict ends it"
    assert ends[3] < ends[2], "who is unsure ends nothing"


def test_a_receiver_that_answers_byte_by_byte_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(delivery, "_WHOLE_S", 0.3)
    given_up = threading.Event()

    def drip(listener: socket.socket) -> None:
        held, _ = listener.accept()
        with held, suppress(OSError):
            while not given_up.wait(0.02):
                held.send(b"H")

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=drip, args=(listener,))
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
        answer = deliver(target("webhook", url), Delivery((FIRST,)), BASE)
        given_up.set()
        thread.join()
    assert answer == Answer(False, "no answer within 0.3 s")


@pytest.mark.parametrize(
    ("kind", "url"),
    [
        ("webhook", "http://127.0.0.1:{port}/hook"),
        ("webhook", "http://localhost:{port}/hook"),
        ("webhook", "http://[::1]:{port}/hook"),
        ("webhook", "http://2130706433:{port}/hook"),
        ("alertmanager", "http://169.254.169.254/latest"),
        ("apprise", "json://localhost:{port}/hook"),
        ("apprise", "mailto://user:pass@weir.example?smtp=127.0.0.1"),
    ],
)
def test_private_addresses_are_refused_however_they_are_written(kind: str, url: str) -> None:
    with Receiver() as receiver:
        answer = deliver(target(kind, url.format(port=receiver.port), private=False), Delivery((FIRST,)), BASE)
        assert not answer.ok
        assert answer.words.endswith("is a private address; set allow_private = true for target one to allow it")
        assert receiver.got == []
        with socket.create_connection(("127.0.0.1", receiver.port)):
            pass  # others go where they want


def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    with Receiver(lambda _: 302) as receiver:
        for kind, url in (("webhook", receiver.url), ("apprise", f"json://127.0.0.1:{receiver.port}/hook")):
            assert not deliver(target(kind, url), Delivery((FIRST,)), BASE).ok
        assert len(receiver.got) == 2


def test_what_goes_wrong_is_an_answer_without_the_address() -> None:
    with Receiver(lambda _: 429) as receiver:
        assert deliver(target("webhook", receiver.url), Delivery((FIRST,)), BASE) == Answer(
            False, "HTTP 429 Too Many Requests", 7.0
        )
        gone = receiver.port
    for kind, url in (
        ("webhook", f"http://hush:hush@127.0.0.1:{gone}/hush"),
        ("apprise", f"json://127.0.0.1:{gone}/hush"),
    ):
        answer = deliver(target(kind, url), Delivery((FIRST,)), BASE)
        assert not answer.ok
        assert "hush" not in answer.words


def test_a_datagram_is_a_connection_too() -> None:
    with public_only(True) as refused, socket.socket(type=socket.SOCK_DGRAM) as any_socket:
        with pytest.raises(PermissionError):
            any_socket.sendto(b"x", ("127.0.0.1", 9))
        with pytest.raises(PermissionError):
            any_socket.sendmsg([b"x"], [], 0, ("10.0.0.1", 9))
    assert refused == ["127.0.0.1", "10.0.0.1"]


def test_a_target_that_cannot_be_is_refused_at_the_start() -> None:
    said = io.StringIO()
    logging.getLogger().addHandler(handler := logging.StreamHandler(said))
    with pytest.raises(UsageError, match="target one: apprise knows no such URL"):
        check_target(target("apprise", "nonsense://hush-hush"))
    logging.getLogger().removeHandler(handler)
    assert "hush" not in said.getvalue()
    for problem, given in {
        "a secret is whsec_ and base64": {"kind": "webhook", "url": "http://x", "secrets": ["whsec_!"]},
        "a webhook has a url of": {"kind": "webhook", "url": "ftp://x", "secrets": [SECRET]},
        "secrets belong to a webhook": {"kind": "alertmanager", "url": "http://x", "secrets": [SECRET]},
    }.items():
        with pytest.raises(ValueError, match=problem):
            NotifyTarget.model_validate({"name": "one", **given})


def test_names_of_others_mention_nobody_and_move_no_cursor() -> None:
    hostile = replace(FIRST, entity_id="<!here> @everyone \u202e", reasons=("<@U1> \x1b[2J",))
    title, body = text_of(Delivery((hostile,)), BASE)
    for text in (title, body):
        assert not {"<", ">", "\u202e", "\x1b"} & set(text)
        assert "@everyone" not in text
    assert document_of(Delivery((hostile,)), BASE)["data"]["entity_id"] == hostile.entity_id, "programs get it as it is"


def test_a_digest_is_one_message_with_all_and_what_was_left_out() -> None:
    many = tuple(replace(FIRST, id=f"ntf_{n}", entity_id=f"u{n}") for n in range(40))
    digest = Delivery(many, left_out=3)
    title, body = text_of(digest, BASE)
    assert title == "40 messages of desk"
    assert body.splitlines()[29:] == [
        "[high] fraud: u29", "and 10 more", "3 more are left out: snoozed or on hold", f"{BASE}/console/alerts",
    ]  # fmt: skip
    one = text_of(Delivery(many[:1], left_out=3), BASE)[1].splitlines()
    assert one[-2] == "3 more are left out: snoozed or on hold"
    told = document_of(digest, BASE)
    assert (told["type"], len(told["data"]["messages"]), told["data"]["left_out"]) == ("alerts.digest", 40, 3)
    assert digest.id != Delivery(many[1:]).id
    assert Delivery(many[:1]).id == many[0].id
