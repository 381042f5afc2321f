"""Texts of task files on the purchases of users, and of where their rows are in a file."""

from __future__ import annotations


def purchases(more: str = "", *, top: str = 'inputs = ["amount", "user.*"]\n', windows: str = '"7d"') -> str:
    """The task ``fraud``; ``top`` are further keys of it, ``more`` further tables."""
    return f"""
name = "fraud"
entity = "user"
{top}[[entities]]
name = "user"
key = "user_id"
[[entities.aggregates]]
name = "amount"
value = "amount"
ops = ["count", "mean"]
windows = [{windows}]
[model]
kind = "logistic"
{more}"""


BAD = """
name = "bad"
entity = "user"
numbers = ["amount"]
inputs = ["amount", "user.*"]
alerting = false
[[entities]]
name = "user"
key = "user_id"
aggregates = [{ name = "amount", value = "amount", ops = ["count", "mean"], windows = ["1d"] }]
"""
"""The task ``bad``, up to its entity: more of it, and the model, are to follow."""


def source(user: str, more: str = "", *, time: str = "at", columns: str = "") -> str:
    """Whose column is ``user``, and when ``time``; ``columns`` are further ones, ``more`` further keys."""
    return f"""
[source]
columns = {{ user_id = "{user}", amount = "eur"{columns} }}
constants = {{ type = "purchase" }}
event_id = "id"
time = "{time}"
label = "bad"
{more}"""
