"""The page of a run as an ASGI application: its routes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

from edgefuse.errors import UserError
from edgefuse_runtime.web.address import WebAddress
from edgefuse_runtime.web.link import Request as LiveRequest
from edgefuse_runtime.web.live_page import LivePage
from edgefuse_runtime.web.messages import Hold, Wrong, hold_message, text_of, wrong_message
from edgefuse_runtime.web.security import App, Guard
from edgefuse_runtime.web.static_files import LOGIN_FILES, StaticFiles, body_of, is_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.websockets import WebSocket

    _Handler = Callable[[LivePage, Request], Awaitable[Response]]

HEALTH = "/healthz"
NO_STORE = {"cache-control": "no-store"}


def live_app(page: LivePage, files: StaticFiles, address: WebAddress) -> App:
    """The application, behind its `Guard`."""
    from starlette.applications import Starlette
    from starlette.routing import Route, WebSocketRoute

    async def watch(socket: WebSocket) -> None:
        await page.viewers.serve(socket, first=lambda: (text_of(page.hello()), text_of(page.status())))

    def route(path: str, handler: _Handler, method: str = "GET") -> Route:
        async def handled(request: Request) -> Response:
            return await handler(page, request)

        return Route(path, handled, methods=[method])

    routes = [
        *files.routes(index="live.html", token=address.token),
        WebSocketRoute("/live", watch),
        route(HEALTH, _health),
        route("/metrics", _metrics),
        route("/snapshot.jpg", _snapshot),
        route("/thumbnails/{id}.jpg", _thumbnail),
        route("/wrong", _wrong, "POST"),
        route("/hold", _hold, "POST"),
    ]
    handlers = {UserError: _refused, OSError: _ended}
    app = Starlette(routes=routes, lifespan=page.lifespan, exception_handlers=handlers)
    return Guard(app, address, public=(HEALTH, *(LOGIN_FILES if address.token is not None else ())))


async def _health(page: LivePage, request: Request) -> Response:
    from starlette.responses import JSONResponse

    is_working, value = page.health()
    return JSONResponse(value, status_code=200 if is_working else 503, headers=NO_STORE)


async def _metrics(page: LivePage, request: Request) -> Response:
    from starlette.responses import Response

    try:
        text = await page.answer(LiveRequest(what="metrics"))
    except asyncio.TimeoutError:
        return _text("the run does not answer", 503)
    return Response(text, media_type="text/plain; version=0.0.4; charset=utf-8", headers=NO_STORE)


async def _snapshot(page: LivePage, request: Request) -> Response:
    from starlette.responses import Response

    try:
        jpeg = await page.new_snapshot()
    except asyncio.TimeoutError:
        return _text("no frame arrives: see /healthz", 503)
    return Response(jpeg, media_type="image/jpeg", headers=NO_STORE)


async def _thumbnail(page: LivePage, request: Request) -> Response:
    from starlette.responses import Response

    number = request.path_params["id"]  # no {id:int}: Starlette fails for thousands of digits
    jpeg = page.thumbnail_jpeg(int(number)) if number.isascii() and number.isdecimal() and len(number) < 20 else None
    if jpeg is None:
        return _text("there is no such image", 404)
    # Event numbers begin again in each run, so that a browser must not keep it.
    return Response(jpeg, media_type="image/jpeg", headers=NO_STORE)


async def _wrong(page: LivePage, request: Request) -> Response:
    return await _collected(page, request, wrong_message)


async def _hold(page: LivePage, request: Request) -> Response:
    return await _collected(page, request, hold_message)


async def _collected(page: LivePage, request: Request, message_of: Callable[[bytes], Wrong | Hold]) -> Response:
    """Pass a request about a frame to the run's collector."""
    from starlette.responses import JSONResponse

    if not is_json(request):
        return _text("application/json was expected", 415)
    sent = message_of(await body_of(request))
    if sent.run != page.options.run:
        return _text("live was started again in the meantime: that frame is gone", 409)
    if not page.options.can_collect:
        return _text("live runs without --collect DIR: it keeps no frames", 409)
    if isinstance(sent, Wrong):
        asked = LiveRequest(what="wrong", index=sent.id, label=sent.label)
    else:
        asked = LiveRequest(what="hold", index=sent.id)
    try:
        message = await page.answer(asked)
    except asyncio.TimeoutError:
        return _text("the run does not answer", 503)
    return JSONResponse({"message": message.decode()}, headers=NO_STORE)


async def _refused(request: Request, error: Exception) -> Response:
    return _text(str(error), 400)


async def _ended(request: Request, error: Exception) -> Response:
    """Live has closed the connection."""
    return _text("the run has ended", 503)


def _text(message: str, status: int) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{message}\n", status_code=status, headers=NO_STORE)
