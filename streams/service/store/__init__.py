"""Alerts, their history, verdicts and cases in SQL: a projection of the topics."""
