"""The screen of ``weir demo``: pure functions from a snapshot to what rich can draw."""
