"""Tasks of ``kind = "next"``: what is told, by an oracle in plain Python, and that nothing hangs on batches or on what
comes later."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from weir.online.batch import EventBatch, RankedBatch
from weir.online.errors import StateError, TaskError
from weir.online.stages.next_pipeline import NextPipeline
from weir.online.task.next_spec import NextTask
from weir.online.task.spec import TaskSpec

K = 3
HEAD = f'kind = "next"\nname = "shop"\nentity = "user_id"\nitem = "product"\nk = {K}\nremember = 8\n'
BASKET = 'basket = "basket"\n'
DAY = 86_400.0


class Event(NamedTuple):
    user: str
    basket: str
    item: str
    ts: float


def pipeline_of(more: str = BASKET) -> NextPipeline:
    return NextPipeline(NextTask.from_toml(HEAD + more))


def batch_of(events: list[Event], start: int = 0) -> EventBatch:
    names = [f"e{start + i}" for i in range(len(events))]
    columns: dict[str, list[str | None]] = {
        "user_id": [e.user for e in events],
        "product": [e.item for e in events],
        "basket": [e.basket for e in events],
    }
    return EventBatch(names, np.array([e.ts for e in events]), ["purchase"] * len(events), columns)


def told(pipeline: NextPipeline, events: list[Event], start: int = 0) -> list[tuple[list[str], list[float]]]:
    out = pipeline.events(batch_of(events, start))
    return [] if out is None else list(zip(out.items, out.scores, strict=True))


def stream(seed: int, events: int = 120, users: int = 4) -> list[Event]:
    """Baskets of a few items; a user's come one behind the other, those of several users between each other."""
    rng = np.random.default_rng(seed)
    number, made = dict.fromkeys(range(users), 0), list[Event]()
    for i in range(events):
        user = int(rng.integers(users))
        number[user] += int(rng.random() < 0.4)
        item = int(min(rng.geometric(0.25), 12))
        made.append(Event(f"u{user}", f"b{number[user]}", f"i{item}", 1.5e9 + i * DAY / 3))
    return made


@settings(max_examples=5, deadline=None)
@given(seed=st.integers(0, 99), cuts=st.sets(st.integers(1, 119), max_size=6), resumed=st.booleans())
def test_cuts_and_restarts_change_nothing(seed: int, cuts: set[int], resumed: bool) -> None:
    events, whole, parts = stream(seed), pipeline_of(), pipeline_of()
    straight, pieces = told(whole, events), list[tuple[list[str], list[float]]]()
    for low, high in zip([0, *sorted(cuts)], [*sorted(cuts), len(events)], strict=True):
        pieces += told(parts, events[low:high], low)
        if resumed:
            state, parts = parts.snapshot(), pipeline_of()
            parts.restore(state)
    assert pieces == straight
    assert parts.snapshot() == whole.snapshot()


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99), at=st.integers(1, 119))
def test_nothing_told_depends_on_what_comes_later(seed: int, at: int) -> None:
    events = stream(seed)
    others = events[:at] + [e._replace(item="i99") for e in events[at:]]
    assert told(pipeline_of(), events)[:at] == told(pipeline_of(), others)[:at]


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 99))
def test_what_was_told_last_is_judged_by_the_next_basket(seed: int) -> None:
    """An oracle of the metrics, from what was told alone: the model's, and those of what an entity had most often."""
    events, pipeline = stream(seed, 200), pipeline_of()
    said = [items for items, _ in told(pipeline, events)]
    baskets: dict[str, list[tuple[str, set[str], list[str]]]] = {}
    for event, items in zip(events, said, strict=True):
        of = baskets.setdefault(event.user, [])
        if not of or of[-1][0] != event.basket:
            of.append((event.basket, set(), []))
        of[-1] = (event.basket, of[-1][1] | {event.item}, items)
    recall, gain = list[float](), list[float]()
    for of in baskets.values():
        for (_, _, before), (_, inside, _) in pairwise(of[:-1]):  # the last basket is still open
            most = min(K, len(inside))
            recall.append(len(inside & set(before)) / most)
            ideal = sum(1 / math.log2(rank + 2) for rank in range(most))
            gain.append(sum(1 / math.log2(rank + 2) for rank, i in enumerate(before) if i in inside) / ideal)
    found = pipeline.ranker.metrics.get(K)["all"]
    assert pipeline.ranker.learned == len(recall)
    assert found[f"recall@{K}"] == pytest.approx(np.mean(recall))
    assert found[f"ndcg@{K}"] == pytest.approx(np.mean(gain))


def test_items_of_small_baskets_come_before_as_frequent_ones_of_large_ones() -> None:
    """Recall of a basket of one item hangs on it alone: its part is 1, that of one of five a third with k = 3."""
    pipeline, large, rng = pipeline_of(), ["a", "b", "c", "d", "e"], np.random.default_rng(2)
    events = [
        Event(f"u{user}", f"b{n}", item, 1.5e9 + n * DAY)
        for n in range(60)
        for user in range(4)
        for item in (["z"] if rng.random() < 0.4 else large)
    ]
    assert told(pipeline, events)[-1][0][0] == "z"
    found = pipeline.ranker.metrics.get(K)["recent"]
    assert found[f"recall@{K}"] > found[f"recall@{K} frequency"] + 0.1


def test_what_follows_the_last_basket_is_learned() -> None:
    """Coffee always follows tea and tea coffee, whoever buys: frequency alone cannot tell which is next."""
    more = f"{BASKET}k = 1\n"
    pipeline = NextPipeline(NextTask.from_toml(HEAD.replace(f"k = {K}\n", "") + more))
    events = [
        Event(f"u{user}", f"b{n}", "tea" if (n + user) % 2 else "coffee", 1.5e9 + n * DAY)
        for n in range(60)
        for user in range(4)
    ]
    told(pipeline, events)
    found = pipeline.ranker.metrics.get(1)["all"]
    assert found["recall@1"] > 0.9
    assert max(found["recall@1 popularity"], found["recall@1 frequency"]) < 0.8
    assert found["recall@1 last_basket"] == 0.0


def test_a_gap_begins_a_basket() -> None:
    steps = [0.0, 600.0, 1200.0, 9000.0, 9600.0, 99_000.0]
    events = [Event("u", "", f"i{i}", 1.5e9 + step) for i, step in enumerate(steps)]
    by_gap = pipeline_of('gap = "1h"\n')
    told(by_gap, events)
    assert by_gap.ranker.learned == 1  # of three baskets the second is judged; the third is open
    each = pipeline_of("")
    told(each, events)
    assert each.ranker.learned == len(events) - 2


def test_events_that_name_no_item_or_are_of_another_type_tell_nothing() -> None:
    pipeline = pipeline_of('types = ["purchase"]\n')
    batch = batch_of([Event("u", "b", "i", 1.5e9)] * 4)
    batch.entities["product"][0] = None
    batch.entities["user_id"][1] = None
    batch.type[2] = "view"
    out = pipeline.events(batch)
    assert isinstance(out, RankedBatch)
    assert (out.event_id, out.items) == (["e3"], [["i"]])
    assert pipeline.events(batch.slice(0, 3)) is None


def test_items_beyond_the_most_and_entities_beyond_their_ttl_are_let_go() -> None:
    few = pipeline_of(f"{BASKET}most_items = 2\n")
    assert len(told(few, stream(1))) + few.ranker.unknown == 120
    assert few.ranker.items == 2
    short = pipeline_of(f'{BASKET}ttl = "10d"\n')
    told(short, [Event(f"u{n}", "b", "i", 1.5e9 + n * DAY) for n in range(400)])
    assert short.ranker.entities < 40
    back = told(short, [Event("u0", "c", "other", 1.5e9 + 400 * DAY)])
    assert back[0][0] == ["other"]  # "i" would be told, had its basket been closed


def test_one_event_that_is_dated_far_ahead_lets_no_other_entity_go() -> None:
    events = [Event(f"u{n % 14}", f"b{n // 14}", f"i{n % 5}", 1.5e9 + n * 3600.0) for n in range(140)]
    late = [Event(f"v{n}", "b", "i0", 1.6e9 + n) for n in range(10)]  # for whom room has to be made
    events += [event._replace(ts=event.ts + 1.0e8) for event in events[:28]] + late
    broken = Event("broken", "b", "i0", 4.0e9)
    before = [
        told(pipeline_of(f'{BASKET}ttl = "1095d"\n'), [*events[:70], ahead, *events[70:]])
        for ahead in (broken, broken._replace(ts=1.5e9 + 70 * 3600.0))
    ]
    assert before[0] == before[1]


def test_an_entity_remembers_what_it_took_last() -> None:
    pipeline = pipeline_of()
    events = [Event("u", f"b{n}", f"i{n}", 1.5e9 + n * DAY) for n in range(30)]
    told(pipeline, events)
    own = {pipeline.ranker._names[number] for number in pipeline.ranker._rows.items[0].tolist() if number >= 0}
    assert own == {f"i{n}" for n in range(21, 29)}  # i29 is in the open basket


@pytest.mark.parametrize("foreign", [b"", b"x", b"\x80", b"\x81\xa6ranker\xc4\x01x"])
def test_a_state_that_is_none_is_refused(foreign: bytes) -> None:
    pipeline = pipeline_of()
    told(pipeline, stream(3))
    before = pipeline.snapshot()
    with pytest.raises(StateError):
        pipeline.restore(foreign)
    other = pipeline_of(f"{BASKET}most_items = 2\n")
    with pytest.raises(StateError):
        other.restore(before)
    assert [str(each) for each in other.restore_fitting(before)]
    assert pipeline.snapshot() == before


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ('basket = "basket"\ngap = "1h"\n', "remove one of them"),
        ('basket = "product"\n', "a column of its own"),
        ('model = { kind = "logistik" }\n', "logistic"),
        ("k = 1000\n", "k"),
        ('[source]\nlabel = "fraud"\n', "the next basket is the label"),
        ("itm = 3\n", "itm"),
    ],
)
def test_mistakes_in_the_file_are_told(wrong: str, words: str) -> None:
    text = HEAD.replace(f"k = {K}\n", "") if wrong.startswith("k =") else HEAD
    with pytest.raises(TaskError, match=words):
        NextPipeline(NextTask.from_toml(text + wrong))


def test_a_task_that_scores_is_asked_for_elsewhere() -> None:
    with pytest.raises(TaskError, match=r'kind = "next".*weir backtest'):
        TaskSpec.from_toml(HEAD)
