"""Models that follow the ``examples`` log: the same on every worker, stored in Redis, rebuilt as of any version."""

from __future__ import annotations

from streams.following.errors import FollowerBehind, ReplicaDiverged
from streams.following.fold import ExampleFold, FoldState
from streams.following.follower import Follower, FollowerStats, FollowPolicy
from streams.following.history import ModelHistory
from streams.following.snapshots import ModelSnapshots

__all__ = [
    "ExampleFold",
    "FoldState",
    "FollowPolicy",
    "Follower",
    "FollowerBehind",
    "FollowerStats",
    "ModelHistory",
    "ModelSnapshots",
    "ReplicaDiverged",
]
