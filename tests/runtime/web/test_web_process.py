"""The process that serves the page: it starts slowly, fails, is started again, and ends with live. With real processes."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from page_scenes import Run, a_result, free_port, page_of_a_run, until

from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.web import link
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.link import send_request
from edgefuse_runtime.web.live_app import live_app
from edgefuse_runtime.web.live_page import LivePage, PageOptions
from edgefuse_runtime.web.server import serving
from edgefuse_runtime.web.sink import WebSink
from edgefuse_runtime.web.static_files import StaticFiles


def test_a_process_that_is_killed_is_started_again_with_the_events_so_far() -> None:
    with page_of_a_run() as run:
        run.bus.event("decided", "a mug", label="near")
        run.publish()
        until(lambda: run.bus.counts()[1].written == 1)
        assert run.sink._process is not None
        run.sink._process.kill()
        with run.publishing():
            until(lambda: run.bus.counts()[1].restarts == 1)
            until(lambda: _hello(run) is not None)
            hello = _hello(run)
        assert hello is not None and [event["message"] for event in hello["events"]][:2] == ["the run started", "a mug"]
        assert hello["labels"] == ["near", "far"] and run.bus.counts()[1].error == "the process of the page has ended"


def test_a_process_that_starts_slowly_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "SEND_TIMEOUT_S", 0.3)
    sink = WebSink(web_address(str(free_port())))
    with SinkBus([sink], wait_s=5) as bus:
        until(lambda: sink._process is not None)
        assert sink._process is not None
        os.kill(sink._process.pid, signal.SIGSTOP)
        for number in range(2000):  # more than fit the connection
            bus.publish(a_result(number))
        until(lambda: bus.counts()[0].written == 2000)
        assert bus.counts()[0].errors == 0
        os.kill(sink._process.pid, signal.SIGCONT)
        until(lambda: sink._is_ready)
        bus.publish(a_result(2000))
        until(lambda: bus.counts()[0].written == 2001)
        assert bus.counts()[0].errors == 0


def test_the_working_directory_does_not_matter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "uvicorn.py").write_text("raise SystemExit(1)")
    monkeypatch.chdir(tmp_path)
    with page_of_a_run() as run:
        assert run.get("/").status_code == 200


def test_requests_while_live_ends_leave_no_traceback(caplog: pytest.LogCaptureFixture) -> None:
    ours, theirs = link.pair()
    page = LivePage(PageOptions(run="", title="", version="", can_collect=False), ask=partial(send_request, theirs))
    ours.close()  # live has ended
    port = free_port()
    address = web_address(str(port))
    with serving(live_app(page, StaticFiles(), address), address.listen()):
        until(page.is_running.is_set)
        for path in ("metrics", "snapshot.jpg"):
            answer = httpx.get(f"http://127.0.0.1:{port}/{path}", timeout=30)
            assert (answer.status_code, answer.text) == (503, "the run has ended\n"), path
    assert caplog.records == []


def _hello(run: Run) -> dict[str, Any] | None:
    try:
        with run.watch() as client:
            hello: dict[str, Any] = json.loads(client.recv())
            return hello
    except OSError:
        return None


_PARENT = """
import sys, time
from edgefuse_runtime.sinks.bus import SinkBus
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.sink import WebSink
sink = WebSink(web_address(sys.argv[1]))
with SinkBus([sink]):
    print(sink._process.pid, flush=True)
    time.sleep(60)
"""


def test_the_process_ends_with_live_and_not_before() -> None:
    port = free_port()
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(port)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        number = int(parent.stdout.readline())
        until(lambda: _is_served(port))
        for ignored in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            os.kill(number, ignored)
        time.sleep(0.3)
        assert _is_served(port)
        os.kill(number, signal.SIGSTOP)  # as if it hung
        parent.kill()
        until(
            lambda: not Path(f"/proc/{number}").exists() or "Z" in Path(f"/proc/{number}/stat").read_text().split()[2]
        )


def _is_served(port: int) -> bool:
    with contextlib.suppress(httpx.TransportError):
        return httpx.get(f"http://127.0.0.1:{port}/healthz", timeout=5).status_code in (200, 503)
    return False
