"""One training job: its steps, files, process, and what follows from its candidate."""
