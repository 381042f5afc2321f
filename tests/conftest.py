"""Hypothesis in every test: no deadlines on busy machines; in continuous integration the same examples each time."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("weir", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "weir")
