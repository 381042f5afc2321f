"""Sign-on by OpenID Connect: the code flow with PKCE, state and nonce."""

from __future__ import annotations

import hmac
import secrets
import time
from typing import Any, Final
from urllib.parse import quote_plus, urlencode

import httpx
from authlib.oauth2.rfc7636 import create_s256_code_challenge  # type: ignore[import-untyped]
from authlib.oidc.core import CodeIDToken  # type: ignore[import-untyped]
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from weir.online.codec.wire import ID_CHARS
from weir.streams.config.serve_settings import OidcSettings
from weir.streams.errors import in_words
from weir.streams.service.access.login.login_routes import LoginState, local
from weir.streams.service.access.login.sessions import Session
from weir.streams.service.parts import Problem
from weir.streams.text import printable

_KNOWN_S: Final = 3600.0
_LEEWAY_S: Final = 60
_ADDRESSES: Final = ("authorization_endpoint", "token_endpoint", "jwks_uri")
_METHODS: Final = "token_endpoint_auth_methods_supported"
_ALGORITHMS: Final = ["RS256", "RS384", "RS512", "PS256", "ES256", "ES384", "EdDSA", "Ed25519"]
"""Never ``none``, and nothing whose key is a shared secret."""


class SignOn:
    """The identity provider.

    Parameters
    ----------
    settings : ``[serve.access.oidc]``; its issuer is set.
    transport : instead of the network, for tests.
    """

    def __init__(self, settings: OidcSettings, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._settings = settings
        self._client = httpx.AsyncClient(transport=transport, timeout=10.0)
        self._provider: dict[str, Any] = {}
        self._keys: KeySet | None = None
        self._known_at = -_KNOWN_S

    async def begin(self, back: str, page: str) -> tuple[str, LoginState]:
        """Where to send the browser, and what it must come back with; ``back`` is our callback's address."""
        provider, _ = await self._known()
        made = LoginState(secrets.token_urlsafe(32), secrets.token_urlsafe(32), secrets.token_urlsafe(32), local(page))
        asked = {
            "response_type": "code",
            "client_id": self._settings.client_id,
            "redirect_uri": back,
            "scope": self._settings.scope,
            "state": made.state,
            "nonce": made.nonce,
            "code_challenge": create_s256_code_challenge(made.verifier),
            "code_challenge_method": "S256",
        }
        mark = "&" if "?" in provider["authorization_endpoint"] else "?"
        return f"{provider['authorization_endpoint']}{mark}{urlencode(asked)}", made

    async def finish(self, back: str, made: LoginState, state: str, code: str) -> Session:
        """Who signed on; raises ``Problem`` (400, 401, 503) where that cannot be believed."""
        if not hmac.compare_digest(state.encode(), made.state.encode()):
            raise Problem(400, "Sign on again", "this answer is of another sign-on than this browser began")
        provider, keys = await self._known()
        sent = {"grant_type": "authorization_code", "code": code, "redirect_uri": back, "code_verifier": made.verifier}
        secret, login = self._settings.client_secret, None
        # A provider that lists no methods means this one (OpenID Connect Discovery, 3).
        if secret is None or "client_secret_basic" not in provider.get(_METHODS, ["client_secret_basic"]):
            sent["client_id"] = self._settings.client_id
            sent |= {} if secret is None else {"client_secret": secret.get_secret_value()}
        else:
            # Encoded as in a form (RFC 6749, 2.3.1): a secret may hold a colon.
            login = httpx.BasicAuth(quote_plus(self._settings.client_id), quote_plus(secret.get_secret_value()))
        answer = await self._ask("POST", provider["token_endpoint"], data=sent, auth=login)
        claims = await self._claims(answer, keys, made.nonce)
        name = claims.get("preferred_username") or claims.get("email") or claims.get("name") or claims["sub"]
        groups = claims.get(self._settings.groups_claim) or ()
        listed = [groups] if isinstance(groups, str) else groups
        # No subject is longer (OpenID Connect Core, 2), and the name goes into records as whose act something was.
        subject = f"person:{str(claims['sub'])[:255]}"
        return Session(subject, printable(str(name), ID_CHARS), "oidc", tuple(map(str, listed)), 0.0)

    async def _claims(self, answer: dict[str, Any], keys: KeySet, nonce: str) -> dict[str, Any]:
        """What the provider says of the person, once it is proved that it says so, to us, now and for this sign-on."""
        try:
            try:
                token = jwt.decode(str(answer.get("id_token")), keys, algorithms=_ALGORITHMS)
            except (JoseError, ValueError):
                self._known_at = -_KNOWN_S  # its keys may be new ones
                token = jwt.decode(str(answer.get("id_token")), (await self._known())[1], algorithms=_ALGORITHMS)
            wanted = {
                "iss": {"essential": True, "value": self._provider["issuer"]},
                "aud": {"essential": True, "value": self._settings.client_id},
                "nonce": {"essential": True, "value": nonce},
            }
            given = {"nonce": nonce, "client_id": self._settings.client_id, "access_token": answer.get("access_token")}
            claims = CodeIDToken(token.claims, token.header, wanted, given)
            claims.validate(now=int(time.time()), leeway=_LEEWAY_S)
        except (JoseError, ValueError) as exc:
            raise Problem(401, "Not believed", f"the provider's token is not good: {in_words(exc)}") from exc
        return dict(claims)

    async def _known(self) -> tuple[dict[str, Any], KeySet]:
        """The provider's addresses and keys, asked for once an hour."""
        if self._keys is None or time.monotonic() - self._known_at > _KNOWN_S:
            issuer = str(self._settings.issuer)
            found = await self._ask("GET", f"{issuer.rstrip('/')}/.well-known/openid-configuration")
            # Exactly the same (Discovery, 4.3): else one provider could speak for the people of another.
            if found.get("issuer") != issuer:
                raise _away(f"it calls itself {found.get('issuer')!r}, and [serve.access.oidc] issuer is {issuer!r}")
            if missing := [name for name in _ADDRESSES if not isinstance(found.get(name), str)]:
                raise _away(f"its configuration has no {missing[0]}")
            given = await self._ask("GET", found["jwks_uri"])
            try:
                keys = KeySet.import_key_set(given)  # type: ignore[arg-type]
            except (JoseError, ValueError, KeyError, TypeError) as exc:
                raise _away(f"{found['jwks_uri']} holds no keys: {type(exc).__name__}") from exc
            self._provider, self._keys, self._known_at = found, keys, time.monotonic()
        return self._provider, self._keys

    async def _ask(self, method: str, url: str, **sent: Any) -> dict[str, Any]:
        try:
            answer = await self._client.request(method, url, **sent)
            document: Any = answer.json()
        except (httpx.HTTPError, ValueError) as exc:
            raise _away(in_words(exc)) from exc
        if not isinstance(document, dict):
            raise _away(f"{url} answers {answer.status_code} with no JSON object")
        if answer.status_code == 200:
            return document
        why = str(document.get("error_description") or document.get("error") or "")[:200]
        if method == "POST" and answer.status_code in (400, 401):
            raise Problem(401, "Not believed", f"the provider refuses the sign-on: {why or answer.status_code}")
        raise _away(f"{url} answers {answer.status_code} {why}")

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()


def _away(why: str) -> Problem:
    return Problem(503, "Sign-on away", f"the identity provider cannot be used: {why}", headers={"Retry-After": "5"})
