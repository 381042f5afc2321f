"""Which topics there are, under which names, and with how many partitions and copies."""

from __future__ import annotations

import re
from difflib import get_close_matches
from typing import Final, Literal, Self

from pydantic import Field, model_validator

from weir.online.durations import Seconds
from weir.streams.config import topics
from weir.streams.config.frozen_settings import Concern

_NAME: Final = re.compile(r"[A-Za-z0-9._-]{1,249}")


class TopicOverride(Concern):
    """What one topic has instead of the defaults; ``retention`` as ``"7d"``, or ``"forever"``."""

    partitions: int | None = Field(default=None, ge=1, le=10_000)
    """Instead of ``[topics] partitions``; topics that are keyed by the same entity need the same number."""
    replication: int | None = Field(default=None, ge=1, le=100)
    """Instead of ``[topics] replication``."""
    retention: Seconds | Literal["forever"] | None = None
    """How long Kafka keeps a record; ``weir topics describe`` shows each topic's default."""
    min_insync_replicas: int | None = Field(default=None, ge=1, le=100)
    """Instead of ``[topics] min_insync_replicas``."""


class TopicSettings(Concern):
    """What ``weir topics create`` makes and ``weir topics check`` expects."""

    partitions: int = Field(default=6, ge=1, le=10_000)
    """Of event, label, prediction and alert topics alike: workers rely on a key having the same number in all."""
    replication: int | None = Field(default=None, ge=1, le=100)
    """Copies of each partition; by default 3, or as many as there are brokers."""
    min_insync_replicas: int | None = Field(default=None, ge=1, le=100)
    """Copies that must have a record before it counts as written; by default one less than there are, at least 1."""
    override: dict[str, TopicOverride] = Field(default_factory=dict)
    """What single topics have instead, by Weir's own name of the topic."""
    misplaced: Literal["forward", "refuse", "keep"] = "forward"
    """What happens to an event or label in a partition that does not own its key: it is passed on to the one
    that does; it goes to the dead letters, where workers may not write to these topics; or it is taken where it is, for
    producers that all use a partitioner unknown here. The same in every deployment on the topics."""
    partitioner: Literal["auto", "murmur2", "crc32"] = "auto"
    """How producers choose the partition of a key: ``murmur2`` (Java, aiokafka, kafka-python, Weir) or ``crc32``
    (librdkafka's default: confluent-kafka in Python, Go, .NET). ``auto`` finds it in the first records and keeps it
    with the state."""
    prefix: str = Field(default="", pattern=r"^[A-Za-z0-9._-]{0,100}$")
    """Put before every topic that has no name of its own below: ``"prod."`` makes ``prod.user-events``."""
    names: dict[str, str] = Field(default_factory=dict)
    """What a topic is called on the cluster, by Weir's own name: ``{"user-events": "shop.events.v1"}``."""

    @model_validator(mode="after")
    def _known_topics(self) -> Self:
        for table, keys in (("override", self.override), ("names", self.names)):
            for own in keys:
                if own not in topics.ALL:
                    # Without a cutoff there is always one to name.
                    near = get_close_matches(own, topics.ALL, n=1, cutoff=0.0)
                    raise ValueError(f"{table} {own!r} is no topic of Weir's; did you mean {near[0]!r}?")
        return self

    @model_validator(mode="after")
    def _usable_names(self) -> Self:
        owner: dict[str, str] = {}
        for own in topics.ALL:
            actual = self.name(own)
            if not _NAME.fullmatch(actual) or actual in (".", ".."):
                raise ValueError(
                    f"{own} would be called {actual!r}; Kafka takes 1 to 249 letters, digits, '.', '_', '-'"
                )
            # Two kinds of records in one topic would be read as each other.
            if (other := owner.setdefault(actual, own)) != own:
                raise ValueError(f"{other} and {own} would both be called {actual!r}; each needs a topic of its own")
        return self

    def name(self, own: str) -> str:
        """What the topic that Weir calls ``own`` is called on the cluster: the one place where names are resolved.

        >>> TopicSettings(prefix="prod.", names={"labels": "verdicts"}).name("labels")
        'verdicts'
        >>> TopicSettings(prefix="prod.").name("user-events")
        'prod.user-events'
        """
        return self.names.get(own) or self.prefix + own

    def partitions_of(self, own: str) -> int:
        """How many partitions a topic that is partitioned by entity should have."""
        special = self.override.get(own)
        return (special and special.partitions) or self.partitions

    def own(self, actual: str) -> str | None:
        """Weir's own name of a topic of the cluster; ``None`` for a topic of somebody else."""
        return next((own for own in topics.ALL if self.name(own) == actual), None)

    def resolve(self, text: str) -> str:
        """The topic that a person or a file means: Weir's own name, or the actual name of any topic.

        >>> settings = TopicSettings(prefix="prod.")
        >>> [settings.resolve(text) for text in ("alerts", "prod.alerts", "orders")]
        ['prod.alerts', 'prod.alerts', 'orders']
        """
        return self.name(text) if text in topics.ALL else text
