"""Tells people and programs of alerts: what is to be told follows from the log, and what was told is in it."""
