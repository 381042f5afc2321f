"""What stands between the service and a browser: TLS, and proxies that are believed or not."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from httpx import AsyncClient

from tests.service.access.served import bearer
from tests.service.running import make_service
from weir.streams.config import topics
from weir.streams.service.ports import every_record
from weir.streams.service.run import configured, listening
from weir.streams.service.service import Service

pytestmark = pytest.mark.anyio


class _Server(uvicorn.Server):
    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listens = asyncio.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listens.set()


@asynccontextmanager
async def reached(directory: Path, **serve: Any) -> AsyncIterator[tuple[Service, int]]:
    """The service behind the server as ``weir serve`` sets it up, and its port."""
    service = make_service(directory, serve=serve)
    with listening("127.0.0.1", 0) as bound:
        server = _Server(configured(service, service.settings.serve))
        async with service:
            serving = asyncio.create_task(server.serve([bound]))
            await server.listens.wait()
            yield service, bound.getsockname()[1]
            server.should_exit = True
            await serving


def certificate(directory: Path) -> dict[str, str]:
    """Settings with a certificate of 127.0.0.1 that signs itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "weir")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, plain = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    (directory / "cert.pem").write_bytes(made.public_bytes(pem))
    (directory / "key.pem").write_bytes(key.private_bytes(pem, plain, serialization.NoEncryption()))
    return {"tls_cert": str(directory / "cert.pem"), "tls_key": str(directory / "key.pem")}


async def test_with_a_certificate_everything_is_https(tmp_path: Path) -> None:
    tls = certificate(tmp_path)
    async with reached(tmp_path / "data", **tls) as (service, port):
        assert service.access.link(port) == f"https://127.0.0.1:{port}/?token={service.access.token}"
        trusting = ssl.create_default_context(cafile=tls["tls_cert"])
        async with AsyncClient(verify=trusting) as browser:
            entered = await browser.get(service.access.link(port))
            assert entered.headers["set-cookie"].startswith("__Host-weir=")
            assert "strict-transport-security" in entered.headers
            assert (await browser.get(f"https://127.0.0.1:{port}/v1/me")).json()["via"] == "session"


@pytest.mark.parametrize(
    ("trusted", "address", "cookie"), [([], "127.0.0.1", "weir-"), (["127.0.0.0/8"], "203.0.113.9", "__Host-")]
)
async def test_only_a_trusted_proxy_says_who_asks_and_how(
    tmp_path: Path, trusted: list[str], address: str, cookie: str
) -> None:
    forwarded = {"x-forwarded-for": "203.0.113.9", "x-forwarded-proto": "https"}
    async with reached(tmp_path, trusted_proxies=trusted) as (service, port):
        async with AsyncClient(base_url=f"http://127.0.0.1:{port}", headers=forwarded) as client:
            entered = await client.get(f"/?token={service.access.token}")
            assert entered.headers["set-cookie"].startswith(cookie)
            await client.get("/v1/entities/u1", headers=bearer(service.access.token))
        while service.access.audit._waiting:
            await asyncio.sleep(0)
        found = [msgspec.json.decode(p.record.value) async for p in every_record(service.log, topics.AUDIT)]
    assert {record["address"] for record in found if "address" in record} == {address}
