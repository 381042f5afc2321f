"""Settings, topic names and task files."""
