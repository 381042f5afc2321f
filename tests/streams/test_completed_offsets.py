"""Commits never pass a batch that is not complete, whatever the order of completions and rebalances."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from weir.streams.errors import UsageError
from weir.streams.kafka.consume.offset_tracker import CompletedOffsets, Partition, Ticket

PARTITIONS: list[Partition] = [("events", 0), ("events", 1), ("labels", 0)]


def test_a_commit_waits_for_the_oldest_batch() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    a, b, c = (offsets.begin(PARTITIONS[0], base, base + 10) for base in (0, 10, 20))
    assert [offsets.complete(c), offsets.committable()] == [True, {}]
    assert [offsets.complete(a), offsets.committable()] == [True, {PARTITIONS[0]: 10}]
    assert [offsets.complete(b), offsets.committable()] == [True, {PARTITIONS[0]: 30}]


def test_what_was_committed_is_not_committed_again() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    offsets.complete(offsets.begin(PARTITIONS[0], 5, 9))
    offsets.committed({PARTITIONS[0]: 9})
    assert offsets.committable() == {}
    assert offsets.completed_through(PARTITIONS[0]) == 9


def test_a_commit_that_failed_stays_to_do() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    offsets.complete(offsets.begin(PARTITIONS[0], 0, 9))
    assert offsets.committable() == offsets.committable() == {PARTITIONS[0]: 9}


def test_gaps_between_and_within_batches_are_passed() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    offsets.complete(offsets.begin(PARTITIONS[0], 3, 9))  # compaction left fewer than six records
    offsets.complete(offsets.begin(PARTITIONS[0], 40, 41))
    assert offsets.committable() == {PARTITIONS[0]: 41}


def test_a_late_completion_of_an_earlier_assignment_means_nothing() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    old = offsets.begin(PARTITIONS[0], 0, 10)
    offsets.revoke(PARTITIONS)
    assert not offsets.take(old)
    assert not offsets.complete(old)
    offsets.assign(PARTITIONS)
    new = offsets.begin(PARTITIONS[0], 0, 10)  # fetched again
    assert not offsets.complete(old)
    assert offsets.committable() == {}
    assert offsets.complete(new)
    assert not offsets.complete(new), "the second time says nothing new"


def test_a_rewind_forgets_its_partition_and_only_that() -> None:
    offsets = CompletedOffsets()
    offsets.assign(PARTITIONS)
    old, other = offsets.begin(PARTITIONS[0], 50, 60), offsets.begin(PARTITIONS[1], 0, 10)
    offsets.complete(old)
    offsets.committed({PARTITIONS[0]: 60})
    before = offsets.epoch(PARTITIONS[0])
    assert offsets.rewind(PARTITIONS[0], 20)
    assert offsets.epoch(PARTITIONS[0]) != before
    assert offsets.committable() == {PARTITIONS[0]: 20}, "the commit goes back"
    offsets.committed({PARTITIONS[0]: 60})  # the answer to a commit of before, late
    assert offsets.committable() == {PARTITIONS[0]: 20}
    assert not offsets.complete(old)
    assert offsets.complete(other)
    assert not offsets.rewind(("events", 9), 20)


def test_batches_go_forward() -> None:
    offsets = CompletedOffsets()
    with pytest.raises(UsageError, match="not assigned"):
        offsets.begin(PARTITIONS[0], 0, 1)
    offsets.assign(PARTITIONS)
    offsets.begin(PARTITIONS[0], 0, 10)
    for base, following in [(9, 12), (10, 10), (12, 11)]:
        with pytest.raises(UsageError, match="begin batches in offset order"):
            offsets.begin(PARTITIONS[0], base, following)


@dataclass
class Model:
    """One partition as a list: the oracle recomputes everything from it."""

    batches: list[tuple[Ticket, bool]] = field(default_factory=list)  # (ticket, complete), in offset order
    committed: int = -1
    start: int = -1  # where it was rewound to

    def through(self) -> int:
        done = self.start
        for ticket, complete in self.batches:
            if not complete:
                break
            done = ticket.next_offset
        return done


class Commits(RuleBasedStateMachine):
    """Any order of begins, completions, commits (which may fail) and rebalances, against the list."""

    def __init__(self) -> None:
        super().__init__()
        self.offsets = CompletedOffsets()
        self.models: dict[Partition, Model] = {}
        self.stale: list[Ticket] = []
        self.taken: set[Ticket] = set()

    @initialize(some=st.sets(st.sampled_from(PARTITIONS), min_size=1))
    def begin_assigned(self, some: set[Partition]) -> None:
        self.assign(some)

    def assign(self, some: set[Partition]) -> None:
        self.offsets.assign(some)
        for partition in some:
            self.forget(partition)
            self.models[partition] = Model()

    def forget(self, partition: Partition) -> None:
        self.stale += [ticket for ticket, _ in self.models.pop(partition, Model()).batches]

    @rule(some=st.sets(st.sampled_from(PARTITIONS)))
    def rebalance(self, some: set[Partition]) -> None:
        self.offsets.revoke(list(self.models))
        for partition in list(self.models):
            self.forget(partition)
        self.assign(some)

    @rule(some=st.sets(st.sampled_from(PARTITIONS)))
    def revoke(self, some: set[Partition]) -> None:
        self.offsets.revoke(some)
        for partition in some:
            self.forget(partition)

    @rule(partition=st.sampled_from(PARTITIONS), offset=st.integers(0, 20))
    def rewind(self, partition: Partition, offset: int) -> None:
        assigned = partition in self.models
        self.forget(partition)
        assert self.offsets.rewind(partition, offset) is assigned
        if assigned:
            self.models[partition] = Model(start=offset)

    @precondition(lambda self: self.models)
    @rule(data=st.data(), gap=st.integers(0, 3), size=st.integers(1, 5))
    def begin(self, data: st.DataObject, gap: int, size: int) -> None:
        partition = data.draw(st.sampled_from(sorted(self.models)))
        batches = self.models[partition].batches
        base = (batches[-1][0].next_offset if batches else max(self.models[partition].start, 0)) + gap
        batches.append((self.offsets.begin(partition, base, base + size), False))

    @precondition(lambda self: any(m.batches for m in self.models.values()))
    @rule(data=st.data())
    def take_or_complete(self, data: st.DataObject) -> None:
        model = data.draw(st.sampled_from([m for m in self.models.values() if m.batches]))
        at = data.draw(st.integers(0, len(model.batches) - 1))
        ticket, complete = model.batches[at]
        if data.draw(st.booleans()):
            covered = ticket.next_offset <= model.through()
            assert self.offsets.take(ticket) is not covered
            self.taken.add(ticket)
        else:
            assert self.offsets.complete(ticket) is not complete
            model.batches[at] = (ticket, True)

    @precondition(lambda self: self.stale)
    @rule(data=st.data())
    def complete_too_late(self, data: st.DataObject) -> None:
        ticket = data.draw(st.sampled_from(self.stale))
        assert not self.offsets.take(ticket)
        assert not self.offsets.complete(ticket)

    @rule(arrives=st.booleans())
    def commit(self, arrives: bool) -> None:
        wanted = self.offsets.committable()
        if arrives:
            self.offsets.committed(wanted)
            for partition, offset in wanted.items():
                self.models[partition].committed = offset

    @invariant()
    def commits_what_is_complete_and_nothing_more(self) -> None:
        expected = {p: m.through() for p, m in self.models.items() if m.through() > m.committed}
        assert self.offsets.committable() == expected

    @invariant()
    def knows_what_is_in_flight(self) -> None:
        for partition, model in self.models.items():
            behind = [t for t, _ in model.batches if t.next_offset > model.through()]
            assert self.offsets.in_flight(partition) == len(behind)
        working = {t for m in self.models.values() for t, complete in m.batches if not complete and t in self.taken}
        assert set(self.offsets.working()) == working


TestCommits = Commits.TestCase
TestCommits.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
