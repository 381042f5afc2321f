"""What every table of the settings is built from: frozen models that never show a secret, and TLS files."""

from __future__ import annotations

import re
import ssl
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, Secret, model_validator

from weir.streams.errors import UsageError

# Up to the last @, as a password may hold one; a line break in it must not end the match.
_USER_INFO = re.compile(r"(?<=://)([^:/@]*):.*@", re.DOTALL)
# Whatever is before it: libpq's password of a key is `sslpassword`, MySQL's of a user `passwd`.
_IN_QUERY = re.compile(r"([?&]\w*passw(?:or)?d=)[^&]*", re.IGNORECASE)


class SecretUrl(Secret[str]):
    """A URL whose password is not shown.

    >>> SecretUrl("redis://weir:hush@cache:6379/0")
    SecretUrl('redis://weir:***@cache:6379/0')
    """

    def _display(self) -> str:
        return _IN_QUERY.sub(r"\1***", _USER_INFO.sub(r"\1:***@", self.get_secret_value()))


class Concern(BaseModel):
    """One table of the settings file: frozen, no unknown keys, no ``inf``, no values in pydantic's own errors."""

    # Built on first use: most commands need a few of the tables, and building all takes a part of their start.
    model_config = ConfigDict(
        frozen=True, extra="forbid", hide_input_in_errors=True, defer_build=True, allow_inf_nan=False
    )


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
                # A password of nothing: OpenSSL would ask for the key's on the terminal, and a service would hang
                # there.
                context.load_cert_chain(self.cert_file, self.key_file, password=lambda: "")
        except (ssl.SSLError, OSError) as exc:
            files = ", ".join(str(f) for f in (self.ca_file, self.cert_file, self.key_file) if f is not None)
            raise UsageError(
                f"{files}: not usable for TLS ({exc}); give PEM files, and a key without a password"
            ) from exc
        return context
