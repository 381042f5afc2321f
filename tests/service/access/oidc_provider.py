"""A small OpenID provider on a socket of its own: it signs all on, and checks what the standard says it has to."""

from __future__ import annotations

import asyncio
import hashlib
import time
from base64 import b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qsl, unquote_plus, urlencode

import uvicorn
from joserfc import jwt
from joserfc.jwk import ECKey
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

CLIENT, SECRET = "weir", "a secret of the client"


class Provider:
    """The person who is signed on is ``claims``; ``changes`` are what a token says falsely."""

    def __init__(self) -> None:
        self.issuer = ""
        self.key = ECKey.generate_key("P-256", {"kid": "1", "use": "sig"})
        self.signs_with = self.key
        self.claims: dict[str, Any] = {"sub": "7", "preferred_username": "ana", "groups": ["fraud desk"]}
        self.changes: dict[str, Any] = {}
        self.codes: dict[str, dict[str, str]] = {}
        self.tokens = 0
        self.methods = ["client_secret_basic"]

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self.discovery),
                Route("/authorize", self.authorize),
                Route("/token", self.token, methods=["POST"]),
                Route("/jwks", self.jwks),
            ]
        )

    async def discovery(self, _: Request) -> Response:
        found = {"authorization_endpoint": "authorize", "token_endpoint": "token", "jwks_uri": "jwks"}
        how = {"token_endpoint_auth_methods_supported": self.methods}
        return JSONResponse({"issuer": self.issuer} | how | {name: f"{self.issuer}/{at}" for name, at in found.items()})

    async def jwks(self, _: Request) -> Response:
        return JSONResponse({"keys": [self.key.as_dict(private=False)]})

    async def authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        code = f"code-{len(self.codes)}"
        self.codes[code] = asked
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state']})}")

    async def token(self, request: Request) -> Response:
        self.tokens += 1
        sent = dict(parse_qsl((await request.body()).decode()))
        asked = self.codes.pop(sent["code"], None)  # a code is good once
        login = f"{sent.get('client_id')}:{sent.get('client_secret')}"
        if self.methods == ["client_secret_basic"]:
            login = unquote_plus(b64decode(request.headers["authorization"].removeprefix("Basic ")).decode())
        challenge = urlsafe_b64encode(hashlib.sha256(sent["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        good = asked is not None and (challenge, sent["redirect_uri"]) == (
            asked["code_challenge"],
            asked["redirect_uri"],
        )
        if asked is None or not good or login != f"{CLIENT}:{SECRET}":
            return JSONResponse({"error": "invalid_grant"}, 400)
        now = int(time.time())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "iat": now,
            "exp": now + 300,
            "nonce": asked["nonce"],
            **self.claims,
        }
        claims = {name: value for name, value in {**claims, **self.changes}.items() if value is not None}
        signed = jwt.encode({"alg": "ES256", "kid": self.signs_with.kid}, claims, self.signs_with)
        return JSONResponse({"id_token": signed, "access_token": "opaque", "token_type": "Bearer"})


@asynccontextmanager
async def provider() -> AsyncIterator[Provider]:
    """It listens."""
    made = Provider()
    config = uvicorn.Config(made.app(), "127.0.0.1", 0, log_level="warning", lifespan="off")
    server = uvicorn.Server(config)
    listens = asyncio.Event()
    real = server.startup

    async def startup(sockets: Any = None) -> None:
        await real(sockets)
        listens.set()

    server.startup = startup  # type: ignore[method-assign]
    serving = asyncio.create_task(server.serve())
    try:
        await listens.wait()
        made.issuer = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
        yield made
    finally:
        server.should_exit = True
        await serving
