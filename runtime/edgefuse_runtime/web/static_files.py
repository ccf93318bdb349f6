"""The files of the pages, read once; and the routes that serve them and the login form."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from edgefuse.errors import UserError
from edgefuse_runtime.web.security import LOGIN, is_same, session_name, session_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import Route

FOLDER = Path(__file__).parent / "static"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
LOGIN_FILES = ("/static/style.css", "/static/icon.svg", LOGIN)
"""What a viewer without a token gets."""
MAX_BODY_BYTES = 16_384
WRONG_TOKEN_PAUSE_S = 0.5
SESSION_S = 365 * 24 * 3600
WRONG_TOKEN = "That is not the token."


class StaticFiles:
    """The files of the package's folder, by name. Nothing else can be requested."""

    def __init__(self) -> None:
        self._files = {path.name: path.read_bytes() for path in sorted(FOLDER.iterdir()) if path.suffix in TYPES}
        self.version = hashlib.sha256(b"\0".join(self._files.values())).hexdigest()[:12]
        """Changes with any of the files: an open page that has another one loads itself again."""

    def routes(self, *, index: str, token: str | None) -> list[Route]:
        """Routes of "/" (the file `index`), "/static/NAME", and, with a token, of the login form."""
        from starlette.routing import Route

        async def home(request: Request) -> Response:
            return self._response(index)

        async def file(request: Request) -> Response:
            return self._response(request.path_params["name"])

        routes = [Route("/", home), Route("/static/{name}", file)]
        if token is None:
            return routes

        async def login(request: Request) -> Response:
            if request.method == "POST":
                return await _logged_in(request, token)
            return self._response("login.html", message=WRONG_TOKEN if "wrong" in request.query_params else "")

        return [*routes, Route(LOGIN, login, methods=["GET", "POST"])]

    def _response(self, name: str, *, message: str = "") -> Response:
        from starlette.responses import PlainTextResponse, Response

        data = self._files.get(name)
        if data is None:
            return PlainTextResponse("there is no such file\n", status_code=404)
        if name.endswith(".html"):
            data = data.replace(b"{{version}}", self.version.encode()).replace(b"{{message}}", message.encode())
        return Response(data, media_type=TYPES[Path(name).suffix], headers={"cache-control": "no-cache"})


async def _logged_in(request: Request, token: str) -> Response:
    from starlette.responses import RedirectResponse

    fields: Mapping[str, list[str]] = parse_qs((await body_of(request)).decode("utf-8", "replace"))
    if not is_same(fields.get("token", [""])[0].strip(), token):
        await asyncio.sleep(WRONG_TOKEN_PAUSE_S)
        return RedirectResponse(f"{LOGIN}?wrong", status_code=303)
    response = RedirectResponse("/", status_code=303)
    response.set_cookie(
        session_name(token),
        session_of(token),
        max_age=SESSION_S,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )
    return response


def is_json(request: Request) -> bool:
    """Whether the body is declared as JSON. A form of another site cannot send this type without asking first."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower() == "application/json"


async def body_of(request: Request) -> bytes:
    """The body of a request.

    Raises:
        UserError: it has more than `MAX_BODY_BYTES`, no more than that is read; or its sender has gone.
    """
    from starlette.requests import ClientDisconnect

    body = b""
    try:
        async for part in request.stream():
            body += part
            if len(body) > MAX_BODY_BYTES:
                raise UserError(f"the request has more than {MAX_BODY_BYTES} bytes")
    except ClientDisconnect:
        raise UserError("the request ended early") from None
    return body
