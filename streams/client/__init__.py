"""Talks to a service: send, decide, follow the feed, work alerts."""
