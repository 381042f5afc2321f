"""Renders pages: templates, what each of them is told, and how values are written, and the files that pages need."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import time
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar
from urllib.parse import parse_qs, quote, urlencode

from fastapi import APIRouter, Depends, Request, Response
from markupsafe import Markup
from pydantic import BaseModel, ValidationError

from weir.streams.pages.environment import environment
from weir.streams.pages.values import FOLDER
from weir.streams.service.access.login.sessions import csrf_token_of
from weir.streams.service.access.roles import ROLES
from weir.streams.service.access.scopes import Caller, needs, nonce_of
from weir.streams.service.parts import Problem

if TYPE_CHECKING:
    from weir.streams.service.service import Service
    from weir.streams.service.views.typical_values import TypicalValues

_M = TypeVar("_M", bound=BaseModel)
_FORM_BYTES: Final = 1 << 18
_COMPRESSED: Final = 8_192
"""Bytes from which that is worth it."""
_FORM_FIELDS: Final = 2_000
"""Four times as many as alerts in one request: each costs the loop that decides, too."""
_DUMPED: Final = 4_096
_CAUSES: Final = {
    "drift": "by a drift", "schedule": "by the schedule", "volume": "by the number of labels", "manual": "by a person",
}  # fmt: skip


class Place(NamedTuple):
    """An entry of the navigation."""

    path: str
    name: str
    key: str
    """After ``g``, the key that goes there."""
    scope: str


PLACES: Final = (
    Place("/console/", "Overview", "o", "tasks:read"),
    Place("/console/alerts", "Alerts", "a", "alerts:read"),
    Place("/console/snoozes", "Snoozes", "s", "alerts:read"),
    Place("/console/models", "Models", "m", "models:read"),
    Place("/console/drift", "Drift", "d", "models:read"),
    Place("/console/feed", "Feed", "f", "feed:read"),
    Place("/console/dead-letters", "Dead letters", "l", "deadletters:read"),
    Place("/console/notifications", "Notifications", "n", "alerts:read"),
    Place("/console/audit", "Audit", "t", "audit:read"),
    Place("/console/keys", "Keys", "k", "keys:write"),
)


class Pages:
    """Makes answers of templates."""

    def __init__(self, service: Service, assets: Assets) -> None:
        self._service = service
        self._templates = environment(Path(__file__).parent / "templates")
        self._templates.filters |= {"path": path, "query": query, "cause": _CAUSES.get, "dump": dump}
        self._templates.globals |= {"asset": assets.address}

    def compile_all(self) -> None:
        """Compile every template now, in a thread: else the first visitor of each page waits for it."""
        for name in self._templates.list_templates():
            self._templates.get_template(name)

    def render(
        self, request: Request, template: str, headers: Mapping[str, str] | None = None, **facts: Any
    ) -> Response:
        """The page or fragment ``template`` with these facts.

        Parameters
        ----------
        headers : further ones, such as ``HX-Trigger``.
        facts : what the template shows.
        """
        caller: Caller | None = request.scope["weir"].caller
        cookie = self._service.access.cookies.get(request)
        nonce = nonce_of(request)
        known = {
            "caller": caller,
            "nonce": nonce,
            "hx": Markup('hx-nonce="{}"').format(nonce),
            "csrf": csrf_token_of(cookie) if caller is not None and caller.via == "session" and cookie else "",
            "places": [p for p in PLACES if caller is not None and p.scope in caller.scopes],
            "here": request.url.path,
            "address": request.url.path + (f"?{request.url.query}" if request.url.query else ""),
            "now": time.time(),
            "full": [t.name for t in self._service.tasks if t.full and caller is not None and caller.sees(t.name)],
            "roles": list(ROLES),
            "tasks": [t.name for t in self._service.tasks if caller is not None and caller.sees(t.name)],
            "sign_on": self._service.access.sign_on is not None,
            "may": (caller.scopes if caller is not None else frozenset()).__contains__,
        }
        text = self._templates.get_template(template).render(known | facts)
        return _answer(request, text.encode(), dict(headers or {}))


class PageGroup:
    """Pages of one subject, under ``router``."""

    def __init__(self, service: Service, pages: Pages, typical: TypicalValues) -> None:
        self._service, self._pages, self._typical = service, pages, typical
        self.router = APIRouter()
        self._routes()

    def _routes(self) -> None:
        """Say what answers which address."""

    def shows(self, path: str, template: str, scope: str, view: Callable[..., Any] | None = None) -> None:
        """Answer a path with what a route of ``/v1`` says: ``found`` of the template.

        ``asked`` is what the address says, empty values left out.
        """
        said: Any = Depends(view or _of_a_task)

        async def page(request: Request, found: Any = said) -> Response:
            given = {**request.query_params, **request.path_params}
            return self._pages.render(request, template, found=found, asked={n: v for n, v in given.items() if v})

        self.router.get(path, dependencies=[needs(scope)])(page)


def _of_a_task(task: str = "") -> None:
    """What is asked of a form that shows nothing but itself."""


def told(text: str) -> dict[str, str]:
    """Headers after a change: the page says ``text``, and whatever has ``changed from:body`` looks again."""
    return {"HX-Trigger": json.dumps({"toast": {"text": text}, "changed": {}})}  # ASCII, as headers have to be


def done(text: str) -> Response:
    """A change was made, and there is nothing to show but ``text``."""
    return Response(status_code=204, headers=told(text))


def _answer(request: Request, body: bytes, headers: dict[str, str]) -> Response:
    """HTML; large fragments compressed, as they hold the points of charts.

    A whole page is not: it holds a token, and who can make a browser ask for it with words of their own could guess
    the token by how well both compress together (BREACH). Nobody else can make it send ``HX-Request``.
    """
    if len(body) > _COMPRESSED and "hx-request" in request.headers:
        headers["Vary"] = "Accept-Encoding"
        if "gzip" in request.headers.get("accept-encoding", ""):
            headers["Content-Encoding"] = "gzip"
            body = gzip.compress(body, 5, mtime=0)
    return Response(body, headers=headers, media_type="text/html")


async def said(request: Request, model: type[_M]) -> _M:
    """What a form says, as the model that the same route of ``/v1`` takes; a field given twice is a list.

    Raises ``Problem`` (413, 422).
    """
    body = b""
    async for piece in request.stream():
        body += piece
        if len(body) > _FORM_BYTES:
            raise Problem(413, "Too large", f"a form has at most {_FORM_BYTES} bytes", limit=_FORM_BYTES)
    try:
        form = parse_qs(body.decode("utf-8", "replace"), keep_blank_values=True, max_num_fields=_FORM_FIELDS)
    except ValueError as error:
        raise Problem(413, "Too large", f"a form has at most {_FORM_FIELDS} fields", limit=_FORM_FIELDS) from error
    # By its text, as an annotation may be wrapped in others, or be one of several.
    lists = {n for n, f in model.model_fields.items() if "list" in str(f.annotation) or "tuple" in str(f.annotation)}
    given = {name: values if name in lists else values[-1] for name, values in form.items()}
    # A form sends the fields that nobody filled in, too: those are left out, not empty.
    return valid(model, {name: value for name, value in given.items() if value != ""})


def valid(model: type[_M], given: Mapping[str, Any]) -> _M:
    """The model of what was given; raises ``Problem`` (422)."""
    try:
        return model.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Problem(422, "Not valid", f"{where}: {first['msg']}", parameter=where) from error


def path(text: str) -> str:
    """Text from outside as a part of an address.

    >>> path("fraud:a/b?c")
    'fraud%3Aa%2Fb%3Fc'
    """
    return quote(text, safe="")


def query(values: Mapping[str, Any]) -> str:
    """Values as the query of an address, without those that are not given.

    >>> query({"topic": "user-events", "kind": None})
    'topic=user-events'
    """
    return urlencode({name: value for name, value in values.items() if value not in (None, "")})


def dump(raw: str) -> list[tuple[str, str, str]]:
    r"""The first bytes of a record, in base64, as lines of sixteen: where, in hexadecimal, and what of it can be read.

    Nothing where all of it is text.

    >>> dump("APv_YQ=="), dump("YWI=")
    ([('0000', '00 fb ff 61', '...a')], [])
    """
    data = base64.urlsafe_b64decode(raw)  # as the models of the wire write bytes
    text = data.decode("utf-8", "replace")
    if "\ufffd" not in text and "\0" not in text:
        return []
    lines = [(at, data[at : at + 16]) for at in range(0, min(len(data), _DUMPED), 16)]
    return [
        (f"{at:04x}", line.hex(" "), "".join(chr(byte) if 32 <= byte < 127 else "." for byte in line))
        for at, line in lines
    ]


_FOLDERS: Final = (FOLDER / "assets", Path(__file__).parent / "assets")
_TYPES: Final = {
    ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8", ".svg": "image/svg+xml",
    ".txt": "text/plain; charset=utf-8",
}  # fmt: skip
_KEPT: Final = "public, max-age=31536000, immutable"


@cache
def shipped_assets() -> Assets:
    """Those of this installation, read and compressed once a process, however many services it holds."""
    return Assets()


class Assets:
    """The files under ``assets/``, here and of all pages; the digest of all of them is part of their addresses."""

    def __init__(self) -> None:
        found = [(path, folder) for folder in _FOLDERS for path in folder.rglob("*") if path.suffix in _TYPES]
        # In an order of their own, not the disk's: the same files have the same digest on every machine.
        self._files = {path.relative_to(folder).as_posix(): path.read_bytes() for path, folder in sorted(found)}
        self._compressed = {name: gzip.compress(data, 9, mtime=0) for name, data in self._files.items()}
        every = b"\0".join(name.encode() + b"\0" + data for name, data in self._files.items())
        self.version = hashlib.sha256(every).hexdigest()[:12]

    def address(self, name: str) -> str:
        """Where pages find a file; raises ``KeyError`` for one that is not there."""
        if name not in self._files:
            raise KeyError(f"no asset {name!r}; there are {', '.join(self._files)}")
        return f"/console/assets/{self.version}/{name}"

    def answer(self, request: Request, version: str, name: str) -> Response:
        """The file; a page of an earlier version gets today's, which is not kept under that name."""
        if name not in self._files:
            raise Problem(404, "Not found", f"no asset {name[:100]!r}")
        headers = {"Cache-Control": _KEPT if version == self.version else "no-cache", "Vary": "Accept-Encoding"}
        data = self._files[name]
        if "gzip" in request.headers.get("accept-encoding", ""):
            data = self._compressed[name]
            headers["Content-Encoding"] = "gzip"
        return Response(data, headers=headers, media_type=_TYPES[Path(name).suffix])
