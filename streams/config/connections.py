"""How to reach Kafka and Redis: addresses, certificates, users. Nothing here connects anywhere."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, model_validator

from weir.streams.config.frozen_settings import SecretUrl, TlsFiles

_ADDRESS = re.compile(r"(?:[^\s:/@]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")


def split_commas(value: object) -> object:
    """A comma-separated text as a list, for the environment's sake."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _addresses(found: tuple[str, ...]) -> tuple[str, ...]:
    if not found:
        raise ValueError("names no broker; give HOST:PORT, several with commas between them")
    return _host_ports(found)


def _host_ports(found: tuple[str, ...]) -> tuple[str, ...]:
    for address in found:
        # Without the address in the message: it holds a password, as likely as not.
        if "@" in address:
            raise ValueError("holds a user name; give HOST:PORT, and set username and password beside it")
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[1]) < 65_536:
            raise ValueError(f"{address!r} is not HOST:PORT, such as kafka-1:9092")
    return found


class KafkaSettings(TlsFiles):
    """How to reach the brokers.

    >>> KafkaSettings(bootstrap="a:9092,b:9092").bootstrap
    ('a:9092', 'b:9092')
    """

    bootstrap: Annotated[tuple[str, ...], BeforeValidator(split_commas), AfterValidator(_addresses)] = (
        "localhost:9092",
    )
    """``HOST:PORT`` of one or more brokers; clients learn the others from them."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    """``SSL`` encrypts, ``SASL`` logs in; ``SASL_PLAINTEXT`` sends the password in clear with ``PLAIN``."""
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    """How to log in, where the protocol is one of ``SASL``."""
    username: str | None = None
    """The user of ``SASL``; refused without it."""
    password: SecretStr | None = None
    """That user's password; better given as a variable than in a file."""
    client_id: str = Field(default="weir", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """What the brokers' logs and quotas call us; each client adds what it is, such as ``weir-replay``."""
    compression_type: Literal["none", "gzip", "snappy", "lz4", "zstd"] = "none"
    """How batches that Weir writes are compressed, each codec at a fast level. `zstd` makes predictions some four times
    smaller on the wire and on the brokers' disks, for 1 us of CPU each. Whoever reads the topics must know the codec:
    kafka-python needs a package for all but `gzip`."""
    timeout_s: float = Field(default=10.0, gt=0, le=600)
    """How long to wait for the brokers before saying that they cannot be reached."""

    @property
    def sasl(self) -> bool:
        """Whether we log in by name and password."""
        return self.security_protocol.startswith("SASL")

    @property
    def tls(self) -> bool:
        """Whether the link is encrypted."""
        return self.security_protocol.endswith("SSL")

    @model_validator(mode="after")
    def _credentials(self) -> Self:
        if self.sasl and not (self.username and self.password):
            raise ValueError(f"security_protocol = {self.security_protocol} needs username and password")
        # An error, not a note: whoever gives a password believes that it is asked for.
        if not self.sasl and (self.username or self.password):
            raise ValueError(
                f"username and password are not sent with security_protocol = {self.security_protocol}; "
                "set SASL_SSL (or SASL_PLAINTEXT), or remove them"
            )
        if not self.tls and (self.ca_file or self.cert_file):
            raise ValueError(
                f"certificates are not used with security_protocol = {self.security_protocol}; "
                "set SSL or SASL_SSL, or remove them"
            )
        return self

    def client_options(self, role: str) -> dict[str, Any]:
        """Arguments that clients of kafka-python and of aiokafka both take; holds the password in clear.

        ``role`` names the client behind the prefix: ``client_options("replay")["client_id"]`` is ``weir-replay``.
        """
        options: dict[str, Any] = {
            "bootstrap_servers": list(self.bootstrap),
            "client_id": f"{self.client_id}-{role}",
            "security_protocol": self.security_protocol,
        }
        if self.tls:
            options["ssl_context"] = self.ssl_context()
        if self.sasl and self.password is not None:
            options["sasl_mechanism"] = self.sasl_mechanism
            options["sasl_plain_username"] = self.username
            options["sasl_plain_password"] = self.password.get_secret_value()
        return options


class RedisSettings(TlsFiles):
    """How to reach the feature store."""

    url: SecretUrl = SecretUrl("redis://localhost:6379/0")
    """``redis://``, ``rediss://`` (TLS) or ``unix://``; a password in it is not shown, and better given apart."""
    username: str | None = None
    """ACL user; without it the password is that of Redis' ``default`` user."""
    password: SecretStr | None = None
    """Of that user; better given as a variable than in a file."""
    prefix: str = Field(default="weir", pattern=r"^[A-Za-z0-9._-]{1,50}$")
    """Before every key, so that several deployments can share a store: ``weir:{user-events-3}:...``."""
    sentinels: Annotated[tuple[str, ...], BeforeValidator(split_commas), AfterValidator(_host_ports)] = ()
    """``HOST:PORT`` of Redis Sentinels: they say where the primary is, now and after a failover, in the place of the
    host in ``url``, whose scheme, database and login count all the same."""
    service: str = Field(default="mymaster", min_length=1)
    """What the sentinels call the primary and its replicas."""
    sentinel_password: SecretStr | None = None
    """Of the sentinels, where they want one."""
    timeout_s: float = Field(default=5.0, gt=0, le=600)
    """How long one command may take, connecting included, before it counts as failed and is tried again."""

    @model_validator(mode="after")
    def _coherent(self) -> Self:
        url = self.url.get_secret_value()
        scheme, _, rest = url.partition("://")
        if scheme not in ("redis", "rediss", "unix") or not rest:
            raise ValueError(f"url = {self.url}: give redis://HOST:PORT/DB, rediss://... for TLS, or unix:///PATH")
        if "@" in rest and (self.username or self.password):
            raise ValueError("the url names a user and username or password do too; give them in one place")
        if self.username and not self.password:
            raise ValueError(f"username = {self.username!r} needs a password")
        if not self.tls and (self.ca_file or self.cert_file):
            raise ValueError(f"certificates are not used with {scheme}://; write rediss://, or remove them")
        if self.sentinels and scheme == "unix":
            raise ValueError("sentinels name hosts, and url = unix:// does not; write redis:// or rediss://")
        if self.sentinel_password and not self.sentinels:
            raise ValueError("sentinel_password is of no use without sentinels; name them, or remove it")
        return self

    @property
    def tls(self) -> bool:
        """Whether the link is encrypted."""
        return self.url.get_secret_value().startswith("rediss://")

    def client_options(self) -> dict[str, Any]:
        """Arguments of ``redis.Redis.from_url`` (also the asyncio one); holds the password in clear."""
        options: dict[str, Any] = {"url": self.url.get_secret_value()}
        if self.username is not None:
            options["username"] = self.username
        if self.password is not None:
            options["password"] = self.password.get_secret_value()
        return options | self._tls_options()

    def _tls_options(self) -> dict[str, Any]:
        if not self.tls:
            return {}
        self.ssl_context()  # fails here, with the name of the file, instead of at the first command
        files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
        return {name: str(path) for name, path in files.items() if path is not None}

    def sentinel_options(self, timeout_s: float) -> dict[str, Any]:
        """Arguments of ``redis.Sentinel`` (also the asyncio one); holds the password in clear."""
        # With a time limit of their own: redis-py waits for a sentinel for ever.
        of_each = {"socket_timeout": timeout_s, "socket_connect_timeout": timeout_s, **self._tls_options()}
        if self.tls:
            of_each["ssl"] = True
        if self.sentinel_password is not None:
            of_each["password"] = self.sentinel_password.get_secret_value()
        pairs = [address.rsplit(":", 1) for address in self.sentinels]
        return {"sentinels": [(host.strip("[]"), int(port)) for host, port in pairs], "sentinel_kwargs": of_each}

    def url_at(self, host: str, port: int) -> str:
        """The url with another server in it; holds the password in clear, where the url does.

        >>> RedisSettings(url=SecretUrl("redis://u:p@store:6379/2")).url_at("10.0.0.2", 6380)
        'redis://u:p@10.0.0.2:6380/2'
        """
        parts = urlsplit(self.url.get_secret_value())
        # From the right: a password may hold an @.
        login, at, _ = parts.netloc.rpartition("@")
        name = f"[{host}]" if ":" in host else host
        return parts._replace(netloc=f"{login}{at}{name}:{port}").geturl()
