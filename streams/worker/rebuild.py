"""Fills an emptied store again from Kafka: ``weir features rebuild``.

Every lane is run over what Kafka still has, up to where its group had committed, with its outputs thrown away: they are
in Kafka already. Rows of windows longer than the topics' retention start with what is left.

Side lanes come first, because score lanes read their rows. Values of a user's aggregates that depend on such a row (a
``where`` over a merchant's feature, say) are those of now, not of then; everything else is as it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, cast

from online.task import TaskSpec
from streams import topics
from streams.errors import UsageError
from streams.following.fold import ExampleFold
from streams.ops.metrics import Metrics
from streams.settings import Settings
from streams.stores.link import RedisLink
from streams.stores.redis import Lane, LaneStore
from streams.transport import BatchApp, FetchedBatch, Sent, Ticket
from streams.transport.ranges import RangeReader
