"""Hosts run stages over a log: the embedded one here, Faust's beside it."""

from streams.host.embedded import EmbeddedHost, HostStats

__all__ = ["EmbeddedHost", "HostStats"]
