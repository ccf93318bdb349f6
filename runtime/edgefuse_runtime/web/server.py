"""`serving`: runs an ASGI application in a thread, on a socket that listens already. Owns the settings of uvicorn and the number of connections."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

from edgefuse.errors import require
from edgefuse_runtime.web.security import App

MAX_CONNECTIONS = 256
"""For one more, an older one without a request is closed: connections that are only held open keep nobody out."""
MAX_MESSAGE_BYTES = 16_384
"""Largest WebSocket message that a viewer may send: the connection of a larger one is closed."""
END_S = 1.0


@contextlib.contextmanager
def serving(app: App, listening: socket.socket) -> Iterator[None]:
    """Serve until the block ends; then viewers are disconnected, within about `END_S` seconds.

    In a thread other than the main one, uvicorn leaves the handlers of signals alone.
    """
    uvicorn = require("uvicorn", extra="web")
    require("websockets", extra="web")
    config = uvicorn.Config(
        app,
        http=_http_protocol(),
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=1,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_per_message_deflate=False,  # JPEG does not get smaller
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, name="web server", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.should_exit = True
        thread.join(END_S)
        server.force_exit = True


def _http_protocol() -> Any:
    """uvicorn's HTTP protocol in pure Python, which closes the oldest connection for a new one if there are `MAX_CONNECTIONS`.

    uvicorn's own limit answers every request with status 503 instead, and counts connections on which no request ever comes.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Http(H11Protocol):
        """An HTTP connection; a WebSocket begins as one, and leaves `connections` for another protocol."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.since_s = time.monotonic()
            if len(self.connections) > MAX_CONNECTIONS:
                others = [one for one in self.connections if isinstance(one, Http) and one is not self]
                if others:
                    min(others, key=Http.rank).give_up()

        def rank(self) -> tuple[bool, float]:
            """Connections without a request are closed first, the oldest before the others."""
            return self.cycle is not None and not self.cycle.response_complete, self.since_s

        def give_up(self) -> None:
            self.connections.discard(self)  # many may connect before the loop closes it
            self.transport.abort()

    return Http
