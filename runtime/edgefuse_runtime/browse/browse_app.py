"""The page of `edgefuse data browse` as an ASGI application: its routes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError
from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.browse.changes import ConflictError
from edgefuse_runtime.browse.index import Entry
from edgefuse_runtime.browse.page import Page, Query, plain
from edgefuse_runtime.browse.pair_images import WIDTHS_PX, pair_jpeg
from edgefuse_runtime.web.address import WebAddress
from edgefuse_runtime.web.security import App, Guard
from edgefuse_runtime.web.static_files import LOGIN_FILES, StaticFiles, body_of, is_json

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

    _Handler = Callable[[Request], Awaitable[Response]]

NO_STORE = {"cache-control": "no-store"}
KEEP = {"cache-control": "private, max-age=31536000, immutable"}
"""For images, whose address changes with them."""
_SEEN = {"run": str, "items": [[int]]}
_LABEL = {**_SEEN, "label": str}
_UNDO = {"run": str, "source": int, "number": int}


def browse_app(page: Page, files: StaticFiles, address: WebAddress, *, range_m: tuple[float, float] | None) -> App:
    """The application, behind its `Guard`. `range_m`: see `pair_jpeg`."""
    from starlette.applications import Starlette
    from starlette.concurrency import run_in_threadpool
    from starlette.responses import Response
    from starlette.routing import Route

    async def state(request: Request) -> Response:
        return _json(await run_in_threadpool(page.state, request.query_params.get("revision", "")))

    async def pairs(request: Request) -> Response:
        given = request.query_params
        if "ids" in given:
            return _json(await run_in_threadpool(page.rows_of, [_number(text) for text in given["ids"].split(",")]))
        query = Query(**{name: given[name] for name in Query.__dataclass_fields__ if name in given})
        start, count = _number(given.get("start", "0")), _number(given.get("count", "60"))
        return _json(await run_in_threadpool(page.rows, query, start=start, count=count))

    async def image(request: Request) -> Response:
        entry = page.index.entries.get(request.path_params["id"])
        kind, size = request.path_params["kind"], request.query_params.get("size", "small")
        if entry is None or kind not in ("rgb", "depth") or size not in WIDTHS_PX:
            return _text("there is no such image", 404)
        try:
            jpeg = await run_in_threadpool(_jpeg, page, entry, kind=kind, size=size, range_m=range_m)
        except UserError as error:
            return _text(str(error), 404)
        return Response(jpeg, media_type="image/jpeg", headers=KEEP)

    label = _change(page, _LABEL, lambda asked: page.changes.label(asked["items"], asked["label"]))
    delete = _change(page, _SEEN, lambda asked: page.changes.delete(asked["items"]))
    undo = _change(page, _UNDO, lambda asked: page.changes.undo(asked["source"], asked["number"]))
    routes = [
        *files.routes(index="browse.html", token=address.token),
        Route("/state", state),
        Route("/pairs", pairs),
        Route("/data/{id:int}/{kind}.jpg", image),
        Route("/label", label, methods=["POST"]),
        Route("/delete", delete, methods=["POST"]),
        Route("/undo", undo, methods=["POST"]),
    ]
    app = Starlette(routes=routes, exception_handlers={UserError: _refused})
    return Guard(app, address, public=LOGIN_FILES if address.token is not None else ())


def _jpeg(page: Page, entry: Entry, **how: Any) -> bytes:
    """See `pair_jpeg`. A change of a page may move the files while they are read: then they are read where they are now."""
    try:
        return pair_jpeg(entry, **how)
    except UserError:
        with page.index.lock:
            return pair_jpeg(entry, **how)


def _change(page: Page, spec: Any, make: Callable[[dict[str, Any]], tuple[str, list[Entry]]]) -> _Handler:
    """The route of a change: checks the request, and makes the change in a thread."""

    async def handler(request: Request) -> Response:
        from starlette.concurrency import run_in_threadpool

        if not is_json(request):
            return _text("application/json was expected", 415)
        asked = parse_json(await body_of(request), what="the request", spec=spec)
        if asked["run"] != page.run:
            return _text("data browse was started again in the meantime: load the page again", 409)
        if any(len(item) != 2 for item in asked.get("items", ())):
            return _text("pairs of number and version were expected", 400)
        return _json(page.done(*await run_in_threadpool(make, asked)))

    return handler


async def _refused(request: Request, error: Exception) -> Response:
    return _text(str(error), 409 if isinstance(error, ConflictError) else 400)


def _number(text: str) -> int:
    if not (text.isascii() and text.isdecimal() and len(text) <= 9):
        raise UserError("a number was expected")
    return int(text)


def _json(value: dict[str, Any]) -> Response:
    from starlette.responses import Response

    return Response(dumps(plain(value)), media_type="application/json", headers=NO_STORE)


def _text(message: str, status: int) -> Response:
    from starlette.responses import PlainTextResponse

    return PlainTextResponse(f"{message}\n", status_code=status, headers=NO_STORE)
