"""Backtests: a task over files as it would have run live."""
