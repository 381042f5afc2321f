"""What the service answers over HTTP: the same without a broker and beside a Kafka fleet.

The one difference: without a broker an append has been processed when it is answered. Beside a fleet a late event is
accepted, and its dead letter follows (`test_a_late_event_is_a_dead_letter`); and a repeat is told of an event whose
decisions this process has seen (`test_a_repeat_is_told`).
"""

from __future__ import annotations

import gzip
import json
import re
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from tests.contracts.service_modes import Served, deployed, embedded, fleet, label, purchase
from weir.streams.service.access.audit.audit_chain import verify

PATIENT = 60_000
"""Milliseconds for a decision: what it takes on a busy machine."""


@pytest.fixture(scope="module", params=["embedded", pytest.param("kafka", marks=pytest.mark.integration)])
def served(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp(request.param)
    if request.param == "embedded":
        with embedded(folder) as made:
            yield made
        return
    with fleet(deployed(request, folder), folder) as (made,):
        yield made


def scores(served: Served, user: str, n: int) -> list[dict[str, Any]]:
    """The scores of a user, once there are so many."""

    def ask() -> list[dict[str, Any]]:
        found = served.http.get(f"/v1/entities/{user}")
        assert found.status_code in (200, 404), found.text
        return list(found.json().get("scores", []))

    return served.soon(ask, lambda found: len(found) >= n)


# In


@pytest.mark.parametrize("form", ["one", "array", "lines", "gzip", "cloud event"])
def test_events_are_taken_in_every_form(served: Served, form: str) -> None:
    user, headers = served.user(), {"Content-Type": "application/json"}
    events = [purchase(user, n) for n in range(1 if form in ("one", "cloud event") else 3)]
    body = json.dumps(events[0] if form == "one" else events).encode()
    if form == "lines":
        body, headers = "\n".join(map(json.dumps, events)).encode(), {"Content-Type": "application/x-ndjson"}
    if form == "gzip":
        body, headers["Content-Encoding"] = gzip.compress(body), "gzip"
    if form == "cloud event":
        cloud = {"specversion": "1.0", "source": "/shop", "type": "purchase", "id": f"{user}-0", "subject": user}
        body = json.dumps({**cloud, "data": events[0]}).encode()
        headers["Content-Type"] = "application/cloudevents+json"
    answer = served.http.post("/v1/events", content=body, headers=headers)
    assert answer.json() == {"accepted": len(events), "repeats": 0, "refused": 0, "results": []}
    assert {s["event_id"] for s in scores(served, user, len(events))} == {e["event_id"] for e in events}


def test_each_record_of_a_body_is_told(served: Served) -> None:
    user = served.user()
    told = served.client.send_events([purchase(user, 0), purchase(user, 1, amount="nine"), {"v": 1}])
    assert (told.accepted, told.refused) == (1, 2)
    assert [(one.index, one.status) for one in told.results] == [(1, "refused"), (2, "refused")]
    assert told.results[0].reason.startswith("amount: got 'nine'")
    assert [s["event_id"] for s in scores(served, user, 1)] == [f"{user}-0"]


def test_a_label_is_learned(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 0)])
    scores(served, user, 1)

    def metrics() -> Any:
        return served.client.get("/v1/tasks/card")["metrics"]["cumulative"]

    before = metrics()
    assert served.client.send_labels([label(user, 0)]).accepted == 1
    wrong = served.client.send_labels([label(user, 0, task="crad")])
    assert "did you mean 'card'?" in wrong.results[0].reason
    served.soon(metrics, lambda found: found != before)


def test_a_repeat_is_told(served: Served) -> None:
    user = served.user()
    events = [purchase(user, 0), purchase(user, 1)]
    assert served.client.send_events(events).accepted == 2
    if not served.embedded:
        served.client.decide(events, PATIENT)  # so that this process has seen the decisions
    told = served.client.send_events([*events, purchase(user, 2)])
    assert (told.accepted, told.repeats) == (1, 2)
    assert [(one.index, one.status) for one in told.results] == [(0, "repeat"), (1, "repeat")]
    assert sorted(s["event_id"] for s in scores(served, user, 3)) == [f"{user}-{n}" for n in range(3)]


# Decisions


def test_decisions_are_asked_and_answered(served: Served) -> None:
    user = served.user()
    first, wrong, second = served.client.decide([purchase(user, 0), {"v": 1}, purchase(user, 1)], PATIENT)["results"]
    assert [one["status"] for one in (first, wrong, second)] == ["accepted", "refused", "accepted"]
    assert "event_id: missing" in wrong["reason"]
    (decision,) = first["decisions"]
    assert (decision["task"], decision["decision"], decision["threshold"]) == ("card", "alert", 0.0)
    assert (decision["repeat"], decision["degraded"]) == (False, True), "there is no full model yet"
    assert decision["score"] == next(s["score"] for s in scores(served, user, 2) if s["event_id"] == f"{user}-0")
    (other,) = second["decisions"]
    assert other["alert_id"] == decision["alert_id"] is not None, "one alert of the user, which is open"


def test_the_same_question_has_the_first_answer(served: Served) -> None:
    user = served.user()
    (first,) = served.client.decide([purchase(user, 0)], PATIENT)["results"]
    (again,) = served.client.decide([purchase(user, 0, amount=5e4)], PATIENT)["results"]
    assert again["status"] == "repeat"
    assert again["decisions"] == [{**d, "repeat": True} for d in first["decisions"]]


def test_what_is_late_is_told_and_decided_all_the_same(served: Served) -> None:
    events = [purchase(served.user(), n) for n in range(200)]
    late = served.http.post("/v1/decisions?deadline_ms=1", json=events)
    assert (late.status_code, late.json()["title"], late.json()["limit"]) == (504, "Late", 1)
    assert {one["status"] for one in late.json()["results"]} <= {"accepted", "late"}
    again = served.client.decide(events, PATIENT)["results"]
    assert all(len(one["decisions"]) == 1 for one in again)
    assert all(one["decisions"][0]["score"] is not None for one in again)


# Alerts


def alert_of(served: Served, user: str) -> dict[str, Any]:
    """The alert of a user, once it is there."""
    return served.soon(lambda: list(served.client.alerts(entity=user)), lambda found: found)[0]


def test_alerts_are_listed_and_one_is_shown(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 0)])
    alert = alert_of(served, user)
    assert (alert["task"], alert["entity_id"], alert["state"]) == ("card", user, "open")
    shown = served.client.alert(alert["alert_id"])
    assert (shown["event_ids"], [change["kind"] for change in shown["history"]]) == ([f"{user}-0"], ["status"])
    assert not list(served.client.alerts(entity=user, state="resolved"))
    served.client.send_events([purchase(other := served.user(), 0)])
    alert_of(served, other)
    pages = list(served.client.alerts(limit=1))
    assert len({one["alert_id"] for one in pages}) == len(pages) > 1


def test_a_verdict_resolves_an_alert_and_is_learned_and_undone(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 0)])
    alert = alert_of(served, user)["alert_id"]
    now = served.now()
    assert served.client.verdict(alert, "confirmed", reason="stolen card")["state"] == "resolved"
    learned = served.soon(
        lambda: served.client.alert(alert), lambda found: found["verdicts"][0]["learned_version"] is not None
    )
    assert (learned["verdict"], learned["state"]) == ("confirmed", "resolved")
    served.soon(lambda: served.client.alert(alert), lambda found: found["status"] == "resolved")  # in the stream too
    (said,) = served.feed(1, now, type="case-event")
    assert said.record["alert_id"] == alert
    undone = served.client.undo(alert)
    assert (undone["state"], undone["verdict"]) == ("open", None)
    assert served.http.post(f"/v1/alerts/{alert}/undo").status_code == 409


def test_a_score_is_made_again_and_what_a_verdict_changed_is_told(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 1)])
    alert = alert_of(served, user)

    def part(name: str) -> str:
        answer = served.http.get(f"/console/alert/{name}/{alert['alert_id']}")
        assert answer.status_code == 200, answer.text
        return answer.text

    assert part("effect").strip() == "", "nobody has judged it"
    served.http.post(f"/v1/alerts/{alert['alert_id']}/verdict", json={"verdict": "confirmed"})
    told = served.soon(lambda: part("effect"), lambda text: "Learned at version" in text)
    before, now = (float(score) for score in re.findall(r'id="score-\w+" title="([^"]+)"', told))
    assert before < now < 1
    # Its own model is that of before the verdict, whatever was learned since.
    again = part("again")
    assert "Equal, bit for bit" in again
    assert again.count(repr(alert["score"])) == 2, "as logged, and as it was made again"
    assert "sha256" in again


def test_an_alert_is_claimed_noted_and_put_aside(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 0)])
    at = f"/v1/alerts/{alert_of(served, user)['alert_id']}"
    assert served.http.post(f"{at}/assign", json={"assignee": "ben"}).json()["assignee"] == "ben"
    assert served.http.post(f"{at}/notes", json={"note": "waits for the bank"}).status_code == 200
    held = served.http.post(f"{at}/hold", json={"for_s": "4h"})
    assert (held.status_code, held.headers["ETag"]) == (200, '"3"')
    stale = served.http.post(f"{at}/notes", json={"note": "mine"}, headers={"If-Match": '"1"'})
    assert (stale.status_code, stale.json()["version"]) == (409, 3)


def test_the_next_alert_of_the_queue_is_claimed_once(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, 0)])
    alert = alert_of(served, user)["alert_id"]
    snooze = {"task": "card", "kind": "entity", "of": user}
    served.client.post("/v1/snoozes", **snooze, for_s="1h")
    assert served.client.post(f"/v1/alerts/next?entity={user}") == {"alert": None}
    served.client.post("/v1/snoozes", **snooze, for_s=0)
    claimed = served.client.post(f"/v1/alerts/next?entity={user}", for_s=900)["alert"]
    assert (claimed["alert_id"], claimed["assignee"] is None) == (alert, False)
    assert served.client.post(f"/v1/alerts/next?entity={user}") == {"alert": None}


# Looked up


def test_an_entity_has_its_features_and_scores(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, n) for n in range(3)])
    found = served.soon(
        lambda: served.http.get(f"/v1/entities/{user}").json(),
        # A worker sends predictions before it writes rows.
        lambda body: len(body.get("scores", ())) == 3 and any(3.0 in t["features"].values() for t in body["tables"]),
    )
    assert all(table["fits"] for table in found["tables"])
    features = next(table["features"] for table in found["tables"] if table["key"] == "user_id")
    assert {3.0, 33.0} <= set(features.values()), "a count of the purchases, and their sum"


def test_tasks_are_told(served: Served) -> None:
    (task,) = served.client.get("/v1/tasks")["tasks"]
    assert (task["task"], task["full_model"]) == ("card", True)
    assert set(task["metrics"]) == {"cumulative", "rolling", "fading"}
    assert served.client.get("/v1/tasks/card")["file"]["threshold"]["value"] == 0.0


def test_a_new_model_is_asked_for(served: Served) -> None:
    asked = served.client.retrain("card", "new cards")["request_id"]
    found = served.soon(
        lambda: served.client.get("/v1/retraining")["requests"],
        lambda requests: any(r["request_id"] == asked for r in requests),
    )
    assert "new cards" in next(r["text"] for r in found if r["request_id"] == asked)
    assert served.client.get("/v1/drift") == {"drift": []}
    assert served.client.get("/v1/models") == {"models": []}


# Dead letters


def test_a_late_event_is_a_dead_letter(served: Served) -> None:
    user, agreeing = served.user(), [purchase(served.user(), 0) for _ in range(5)]
    served.client.send_events(agreeing)  # so many agree on the time
    told = served.client.send_events([purchase(user, 1, ts=1.6e9)])
    assert (told.accepted, told.refused) == ((0, 1) if served.embedded else (1, 0))

    def letters(done: bool = False) -> list[dict[str, Any]]:
        listed = served.client.get("/v1/dead-letters", reason="late", done=done)["letters"]
        shown = [served.client.get(f"/v1/dead-letters/{one['id']}") for one in listed]
        return [letter for letter in shown if f'"{user}-1"' in letter["text"]]

    (letter,) = served.soon(letters, lambda found: found)
    assert letter["reason"].startswith("late: ")
    assert served.http.post("/v1/dead-letters/replay", json={"ids": [letter["id"]]}).json() == {"replayed": 1}
    (again,) = served.soon(letters, lambda found: found and found[0]["id"] != letter["id"])  # it is late again
    assert served.http.post("/v1/dead-letters/drop", json={"ids": [again["id"]]}).json() == {"dropped": 1}
    assert not letters()
    assert [one["done"]["action"] for one in letters(done=True)] == ["dropped", "replayed"]


# The feed


def test_the_feed_is_followed_and_resumed(served: Served) -> None:
    user, other = served.user(), served.user()
    now = served.now()
    served.client.send_events([purchase(user, 0), purchase(other, 0)])
    found = served.feed(2, now, type=["alert", "prediction"], entity=user)
    assert {event.type for event in found} == {"alert", "prediction"}
    assert {event.record["entity_id"] for event in found} == {user}
    served.client.send_events([purchase(user, 1)])
    (resumed,) = served.feed(1, found[1].id, type="prediction", entity=user)
    assert resumed.record["event_id"] == f"{user}-1"


def test_the_feed_of_a_time_is_read_once(served: Served) -> None:
    user = served.user()
    served.client.send_events([purchase(user, n) for n in range(3)])
    scores(served, user, 3)
    query: dict[str, Any] = {"once": 1, "since": "15m", "type": "prediction", "entity": user}
    *lines, last = map(json.loads, served.http.get("/v1/feed.ndjson", params=query).text.splitlines())
    assert [line["record"]["event_id"] for line in lines] == [f"{user}-{n}" for n in range(3)]
    after = served.http.get("/v1/feed.ndjson", params={**query, "last_event_id": last["next"]}).text.splitlines()
    assert [json.loads(line) for line in after] == [{"next": json.loads(after[-1])["next"]}]


# Problems


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v1/nothing", None, 404, "GET /openapi.json lists what there is"),
        ("GET", "/v1/tasks/crad", None, 404, "did you mean 'card'?"),
        ("GET", "/v1/entities/nobody", None, 404, "no task knows 'nobody'"),
        ("PUT", "/v1/events", "{}", 405, "Method Not Allowed"),
        ("POST", "/v1/events", "nothing", 400, "the body holds no records"),
        ("POST", "/v1/events", "[{}]", 422, "missing"),
        ("POST", "/v1/dead-letters/replay", '{"ids":["0-999999"]}', 404, "no open dead letter"),
        ("POST", "/v1/retrain", '{"task":7}', 422, "task"),
        ("GET", "/v1/feed?last_event_id=00000000.a1", None, 410, "another log"),
        ("GET", "/v1/feed?last_event_id=alert7", None, 422, "no id of an event"),
    ],
)
def test_a_problem_says_what_is_wrong(
    served: Served, method: str, path: str, body: str | None, status: int, words: str
) -> None:
    answer = served.http.request(method, path, content=body, headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.headers["Content-Type"]) == (status, "application/problem+json"), answer.text
    assert words in answer.json()["detail"]
    assert answer.headers["X-Request-Id"]


def test_nobody_gets_in_without_a_key(served: Served) -> None:
    assert served.http.get("/v1/tasks", headers={"Authorization": "Bearer weir_none_wrong"}).status_code == 401


def test_a_change_is_in_the_audit_whose_chain_is_whole(served: Served) -> None:
    made = served.http.post("/v1/keys", json={"name": "desk", "role": "viewer"}).json()
    answer = served.http.get("/v1/me", headers={"Authorization": f"Bearer {made['key']}"})
    assert answer.json()["name"] == "desk"
    assert served.http.delete(f"/v1/keys/{made['id']}").json()["state"] == "revoked"

    def records() -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = served.http.get("/v1/audit", params={"limit": 10_000}).json()["records"]
        return found

    found = served.soon(records, lambda told: any(r["action"] == "DELETE /keys/{key_id}" for r in told))
    assert [r["outcome"] for r in found if r.get("subject") == f"key:{made['id']}"] == [201]
    chains = verify((str(i), msgspec.json.encode(r, order="sorted")) for i, r in enumerate(found))
    assert [(chain.fault, chain.records) for chain in chains] == [("", len(found))]


def test_it_is_ready_and_counts(served: Served) -> None:
    assert served.http.get("/ready").json()["ready"] is True
    assert served.http.get("/health").json()["status"] == "alive"
    assert "weir_http_requests_total" in served.http.get("/metrics").text
