"""Tables of the database that say who may do what."""

from __future__ import annotations

from sqlalchemy import JSON, BigInteger, Column, Double, Integer, String, Table

from weir.streams.service.store.tables import metadata

API_KEYS = Table(
    "api_keys",
    metadata,
    Column("id", String(12), primary_key=True),
    Column("name", String(200), nullable=False),
    Column("secret_sha256", String(64), nullable=False),
    Column("role", String(20)),
    Column("scopes", JSON, nullable=False),
    Column("tasks", JSON(none_as_null=True)),
    Column("requests_per_s", Double),
    Column("records_per_s", Double),
    Column("created_at", Double, nullable=False),
    Column("created_by", String(200), nullable=False),
    Column("expires_at", Double),
    Column("revoked_at", Double),
)
SESSIONS = Table(
    "sessions",
    metadata,
    Column("token_sha256", String(64), primary_key=True),
    Column("subject", String(300), nullable=False),
    Column("name", String(300), nullable=False),
    Column("via", String(20), nullable=False),
    Column("groups", JSON, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("expires_at", Double, nullable=False, index=True),
)
AUDIT_ANCHORS = Table(
    "audit_anchors",
    metadata,
    Column("writer", String(300), primary_key=True),
    Column("seq", BigInteger, nullable=False),
    Column("hash", String(64), nullable=False),
    Column("at", Double, nullable=False),
)
AUDIT_OUTBOX = Table(
    "audit_outbox",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("body", JSON, nullable=False),
)
"""What commands did beside the service, which alone writes the audit: it takes them from here."""
