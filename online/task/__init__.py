"""The task file, and what follows from it before any event."""
