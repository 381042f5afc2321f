"""Commands that keep running: workers and the trainer."""
