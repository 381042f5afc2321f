"""A throw-away certificate authority, a broker's certificate and users with passwords, for a broker that wants them."""

from __future__ import annotations

import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

_SASL = "org.apache.kafka.common.security"


@dataclass(frozen=True)
class Secrets:
    """What a SASL_SSL listener needs, in a directory: ``ca.pem`` for clients, ``other-ca.pem`` that signed nothing."""

    directory: Path
    users: Mapping[str, str]
    """Passwords. All log in by PLAIN and SCRAM-SHA-512, all but ``admin`` also by SCRAM-SHA-256. ``admin`` may do
    everything, the others what an ACL says."""

    @property
    def ca_file(self) -> Path:
        """The authority that signed the broker's certificate."""
        return self.directory / "ca.pem"

    def broker_properties(self) -> dict[str, object]:
        """Lines of ``server.properties``."""
        plain = " ".join(f'user_{name}="{word}"' for name, word in self.users.items())
        scram = f"{_SASL}.scram.ScramLoginModule required;"
        return {
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": self.directory / "broker.pem",
            "sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512",
            "listener.name.client.plain.sasl.jaas.config": f"{_SASL}.plain.PlainLoginModule required {plain};",
            "listener.name.client.scram-sha-256.sasl.jaas.config": scram,
            "listener.name.client.scram-sha-512.sasl.jaas.config": scram,
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:admin;User:ANONYMOUS",
        }

    def scram_arguments(self) -> list[str]:
        """Of ``StorageTool format``."""
        return [
            part
            for name, word in self.users.items()
            for bits in ((512,) if name == "admin" else (256, 512))
            for part in ("--add-scram", f"SCRAM-SHA-{bits}=[name={name},password={word}]")
        ]


def make_secrets(directory: Path) -> Secrets:
    """Keys, certificates for ``localhost`` and 127.0.0.1, and users ``admin``, ``weir`` and ``reader``."""
    directory.mkdir(parents=True, mode=0o700)

    def openssl(*args: str) -> None:
        subprocess.run(["openssl", *args], check=True, cwd=directory, capture_output=True)

    key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes")
    for name in ("ca", "other-ca"):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        openssl("req", "-x509", *key, *files, "-days", "30", "-subj", f"/CN=weir-test-{name}")
    openssl("req", *key, "-keyout", "broker.key", "-out", "broker.csr", "-subj", "/CN=localhost")
    (directory / "names").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "names", "-days", "30")
    openssl("x509", "-req", "-in", "broker.csr", *signed, "-out", "broker.crt")
    both = [(directory / f"broker.{kind}").read_text() for kind in ("key", "crt")]
    (directory / "broker.pem").write_text("".join(both))
    return Secrets(directory, {name: secrets.token_hex(8) for name in ("admin", "weir", "reader")})
