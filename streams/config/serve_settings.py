"""``[serve]``: where the HTTP service listens, where it keeps its data, and what it takes from a caller."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Literal, Self

from pydantic import Field, SecretStr, field_validator, model_validator

from weir.online.durations import Seconds
from weir.streams.config.frozen_settings import Concern, SecretUrl
from weir.streams.config.notify_settings import NotifySettings


class RetentionSettings(Concern):
    """What the embedded log keeps; what is needed to resume is always kept."""

    age: Seconds = Field(default=7 * 86_400.0, ge=60.0)
    """Records older than this go."""
    bytes: int = Field(default=4 << 30, ge=64 << 20)
    """The oldest records go where the log is larger, of inputs and of outputs each."""


class IntakeSettings(Concern):
    """What ``POST /v1/events``, ``/v1/labels`` and ``/v1/decisions`` take."""

    body_bytes: int = Field(default=16 << 20, ge=1024, le=1 << 30)
    """The largest body, before and after decompression."""
    body_records: int = Field(default=10_000, ge=1, le=1_000_000)
    """Records of a body at most."""
    body_timeout_s: float = Field(default=10.0, gt=0, le=600)
    """Seconds that a body may take to arrive."""
    waiting_records: int = Field(default=50_000, ge=1)
    """Records that wait to be processed, of all callers; more are answered by 503."""
    deadline_ms: int = Field(default=250, ge=1, le=60_000)
    """How long a decision is waited for, where the caller does not say."""
    remembered_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """Memory of decisions, so that an event that is asked again gets its first answer: some 100,000 of them."""


class FeedSettings(Concern):
    """The live event feed."""

    ring_bytes: int = Field(default=64 << 20, ge=1 << 20)
    """Newest records kept in memory, from which a client resumes without reading the log."""
    client_bytes: int = Field(default=1 << 20, ge=16_384)
    """What may wait for one client; one that is slower is told to resume."""
    heartbeat_s: float = Field(default=15.0, gt=0, le=300)
    """Seconds between two comments on a feed without news."""
    clients: int = Field(default=5000, ge=1)
    """How many may follow at once; more are answered by 503."""


class Grant(Concern):
    """What the members of a group of the identity provider may do."""

    role: Literal["viewer", "analyst", "operator", "admin"]
    """A named set of scopes; docs/SECURITY.md has the table."""
    tasks: tuple[str, ...] | None = None
    """Only these tasks; all where it is absent."""


class OidcSettings(Concern):
    """Sign-on by OpenID Connect: the code flow with PKCE. It needs ``[serve] public_url``, or a loopback address."""

    issuer: str | None = Field(default=None, pattern=r"^https?://")
    """URL of the identity provider, under which ``/.well-known/openid-configuration`` lies; none without it."""
    client_id: str = "weir"
    """What the provider calls this service."""
    client_secret: SecretStr | None = None
    """What proves that; a public client has none."""
    scope: str = "openid profile email groups"
    """What the provider is asked for."""
    groups_claim: str = "groups"
    """Where the token names the groups of a person."""
    groups: dict[str, Grant] = Field(default_factory=dict)
    """What each group may do; who is in none of them may not enter."""

    @model_validator(mode="after")
    def _someone_may_enter(self) -> Self:
        if self.issuer is not None and not self.groups:
            raise ValueError("oidc.issuer is set and oidc.groups is empty: nobody could enter; give groups a role")
        return self


class AccessSettings(Concern):
    """Who may use the service: ``weir keys`` makes keys of programs, people sign on by OpenID Connect."""

    open: bool = False
    """Whether anyone who reaches the port may do everything. For a network that you trust, or a test."""
    token: SecretStr | None = Field(default=None, min_length=32)
    """A token of the administrator, of 32 characters or more; on loopback without users one is made."""
    session_age: Seconds = Field(default=43_200.0, ge=60.0, le=2_592_000.0)
    """How long a person stays signed on."""
    requests_per_s: float = Field(default=2_000.0, gt=0)
    """Of one key or person; more are answered by 429. A key may have a limit of its own."""
    records_per_s: float = Field(default=200_000.0, gt=0)
    """Events and labels of one key or person, likewise."""
    oidc: OidcSettings = Field(default_factory=OidcSettings)


class ServeSettings(Concern):
    """``[serve]`` of the settings."""

    host: str = Field(default="127.0.0.1", min_length=1)
    """Where the service listens; any address but this machine's own needs users."""
    port: int = Field(default=8080, ge=0, le=65_535)
    """0 takes a free one."""
    directory: Path = Path("weir-data")
    """The log, checkpoints, alerts and models of the service without Kafka."""
    database: SecretUrl | None = None
    """SQLAlchemy URL of the alerts, such as ``postgresql+psycopg://weir:...@db/weir``; else SQLite in ``directory``."""
    public_url: str | None = Field(default=None, pattern=r"^https?://[^/]+$")
    """What people write in the browser, such as ``https://weir.example.com``; sign-on comes back to it."""
    tls_cert: Path | None = None
    """PEM file of the certificate; with it the service speaks https."""
    tls_key: Path | None = None
    """PEM file of its key."""
    trusted_proxies: tuple[str, ...] = ()
    """Addresses or networks (``10.0.0.0/8``) whose ``X-Forwarded-For`` and ``-Proto`` are believed; no others are."""
    alerts_kept: Seconds = Field(default=400 * 86_400.0, ge=86_400.0)
    """How long an alert that is resolved stays in the database; without Kafka also what people did, and the audit."""
    rebuild: bool = False
    """Whether the tables of alerts are made anew from the log at the start, as ``--rebuild`` asks for once."""
    fsync: bool = True
    """Whether an acknowledged record survives a power cut; without it, it survives the end of the process only."""
    checkpoint_every_s: float = Field(default=30.0, gt=0, le=3600)
    """Seconds between two checkpoints: so much is computed again after a crash."""
    retention: RetentionSettings = Field(default_factory=RetentionSettings)
    intake: IntakeSettings = Field(default_factory=IntakeSettings)
    feed: FeedSettings = Field(default_factory=FeedSettings)
    access: AccessSettings = Field(default_factory=AccessSettings)
    notify: NotifySettings = Field(default_factory=NotifySettings)

    @field_validator("trusted_proxies")
    @classmethod
    def _networks(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for text in given:
            try:
                # Strictly: 10.0.0.1/8 is one address or a whole network, and proxies are believed by it.
                ip_network(text)
            except ValueError as exc:
                raise ValueError(f"{text!r}: {exc}; give an address or a network, as 10.0.0.0/8") from exc
        return given

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("tls_cert and tls_key belong together; give both or neither")
        return self

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach the service."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a name or address is this machine's own.

    >>> [is_loopback(host) for host in ("localhost", "127.0.0.1", "::1", "0.0.0.0", "weir.example.com")]
    [True, True, True, False, False]
    """
    try:
        return ip_address(host).is_loopback
    except ValueError:
        # No look-up: what a name stands for may change, and with it who can reach the service.
        return host.lower() == "localhost"
