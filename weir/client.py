"""Talks to a running ``weir serve``: ``from weir.client import Client``."""

from weir.streams.client.calls import AlertPage, FeedEvent, IntakeAnswer, RecordResult
from weir.streams.client.client import AsyncClient, Client, ServiceError

__all__ = ["AlertPage", "AsyncClient", "Client", "FeedEvent", "IntakeAnswer", "RecordResult", "ServiceError"]
