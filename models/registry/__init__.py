"""Immutable versions of each task's full model, and which of them serves; over a directory or an object store."""
