"""Looks at tables of unknown meaning: what their columns are, the task file that suits them, what is odd of both."""
