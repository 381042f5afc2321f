"""The search for a better task: data cut in time, a space of changes, trials on growing prefixes, what it finds."""
