"""Who may use the page: names and origins, the token, the files that are served, addresses. With real clients."""

from __future__ import annotations

import dataclasses
import json
import socket
import threading
from typing import Any

import httpx
import pytest
from page_scenes import TOKEN, Run, page_of_a_run, run_async, until
from websockets.exceptions import InvalidStatus

from edgefuse.errors import UserError
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.security import Guard, session_name, session_of
from edgefuse_runtime.web.sink import WebSink


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:{port}", "127.0.0.1.evil.example", "localhost@evil", ""]
)
def test_another_name_is_refused(run: Run, host: str) -> None:
    for path in ("/", "/healthz", "/snapshot.jpg", "/static/live.js"):
        assert run.get(path, host=host.format(port=run.port)).status_code == 421, path


@pytest.mark.parametrize("host", ["localhost:{port}", "127.0.0.1", "[::1]:8080", "LOCALHOST."])
def test_names_of_this_machine_are_served(run: Run, host: str) -> None:
    assert run.get("/", host=host.format(port=run.port)).status_code == 200


@pytest.mark.parametrize(
    "origin", ["http://evil.example", "null", "http://localhost:1", "https://127.0.0.1.evil.example", "http://[", ""]
)
def test_another_origin_is_refused(run: Run, origin: str) -> None:
    assert run.post("/wrong", {}, origin=origin).status_code == 403
    with pytest.raises(InvalidStatus) as refused:
        run.watch(origin=origin)
    assert refused.value.response.status_code == 403


def test_the_own_origin_is_served(run: Run) -> None:
    assert run.post("/wrong", {}, origin=run.url).status_code == 400  # an incomplete request, but no foreign one
    with run.watch(origin=run.url) as client:
        assert json.loads(client.recv())["kind"] == "hello"


def test_a_form_of_another_site_has_another_type(run: Run) -> None:
    answer = httpx.post(run.url + "/wrong", content=b"{}", headers={"content-type": "text/plain"})
    assert answer.status_code == 415


def test_without_the_token_nothing_is_served(guarded: Run) -> None:
    for path in ("/", "/snapshot.jpg", "/metrics", "/static/live.js", "/thumbnails/1.jpg", "/live"):
        for headers in ({}, {"authorization": f"Bearer {TOKEN}x"}, {"cookie": f"edgefuse_0={TOKEN}"}):
            assert httpx.get(guarded.url + path, headers=headers).status_code == 401, path
    with pytest.raises(InvalidStatus):
        guarded.watch(additional_headers={})
    health = httpx.get(guarded.url + "/healthz")
    assert health.json()["state"] == "running"  # for a load balancer, which has no token


def test_the_token_opens_a_session(guarded: Run) -> None:
    assert guarded.get("/").status_code == 200
    with guarded.watch() as client:
        assert json.loads(client.recv())["title"] == "mugs"
    with httpx.Client(base_url=guarded.url) as client:
        to_form = client.get("/", headers={"accept": "text/html"})
        assert (to_form.status_code, to_form.headers["location"]) == (303, "/login")
        wrong = client.post("/login", data={"token": "wrong"})
        assert (
            wrong.headers["location"] == "/login?wrong" and "That is not the token" in client.get("/login?wrong").text
        )
        assert client.get("/").status_code == 401
        right = client.post("/login", data={"token": TOKEN})
        cookie = right.headers["set-cookie"]
        assert TOKEN not in cookie and "HttpOnly" in cookie and "SameSite=lax" in cookie
        assert client.get("/").status_code == 200


@pytest.mark.parametrize("other", ['preferences={"a": 1}', "a[b]=1", 'x="y', "no value", "expires=never"])
def test_cookies_of_other_programs_on_the_host_end_no_session(guarded: Run, other: str) -> None:
    own = f"{session_name(TOKEN)}={session_of(TOKEN)}"
    for cookie in (f"{other}; {own}", f"{own}; {other}"):
        assert httpx.get(guarded.url, headers={"cookie": cookie}).status_code == 200
    assert httpx.get(guarded.url, headers={"cookie": f"{other}; {own}0"}).status_code == 401


def test_malformed_requests_leave_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    with page_of_a_run(token=TOKEN) as run:
        assert run.post("/wrong", {}, origin="http://[").status_code == 403
        assert run.get(f"/thumbnails/{'9' * 5000}.jpg").status_code == 404
        with socket.create_connection(("127.0.0.1", run.port)) as raw:
            raw.sendall(b"POST /login HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9\r\n\r\n")
        assert run.get("/metrics").status_code == 200
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    "path", ["/static/../process.py", "/static/..%2fprocess.py", "/static/%2e%2e/%2e%2e/sink.py", "/static//etc", "/x"]
)
def test_other_files_are_not_served(run: Run, path: str) -> None:
    with socket.create_connection(("127.0.0.1", run.port)) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        answer = raw.makefile("rb").read()
    assert answer.startswith(b"HTTP/1.1 404") and b"import" not in answer


@pytest.mark.parametrize("text", ["0.0.0.0:8080", "[::]:8080"])
def test_other_machines_need_a_token(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFUSE_TOKEN", raising=False)
    with pytest.raises(UserError, match="can be reached from other machines"):
        web_address(text)
    monkeypatch.setenv("EDGEFUSE_TOKEN", "short")
    with pytest.raises(UserError, match="EDGEFUSE_TOKEN has 5 characters"):
        web_address(text)
    monkeypatch.setenv("EDGEFUSE_TOKEN", TOKEN)
    assert web_address(text).token == TOKEN and web_address(text, token=f" {TOKEN}\n").token == TOKEN
    assert not web_address(text).is_loopback and web_address("8080").is_loopback


def test_a_network_without_dns_does_not_delay_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, answered = threading.Event(), threading.Event()

    def slow_name() -> str:
        asked.set()
        assert answered.wait(30)
        return "Device.Example"

    async def app(scope: Any, receive: Any, send: Any) -> None:
        statuses.append(200)

    async def send(message: Any) -> None:
        statuses.append(message.get("status", 0))

    def get() -> int:
        scope = {"type": "http", "method": "GET", "path": "/", "headers": [(b"host", b"device.example:8080")]}
        statuses.clear()
        run_async(guard(scope, send, send))
        return statuses[0]

    statuses: list[int] = []
    monkeypatch.setattr(socket, "getfqdn", slow_name)
    guard = Guard(app, dataclasses.replace(web_address("0.0.0.0:8080", token=TOKEN), token=None))
    assert asked.wait(30) and get() == 421
    answered.set()
    until(lambda: get() == 200)


def test_a_port_that_is_taken_is_refused_at_the_start() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"--web 127.0.0.1:{port} cannot be served"),
            SinkBus([WebSink(web_address(str(port)))]),
        ):
            pass
