"""`WebAddress`: where a page is served, and whether other machines can reach it. Owns the rule that they need a token."""

from __future__ import annotations

import ipaddress
import os
import socket
from dataclasses import dataclass, field

from edgefuse.errors import UserError
from edgefuse_runtime.sinks.metrics import parse_address

TOKEN = "EDGEFUSE_TOKEN"
MIN_TOKEN_CHARACTERS = 16
_NEW_TOKEN = f"export {TOKEN}=$(python3 -c 'import secrets; print(secrets.token_urlsafe(24))')"


@dataclass(frozen=True, kw_only=True)
class WebAddress:
    """An address to listen on.

    Attributes:
        host, port: as given.
        family: `socket.AF_INET` or `socket.AF_INET6`.
        ip: the address of `host`.
        token: what a viewer must present; None = nothing, on a loopback address only.
    """

    host: str
    port: int
    family: int
    ip: str
    token: str | None = field(default=None, repr=False)

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can reach it."""
        return ipaddress.ip_address(self.ip).is_loopback

    @property
    def text(self) -> str:
        """HOST:PORT."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def listen(self) -> socket.socket:
        """A socket that listens there.

        Raises:
            UserError: the address is taken, or not one of this machine.
        """
        try:
            return socket.create_server((self.ip, self.port), family=self.family)
        except OSError as error:
            raise UserError(
                f"--web {self.text} cannot be served ({error.strerror})", "Choose another port: --web HOST:PORT"
            ) from error


def web_address(text: str, *, token: str | None = None) -> WebAddress:
    """The address in a value of `--web`, [HOST:]PORT. The token is read from the environment unless it is given.

    Raises:
        UserError: it has another form, the host is unknown, the token is short, or an address that other machines can reach has no
            token.
    """
    host, port = parse_address(text, option="--web")
    token = (token if token is not None else os.environ.get(TOKEN, "")).strip() or None
    if token is not None and (len(token) < MIN_TOKEN_CHARACTERS or not token.isascii() or not token.isprintable()):
        raise UserError(
            f"{TOKEN} has {len(token)} characters: at least {MIN_TOKEN_CHARACTERS} were expected, all of them ASCII",
            f"Choose another one: {_NEW_TOKEN}",
        )
    try:
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UserError(f"--web {text}: the host {host!r} is unknown") from error
    address = WebAddress(host=host, port=port, family=family, ip=str(where[0]).split("%", maxsplit=1)[0], token=token)
    if not address.is_loopback and token is None:
        raise UserError(
            f"--web {address.text} can be reached from other machines, and {TOKEN} is not set: everybody on the network could watch",
            f"Set a token ({_NEW_TOKEN}), or use 127.0.0.1 and an SSH tunnel: ssh -L {port}:127.0.0.1:{port} DEVICE",
        )
    return address
