"""What ``weir demo`` does: a simulated world, three tasks, a screen, and an embedded log that outlives it."""

from streams.demo.runner import Demo, DemoResult
from streams.demo.scenario import TASKS, Scenario, demo_tasks

__all__ = ["TASKS", "Demo", "DemoResult", "Scenario", "demo_tasks"]
