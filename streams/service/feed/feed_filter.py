"""Which records a client of the feed asks for. Clients with equal filters are matched as one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from weir.online.decisions.alert_state import SEVERITIES, Severity
from weir.streams.service.feed.feed_item import TOPIC_OF, FeedItem, Kind


@dataclass(frozen=True)
class FeedFilter:
    """Conditions that all have to hold.

    Parameters
    ----------
    kinds : types of events.
    tasks, entities : a record without task or entity is of none of them; ``None`` is no condition.
    min_score, severity : at least that; what has no score or severity passes.
    """

    kinds: frozenset[Kind]
    tasks: frozenset[str] | None = None
    entities: frozenset[str] | None = None
    min_score: float | None = None
    severity: Severity | None = None

    @cached_property
    def topics(self) -> frozenset[str]:
        """Where such records are."""
        return frozenset(TOPIC_OF[kind] for kind in self.kinds)

    @cached_property
    def _severities(self) -> tuple[str | None, ...]:
        return (None, *SEVERITIES[SEVERITIES.index(self.severity) if self.severity else 0 :])

    @cached_property
    def _only_kinds(self) -> bool:
        return (self.tasks, self.entities, self.min_score, self.severity) == (None, None, None, None)

    def matches(self, item: FeedItem) -> bool:
        """Whether the client gets it."""
        if item.kind not in self.kinds:
            return False
        # As most clients ask: then no record has to be decoded for them.
        if self._only_kinds:
            return True
        facts = item.facts
        return (
            (self.tasks is None or facts.task in self.tasks)
            and (self.entities is None or facts.entity_id in self.entities)
            and (self.min_score is None or facts.score is None or facts.score >= self.min_score)
            and (self.severity is None or facts.severity in self._severities)
        )
