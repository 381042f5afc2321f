"""What an operator sets: brokers, the feature store, topics. One TOML file plus ``WEIR_*``, read here and nowhere else.

``weir.toml`` (or the file that ``--config`` or ``WEIR_CONFIG`` names) holds a table per concern; the environment
overrides single keys, with two underscores between levels: ``WEIR_KAFKA__BOOTSTRAP=kafka:9092``. Secrets are never
shown by ``repr``, ``str`` or an error. Nothing here connects anywhere.
"""

from __future__ import annotations

import os
import re
import ssl
import tomllib
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    Secret,
    SecretStr,
    ValidationError,
    model_validator,
)

from online.durations import Seconds
from streams import topics
from streams.errors import UsageError
from streams.settings_errors import check_keys, explain

DEFAULT_FILE: Final = "weir.toml"
PREFIX: Final = "WEIR_"
_USER_INFO = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
_ADDRESS = re.compile(r"(?:[^\s:/@]+|\[[0-9A-Fa-f:.]+\]):(\d{1,5})")
_IN_QUERY = re.compile(r"(?<=[?&]password=)[^&]*")


class SecretUrl(Secret[str]):
    """A URL whose password is not shown.

    >>> SecretUrl("redis://weir:hush@cache:6379/0")
    SecretUrl('redis://weir:***@cache:6379/0')
    """

    def _display(self) -> str:
        return _IN_QUERY.sub("***", _USER_INFO.sub(r"\1:***@", self.get_secret_value()))


def _split(value: object) -> object:
    """A comma-separated text as a list, for the environment's sake."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _addresses(found: tuple[str, ...]) -> tuple[str, ...]:
    if not found:
        raise ValueError("names no broker; give HOST:PORT, several with commas between them")
    for address in found:
        if "@" in address:
            raise ValueError("holds a user name; give HOST:PORT, and set username and password beside it")
        match = _ADDRESS.fullmatch(address)
        if match is None or not 0 < int(match[1]) < 65_536:
            raise ValueError(f"{address!r} is not HOST:PORT, such as kafka-1:9092")
    return found


class Concern(BaseModel):
    """One table of the settings file: frozen, no unknown keys, no values in pydantic's own errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class TlsFiles(Concern):
    """Certificates of one link."""

    ca_file: Path | None = None
    """PEM file of the authority that signed the server's certificate; the system's authorities without it."""
    cert_file: Path | None = None
    """PEM file of our own certificate, where the server asks for one."""
    key_file: Path | None = None
    """PEM file of its key."""

    @model_validator(mode="after")
    def _key_and_certificate(self) -> Self:
        if (self.cert_file is None) != (self.key_file is None):
            raise ValueError("cert_file and key_file belong together; give both or neither")
        return self

    def ssl_context(self) -> ssl.SSLContext:
        """A verifying client context; raises ``UsageError`` naming the file that cannot be used."""
        for name in ("ca_file", "cert_file", "key_file"):
            path: Path | None = getattr(self, name)
            if path is not None and not path.is_file():
                raise UsageError(f"{name} = {str(path)!r}: no such file; give the path of a PEM file")
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
            if self.cert_file is not None:
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            files = ", ".join(str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f is not None)
            raise UsageError(
                f"{files}: not usable for TLS ({exc}); give PEM files, and a key without a password"
            ) from exc
        return context


class KafkaSettings(TlsFiles):
    """How to reach the brokers.

    >>> KafkaSettings(bootstrap="a:9092,b:9092").bootstrap
    ('a:9092', 'b:9092')
    """

    bootstrap: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_addresses)] = ("localhost:9092",)
    """``HOST:PORT`` of one or more brokers; clients learn the others from them."""
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = "PLAINTEXT"
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = "SCRAM-SHA-512"
    username: str | None = None
    password: SecretStr | None = None
    client_id: str = Field(default="weir", pattern=r"^[A-Za-z0-9._-]{1,100}$")
    """What the brokers' logs and quotas call us; each client adds what it is, such as ``weir-replay``."""
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
        if self.tls:
            self.ssl_context()  # fails here, with the name of the file, instead of at the first command
            files = {"ssl_ca_certs": self.ca_file, "ssl_certfile": self.cert_file, "ssl_keyfile": self.key_file}
            options.update({name: str(path) for name, path in files.items() if path is not None})
        return options


class TopicOverride(Concern):
    """What one topic has instead of the defaults; ``retention`` as ``"7d"``, or ``"forever"``."""

    partitions: int | None = Field(default=None, ge=1, le=10_000)
    replication: int | None = Field(default=None, ge=1, le=100)
    retention: Seconds | Literal["forever"] | None = None
    min_insync_replicas: int | None = Field(default=None, ge=1, le=100)


class TopicSettings(Concern):
    """What ``weir topics create`` makes and ``weir topics check`` expects."""

    partitions: int = Field(default=6, ge=1, le=10_000)
    """Of event, label, prediction and alert topics alike: workers rely on a key having the same number in all."""
    replication: int | None = Field(default=None, ge=1, le=100)
    """Copies of each partition; by default 3, or as many as there are brokers."""
    min_insync_replicas: int | None = Field(default=None, ge=1, le=100)
    """Copies that must have a record before it counts as written; by default one less than there are, at least 1."""
    override: dict[str, TopicOverride] = Field(default_factory=dict)
    """By topic name."""

    @model_validator(mode="after")
    def _known_topics(self) -> Self:
        for name in self.override:
            if name not in topics.ALL:
                near = get_close_matches(name, topics.ALL, n=1, cutoff=0.0)
                raise ValueError(f"override {name!r} is no topic of Weir's; did you mean {near[0]!r}?")
        return self


class Settings(Concern):
    """All of it. ``Settings()`` is a broker and a Redis on this machine."""

    kafka: KafkaSettings = Field(default_factory=KafkaSettings)
    redis: RedisSettings = Field(default_factory=RedisSettings)
    topics: TopicSettings = Field(default_factory=TopicSettings)


def load_settings(
    path: Path | None = None, environ: Mapping[str, str] | None = None, bootstrap: str | None = None
) -> Settings:
    """Settings from a TOML file and the environment, which wins.

    Parameters
    ----------
    path : the file; else the one that ``WEIR_CONFIG`` names, else ``weir.toml`` here if there is one.
    environ : instead of ``os.environ``, for tests.
    bootstrap : brokers that a command line named; they win over both.

    Raises
    ------
    UsageError
        A file that is not there, an unknown key (with the nearest known one) or a wrong value (not shown if secret).
    """
    env = os.environ if environ is None else environ
    named = path or (Path(env["WEIR_CONFIG"]) if env.get("WEIR_CONFIG") else None)
    document, where = _read(named or Path(DEFAULT_FILE), required=named is not None)
    check_keys(Settings, document, where)
    for name, keys in _overrides(env).items():
        check_keys(Settings, _nested(keys, env[name]), "the environment", name)
        _merge(document, keys, name, env[name])
    if bootstrap is not None:
        _merge(document, ["kafka", "bootstrap"], "--bootstrap", bootstrap)
    try:
        return Settings.model_validate(document)
    except ValidationError as exc:
        raise UsageError(f"{where} and the environment: {explain(exc, document)}") from None


def _read(path: Path, required: bool) -> tuple[dict[str, Any], str]:
    if not path.is_file():
        if required:
            raise UsageError(f"no such settings file: {path}; correct --config or WEIR_CONFIG")
        return {}, "the defaults"
    try:
        return tomllib.loads(path.read_text(encoding="utf-8")), str(path)
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise UsageError(f"{path}: not TOML: {exc}") from None


def _overrides(env: Mapping[str, str]) -> dict[str, list[str]]:
    """Variables that are settings, with their path; one underscore where two were meant is an error."""
    found: dict[str, list[str]] = {}
    for name in sorted(env):
        if not name.startswith(PREFIX):
            continue
        path = name.removeprefix(PREFIX).lower().split("__")
        if path[:2] == ["topics", "override"] and len(path) > 2:
            path[2] = path[2].replace("_", "-")  # no shell lets a variable's name hold the dash of user-events
        if len(path) > 1:
            found[name] = path
        for section in Settings.model_fields:
            if len(path) == 1 and path[0].startswith(f"{section}_"):
                meant = f"{PREFIX}{section.upper()}__{path[0].removeprefix(f'{section}_').upper()}"
                raise UsageError(f"{name}: unknown; did you mean {meant}, with two underscores between levels?")
    return found


def _nested(path: list[str], value: object) -> dict[str, Any]:
    return {path[0]: _nested(path[1:], value) if len(path) > 1 else value}


def _merge(document: dict[str, Any], path: list[str], name: str, value: str) -> None:
    for key in path[:-1]:
        document = document.setdefault(key, {})
        if not isinstance(document, dict):
            raise UsageError(f"{name}: {key!r} is a value, not a table; remove the variable's last part")
    document[path[-1]] = value
