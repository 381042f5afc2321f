"""Who there is to let in, looked at once when the service starts."""

from __future__ import annotations

import logging
import os
import secrets
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from weir.streams.config.serve_settings import ServeSettings
from weir.streams.errors import UsageError
from weir.streams.service.access.api_keys import KeyStore

if TYPE_CHECKING:
    from weir.streams.service.access.login.oidc import SignOn

logger = logging.getLogger(__name__)


def administrators_token(serve: ServeSettings) -> str | None:
    """The token that was set; else, where only this machine gets in and nobody is set up, one that is made."""
    access = serve.access
    if access.token is not None:
        return access.token.get_secret_value()
    alone = serve.loopback and access.oidc.issuer is None and not access.open
    return token_in(serve.directory) if alone else None


def sign_on_of(serve: ServeSettings) -> SignOn | None:
    """People's identity provider; raises ``UsageError`` where it would not know how to come back."""
    if serve.access.oidc.issuer is None:
        return None
    if serve.public_url is None and not serve.loopback:
        raise UsageError(
            "[serve.access.oidc] issuer is set and [serve] public_url is not: sign-on has to know where to come "
            "back to; set it to what people write, such as https://weir.example.com"
        )
    from weir.streams.service.access.login.oidc import SignOn  # its libraries are heavy, and most have no provider

    return SignOn(serve.access.oidc)


def refuse_nobody(serve: ServeSettings, keys: KeyStore, token: str | None) -> None:
    """Raise ``UsageError`` where the network reaches the service, and nobody is set up.

    Nobody is to find out later that everyone could read everything.
    """
    if serve.access.open:
        where = f"{serve.host}:{serve.port}"
        logger.warning("ANYONE who reaches %s may read and change everything: [serve.access] open = true", where)
        return
    if serve.loopback or token is not None or serve.access.oidc.issuer is not None:
        return
    if not any(key.state(time.time()) == "active" for key in keys.all()):
        raise UsageError(
            f"[serve] host = {serve.host!r} can be reached from other machines, and there are no users: make a key "
            "(weir keys create NAME --role admin), or set [serve.access] token or [serve.access.oidc] issuer; or "
            "listen on 127.0.0.1. For a network that you trust: [serve.access] open = true"
        )


def link_to(serve: ServeSettings, port: int, token: str | None) -> str:
    """The address of the service as people open it, with a token where one is to be in it."""
    scheme = "https" if serve.tls_cert is not None else "http"
    host = f"[{serve.host}]" if ":" in serve.host else serve.host
    base = serve.public_url or f"{scheme}://{host}:{port}"
    return f"{base}/" if token is None else f"{base}/?token={token}"


FILE: Final = "token"
_LEAST: Final = 32


def token_in(directory: Path) -> str:
    """The token kept in ``directory``, made where there is none; of this user alone (0600).

    It is kept, so that the link, sessions and scripts of this machine still work after a restart: who can read the file
    can read the data beside it anyway. To have a new one, and end the sessions of the old one, delete the file.

    Raises
    ------
    UsageError
        Others may read the file, or it holds no token.
    """
    path = directory / FILE
    directory.mkdir(parents=True, exist_ok=True)
    try:
        # With its rights from the start: changed after it was made, others could have opened it in between.
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _kept(path)
    with os.fdopen(handle, "w") as file:
        token = secrets.token_urlsafe(32)
        file.write(token + "\n")
    return token


def _kept(path: Path) -> str:
    if path.stat().st_mode & 0o077:
        raise UsageError(f"{path}: others may read this token; delete the file, and a new one is made")
    token = path.read_text().strip()
    if len(token) < _LEAST:
        raise UsageError(f"{path}: no token of {_LEAST} characters or more; delete the file, and one is made")
    return token
