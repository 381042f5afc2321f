"""Models that follow the ``examples`` log: the same on every worker, stored in Redis, rebuilt as of any version."""
