"""The page of alerts as the server makes it: what is listed, what came since, what is done with many."""

from __future__ import annotations

import re
import time
from pathlib import Path
from urllib.parse import unquote

import pytest
from httpx import Response

from tests.service.console_service import ALERTS_A_DAY, Desk, alert, desk
from weir.streams.config import topics

pytestmark = pytest.mark.anyio
HTMX = {"HX-Request": "true"}


def listed(page: Response) -> list[str]:
    """Ids of the alerts of a page, and ``line`` where the budget's line is, from top to bottom."""
    assert page.status_code == 200, page.text
    found = re.findall(r'<tr id="row-\w+" data-id="([^"]+)"|<tr class="(line)"', page.text)
    return [alert_id or line for alert_id, line in found]


def fraud(*numbers: int) -> list[str]:
    return [f"fraud:user-{n}:e{n}" for n in numbers]


def counts(page: Response) -> dict[str, int]:
    """What each choice of the facets says."""
    facets = page.text[page.text.index('id="facets"') :]
    found = re.findall(r"<bdi>([^<]+)</bdi> <span class=\"soft\">([\d,]+)</span>", facets[: facets.index("</nav>")])
    return {name: int(number) for name, number in found}


async def look(of: Desk, query: str = "", who: dict[str, str] | None = None) -> Response:
    return await of.client.get(f"/console/alerts{query}", headers=who or of.person("ana"))


async def do(of: Desk, who: dict[str, str], what: str, ids: list[str], **more: str) -> Response:
    return await of.client.post(f"/console/alerts/{what}", headers=who | HTMX, data={"alert_ids": ids, **more})


async def test_the_queue_ends_for_today_where_the_budget_does(tmp_path: Path) -> None:
    async with desk(tmp_path, 8) as of:
        page = await look(of)
        assert listed(page) == [*fraud(7, 6, 5, 4, 3), "line", *fraud(2, 1, 0)]
        assert f"{ALERTS_A_DAY} of {ALERTS_A_DAY} left" in page.text
        who = of.person("ben")
        await do(of, who, "verdict", fraud(7, 6), verdict="confirmed")
        page = await look(of, who=who)
        assert listed(page) == [*fraud(5, 4, 3), "line", *fraud(2, 1, 0)]
        assert f"3 of {ALERTS_A_DAY} left" in page.text
        await do(of, who, "verdict", fraud(5, 4, 3), verdict="confirmed")
        page = await look(of, who=who)
        assert listed(page) == ["line", *fraud(2, 1, 0)]
        assert "has looked at" in page.text
        assert "line" not in listed(await look(of, "?show=any"))
        assert "line" not in listed(await look(of, "?task=churn&show=any"))


async def test_an_address_says_which_alerts_are_listed_and_facets_lead_to_others(tmp_path: Path) -> None:
    async with desk(tmp_path) as of:
        await of.arrive([alert(n, severity=("low", "medium", "critical")[n % 3]) for n in range(6)])
        await of.arrive([alert(9, "churn", at=time.time() - 90_000.0, severity="low")])
        who = of.person("ana")
        await do(of, who, "work", fraud(1), action="claim")
        page = await look(of, "?task=&q=&severity=medium", who)  # as a form sends it
        assert sorted(listed(page)) == sorted(
            [*fraud(1, 2, 4, 5), "line"] if "line" in listed(page) else fraud(1, 2, 4, 5)
        )
        found = counts(page)
        assert (found["fraud"], found["medium or worse"], found["critical"]) == (4, 4, 2)
        assert (found["nobody&#39;s"], found["yours"]) == (3, 1)
        assert listed(await look(of, "?assignee=me", who))[0] == fraud(1)[0]
        assert listed(await look(of, "?until=24h&show=any", who)) == ["churn:user-9:e9"]
        assert listed(await look(of, "?q=user-9&show=any", who)) == ["churn:user-9:e9"]
        assert listed(await look(of, "?sort=newest&show=any", who))[0] == fraud(5)[0]
        for wrong, says in (
            ("since=yesterday", "since="),
            ("show=all", "show"),
            ("tusk=fraud", "tusk"),
            ("cursor=x", "cursor"),
        ):
            answer = await look(of, f"?{wrong}", who)
            assert answer.status_code == 422, wrong
            assert says in answer.json()["detail"]


async def test_many_get_a_verdict_and_it_is_told_which_did_not(tmp_path: Path) -> None:
    async with desk(tmp_path, 6) as of:
        ana, ben = of.person("ana"), of.person("ben")
        await do(of, ben, "work", fraud(1), action="claim")
        page = await do(of, ana, "work", [*fraud(0, 1, 2), "fraud:nobody:e99"], action="claim")
        assert "2 yours now." in page.text
        assert "1 refused: <bdi>ben has claimed it</bdi>" in page.text
        assert "1 no longer there" in page.text
        undone = re.findall(r'type="hidden" name="alert_ids" value="([^"]+)"', page.text)
        assert undone == fraud(0, 2)  # what was refused stays selected, and is not taken back
        assert sorted(re.findall(r'hx-target="#row-\w+".*?data-id="([^"]+)"', page.text, re.S)) == fraud(0, 1, 2)

        page = await do(of, ana, "verdict", fraud(3, 4), verdict="false_alarm", note="<b>fine</b>", hold_s="4h")
        assert "2 marked as false alarm." in page.text
        assert fraud(3)[0] not in listed(await look(of, who=ana))
        page = await do(of, ana, "undo", fraud(3, 4))
        assert "2 as before." in page.text
        assert fraud(3)[0] in listed(await look(of, who=ana))
        page = await do(of, ana, "undo", fraud(5))
        assert "1 refused: <bdi>it has no verdict that could be undone</bdi>" in page.text


async def test_who_takes_their_verdict_back_leaves_the_one_that_another_gave_since(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        ana, ben = of.person("ana"), of.person("ben")
        page = await do(of, ana, "verdict", fraud(0, 1), verdict="confirmed")
        assert '<input type="hidden" name="own" value="true">' in page.text
        await do(of, ben, "verdict", fraud(0), verdict="false_alarm")
        page = await do(of, ana, "undo", fraud(0, 1), own="true")
        assert "1 as before." in page.text
        assert "1 refused: <bdi>ben has judged it since</bdi>" in page.text
        row = await of.service.store.cases.row(fraud(0)[0], None)
        assert (row.verdict, row.verdict_by) == ("false_alarm", "ben")


async def test_holds_and_escalations_leave_and_return(tmp_path: Path) -> None:
    async with desk(tmp_path, 3) as of:
        ana = of.person("ana")
        await do(of, ana, "work", fraud(0), action="hold", hold_s="4h")
        assert fraud(0)[0] not in listed(await look(of, who=ana))
        assert listed(await look(of, "?show=held", ana)) == fraud(0)
        await do(of, ana, "work", fraud(0), action="hold", hold_s="0s")  # its undo
        assert fraud(0)[0] in listed(await look(of, who=ana))
        await do(of, ana, "work", fraud(1), action="escalate", note="look")
        assert listed(await look(of, "?show=escalated", ana)) == fraud(1)
        assert (await do(of, ana, "work", fraud(1), action="hand_over")).status_code == 422
        await do(of, ana, "work", fraud(1), action="hand_over", assignee="ben")
        assert fraud(1)[0] not in listed(await look(of, who=ana))
        assert (await do(of, ana, "work", [], action="claim")).status_code == 422


async def test_what_came_since_is_counted_under_the_same_filters(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        who = of.person("ana")

        async def new(page: Response) -> str:
            address = re.search(r'id="new"[^>]*hx-get="([^"]+)"', page.text)
            assert address is not None
            fragment = await of.client.get(address[1].replace("&amp;", "&"), headers=who | HTMX)
            assert fragment.status_code == 200, fragment.text
            said = re.search(r">([\d,]+)[^<]* new", fragment.text)
            return said[1] if said else "0"

        everything, low = await look(of, who=who), await look(of, "?severity=critical", who)
        assert (await new(everything), await new(low)) == ("0", "0")
        await of.arrive([alert(1, score=0.95)])  # a change of one that is listed
        assert await new(everything) == "0"
        await of.arrive([alert(n) for n in range(2, 5)])
        await of.arrive([alert(5, severity="critical"), alert(5, severity="critical", score=0.99)])
        assert (await new(everything), await new(low)) == ("4", "1")
        assert await new(await look(of, who=who)) == "0"


async def test_a_list_comes_in_parts_without_a_gap_or_a_repeat(tmp_path: Path) -> None:
    async with desk(tmp_path, 120) as of:
        who = of.person("ana")
        page, seen = await look(of, who=who), list[str]()
        while True:
            seen += listed(page)
            more = re.search(r'id="more-link"[^>]*hx-get="([^"]+)"', page.text)
            if more is None:
                break
            page = await of.client.get(more[1].replace("&amp;", "&"), headers=who | HTMX)
            assert "<html" not in page.text
            whole = await of.client.get(more[1].replace("&amp;", "&"), headers=who)
            assert listed(whole) == listed(page)  # the link works without scripts
        assert seen.index("line") == ALERTS_A_DAY
        assert [alert_id for alert_id in seen if alert_id != "line"] == fraud(*range(119, -1, -1))


async def test_two_people_who_ask_for_the_next_alert_get_two(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        got = []
        for name in ("ana", "ben", "zoe"):
            answer = await of.client.post("/console/alerts/next?show=any", headers=of.person(name) | HTMX)
            got.append(unquote(answer.headers.get("HX-Redirect", "")) or answer.text)
        assert got[:2] == [f"/console/alerts/{alert_id}" for alert_id in fraud(1, 0)]
        assert "Nothing waits" in got[2]


async def test_rows_that_others_changed_are_shown_as_they_are_after_that(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        ana, ben = of.person("ana"), of.person("ben")
        await do(of, ben, "verdict", fraud(0), verdict="confirmed")
        event = of.log.batches[topics.CASE_EVENTS, 0][-1].records[0]
        event_id = re.search(rb'"case_event_id":"(\w+)"', event.value)
        assert event_id is not None
        query = {"alert_id": fraud(0), "case_event_id": event_id[1].decode()}
        page = await of.client.get("/console/alerts/rows", params=query, headers=ana | HTMX)
        assert "by <bdi>ben</bdi>" in page.text
        assert 'class="done"' in page.text
        assert "#toasts" not in page.text


async def test_who_may_only_look_is_offered_nothing_else(tmp_path: Path) -> None:
    async with desk(tmp_path, 1) as of:
        page = await look(of, who=of.person("eve", "viewer"))
        assert listed(page)[0] == fraud(0)[0]
        for part in ('id="bulk"', 'type="checkbox"', 'id="next"', "<kbd>1</kbd>"):
            assert part not in page.text
        page = await look(of)
        assert all(part in page.text for part in ('id="bulk"', 'type="checkbox"', 'id="next"', "<kbd>1</kbd>"))


async def test_what_comes_from_outside_is_text(tmp_path: Path) -> None:
    nasty = "<script>x</script>\"'\u202e&/é"
    async with desk(tmp_path) as of:
        await of.arrive([alert(0, alert_id=f"fraud:{nasty}:e0", entity_id=nasty)])
        page = await look(of, f"?q={nasty[:8]}&show=any")
        assert "<script>x" not in page.text
        assert "&lt;script&gt;x&lt;/script&gt;&#34;&#39;\u202e&amp;/é" in page.text


async def test_an_empty_list_says_what_to_do(tmp_path: Path) -> None:
    async with desk(tmp_path) as of:
        assert "Nothing waits for you" in (await look(of)).text
        assert "No alert is in this list" in (await look(of, "?task=fraud")).text


async def test_a_verdict_has_a_reason_of_its_tasks_list(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        who = of.person("ana")
        page = await look(of, who=who)
        assert re.findall(r'<option value="([^"]+)" data-key="(\d)"', page.text) == [
            ("stolen card", "4"),
            ("account takeover", "5"),
        ]
        assert 'id="reason"' not in (await look(of, "?task=churn", who)).text
        answer = await do(of, who, "verdict", fraud(0), verdict="confirmed", reason="bad mood")
        assert answer.status_code == 422
        assert "stolen card" in answer.json()["detail"]
        assert (
            "1 confirmed." in (await do(of, who, "verdict", fraud(0), verdict="confirmed", reason="stolen card")).text
        )


async def test_a_list_is_saved_shared_and_deleted(tmp_path: Path) -> None:
    def views(page: Response) -> list[tuple[str, str]]:
        assert page.status_code == 200, page.text
        part = page.text[page.text.index('id="views"') :].partition("</nav>")[0]
        return [
            (name, address.replace("&amp;", "&"))
            for address, name in re.findall(r'href="([^"]+)".*?<bdi[^>]*>([^<]*)<', part)
        ]

    async with desk(tmp_path, 2) as of:
        ana, ben = of.person("ana"), of.person("ben")
        save = {"name": "<b>mine", "query": "q=&task=fraud&assignee=me&sort=newest"}
        page = await of.client.post("/console/views", headers=ana | HTMX, data=save)
        kept = [("&lt;b&gt;mine", "/console/alerts?task=fraud&assignee=me&sort=newest")]
        assert views(page) == views(await look(of, who=ana)) == kept
        assert "Delete <bdi>&lt;b&gt;mine" in page.text  # it is the list that is open
        assert "Save this list" in (await look(of, who=ana)).text
        assert 'aria-label="Saved lists"' not in (await look(of, who=ben)).text
        await of.client.post("/console/views", headers=ana | HTMX, data=save | {"shared": "true"})
        seen = await look(of, who=ben)
        assert views(seen) == kept
        assert "of <bdi>ana" in seen.text
        gone = {"name": save["name"], "query": save["query"]}
        assert (await of.client.post("/console/views/delete", headers=ben | HTMX, data=gone)).status_code == 404
        page = await of.client.post("/console/views/delete", headers=ana | HTMX, data=gone)
        assert 'aria-label="Saved lists"' not in page.text
        bad = await of.client.post("/console/views", headers=ana | HTMX, data={"name": "x", "query": "token=t"})
        assert bad.status_code == 422


async def test_a_snooze_hides_says_what_it_hides_and_ends(tmp_path: Path) -> None:
    async with desk(tmp_path) as of:
        await of.arrive([alert(n, entity_id="noisy" if n < 3 else f"user-{n}") for n in range(5)])
        who = of.person("ana")
        assert listed(await look(of, "?show=snoozed", who)) == []
        await do(of, who, "verdict", fraud(0), verdict="confirmed")
        page = await do(of, who, "work", fraud(0, 1), action="snooze_entity", hold_s="1d", note="<i>a test account")
        assert "2 snoozed with all alerts of their entities." in page.text
        assert page.text.count(">snoozed<") == 2  # the rows are marked, and stay where they are
        assert listed(await look(of, who=who)) == fraud(4, 3)
        assert listed(await look(of, "?show=snoozed", who)) == fraud(2, 1, 0)
        page = await of.client.get("/console/snoozes", headers=who)
        told = re.sub(r"<[^>]+>|\s+", " ", page.text)
        assert re.search(r"noisy .*&lt;i&gt;a test account .* ana .* 3 +1 confirmed, 0 false", told), told
        assert 'href="/console/entities/noisy"' in page.text
        end = {"task": "fraud", "kind": "entity", "of": "noisy", "for_s": "0s"}
        page = await of.client.post("/console/snoozes/end", headers=who | HTMX, data=end)
        assert "ended by <bdi>ana</bdi>" in page.text
        assert "End now" not in page.text
        assert listed(await look(of, who=who)) == [*fraud(4, 3, 2, 1), "line"]
        assert (await of.client.post("/console/snoozes/end", headers=who | HTMX, data=end)).status_code == 409

        await do(of, who, "work", fraud(4), action="snooze_reason")
        assert listed(await look(of, who=who)) == []
        page = await do(of, who, "work", fraud(4), action="snooze_reason", hold_s="0s")  # its undo
        assert "1 as before." in page.text
        assert listed(await look(of, who=who)) == [*fraud(4, 3, 2, 1), "line"]


async def test_who_else_has_an_alert_open_is_seen_in_the_list(tmp_path: Path) -> None:
    async with desk(tmp_path, 2) as of:
        ana, ben = of.person("ana"), of.person("ben")
        await of.client.post(f"/v1/alerts/{fraud(1)[0]}/presence", headers=ben)
        assert "<bdi>ben</bdi> looks at it" in (await look(of, who=ana)).text
        assert "looks at it" not in (await look(of, who=ben)).text


async def test_a_mark_that_no_page_has_is_refused(tmp_path: Path) -> None:
    async with desk(tmp_path) as found:
        for mark, status in (("0.5-1.7", 200), ("", 200), ("0.99999999999999999999", 422), ("0.5-", 422)):
            assert (await found.client.get(f"/console/alerts/new?mark={mark}")).status_code == status, mark
