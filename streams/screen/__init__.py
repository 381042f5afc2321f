"""The screen of ``weir demo``: pure functions from a snapshot to what rich can draw."""

from streams.screen.display import DemoDisplay
from streams.screen.plain import plain_line
from streams.screen.snapshot import AlertRow, DemoSnapshot, DriftRow, FullRow, Severity, TaskRow
from streams.screen.summary import render_summary
from streams.screen.view import ScreenView, render_screen

__all__ = [
    "AlertRow",
    "DemoDisplay",
    "DemoSnapshot",
    "DriftRow",
    "FullRow",
    "ScreenView",
    "Severity",
    "TaskRow",
    "plain_line",
    "render_screen",
    "render_summary",
]
