"""Talks to a running ``weir serve``: ``from weir.client import Client``."""

from weir.streams.client.calls import AlertPage, FeedEvent
from weir.streams.client.client import AsyncClient, Client, ServiceError
from weir.streams.service.intake.record_results import IntakeAnswer, RecordResult

__all__ = ["AlertPage", "AsyncClient", "Client", "FeedEvent", "IntakeAnswer", "RecordResult", "ServiceError"]
