"""`Guard`: who may use a page. Checks Host, Origin and the token of every request, and adds the headers that browsers obey.

Host: a page of another site can resolve its own name to this machine (DNS rebinding). Its requests then have that name in Host, and are
refused. Origin: a page of another site may send requests to this one; browsers name their origin, which is refused unless it is this page.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable, Iterable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

from edgefuse_runtime.web.address import WebAddress

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # with no-referrer, forms of the page itself would have the origin "null"
    "cross-origin-resource-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
}
_LOOPBACK_NAMES = frozenset({"localhost", "127.0.0.1", "::1"})
LOGIN = "/login"


class Guard:
    """An ASGI application that passes the requests on that it allows."""

    def __init__(self, app: App, address: WebAddress, *, public: Iterable[str] = ()) -> None:
        """Choose the application.

        Args:
            public: paths that need no token.
        """
        self._app, self._token = app, address.token
        self._hosts = _LOOPBACK_NAMES | {address.host.lower(), address.ip}
        self._allows_any_ip = not address.is_loopback
        if not address.is_loopback:
            name = socket.gethostname().lower()
            self._hosts |= {name, f"{name}.local"}
            # Without a network, looking up the full name may take as long as the time-out of DNS.
            threading.Thread(target=self._add_full_name, name="full name", daemon=True).start()
        self._public = frozenset(public)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        headers = _headers(scope)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            await _refuse(scope, send, *refusal)
            return
        if not self._is_known(scope, headers):
            accepts_html = "text/html" in headers.get("accept", [""])[0]
            location = LOGIN if scope["type"] == "http" and scope["method"] == "GET" and accepts_html else None
            await _refuse(scope, send, 401, "a token is needed", location=location)
            return
        await self._app(scope, receive, send if scope["type"] == "websocket" else _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, list[str]]) -> tuple[int, str] | None:
        hosts = headers.get("host", [])
        if len(hosts) != 1 or not self._is_own(_name_in(hosts[0])):
            return 421, "this page is not served under that name"
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD"):
            return None
        # Programs send no Origin; browsers send it with every WebSocket and every POST.
        for origin in headers.get("origin", []):
            if origin.lower() not in (f"http://{hosts[0].lower()}", f"https://{hosts[0].lower()}"):
                return 403, "another site may not do that"
        return None

    def _add_full_name(self) -> None:
        self._hosts |= {socket.getfqdn().lower()}

    def _is_own(self, name: str | None) -> bool:
        if name is None:
            return False
        return name in self._hosts or (self._allows_any_ip and _is_ip(name))

    def _is_known(self, scope: Scope, headers: dict[str, list[str]]) -> bool:
        if self._token is None or (scope["type"] == "http" and scope["path"] in self._public):
            return True
        given = [value[7:] for value in headers.get("authorization", []) if value[:7].lower() == "bearer "]
        if any(is_same(value, self._token) for value in given):
            return True
        return any(is_same(value, session_of(self._token)) for value in _cookies(headers, session_name(self._token)))


def is_same(given: str, expected: str) -> bool:
    """Whether two secrets are equal, in a time that does not depend on where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), expected.encode())


def session_of(token: str) -> str:
    """The cookie's value: it proves that the token was given, is not the token, and stays valid after a restart."""
    return hmac.new(token.encode(), b"edgefuse session", hashlib.sha256).hexdigest()


def session_name(token: str) -> str:
    """The cookie's name. Browsers send cookies to every port of a host, so pages with other tokens use other names."""
    return "edgefuse_" + hmac.new(token.encode(), b"edgefuse name", hashlib.sha256).hexdigest()[:8]


def _headers(scope: Scope) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def _name_in(host: str) -> str | None:
    """The name in a Host header, without the port; None if it is malformed."""
    try:
        parts = urlsplit(f"//{host}")
        parts.port  # noqa: B018  (raises ValueError)
    except ValueError:
        return None
    if parts.path or parts.query or parts.fragment or parts.username is not None:
        return None
    return (parts.hostname or "").removesuffix(".") or None


def _is_ip(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True


def _cookies(headers: dict[str, list[str]], name: str) -> list[str]:
    """The values of a cookie. Those of other programs on this host, which may have any form, are left alone."""
    pairs = [pair.strip().partition("=") for line in headers.get("cookie", []) for pair in line.split(";")]
    return [value for found, _, value in pairs if found == name]


async def _refuse(scope: Scope, send: Send, status: int, text: str, *, location: str | None = None) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008, "reason": text})  # before it is accepted: HTTP 403
        return
    headers = [(b"content-type", b"text/plain; charset=utf-8"), (b"cache-control", b"no-store")]
    if location is not None:
        status, headers = 303, [*headers, (b"location", location.encode())]
    elif status == 401:
        headers.append((b"www-authenticate", b"Bearer"))
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode() + b"\n"})


def _with_headers(send: Send) -> Send:
    async def wrapped(message: MutableMapping[str, Any]) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [
                *message.get("headers", ()),
                *((name.encode(), value.encode()) for name, value in HEADERS.items()),
            ]
        await send(message)

    return wrapped
