"""The capture process: `main` runs a worker. Imports no engine, no console and no PyTorch, so that it starts soon."""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import sys
import threading
from typing import Protocol

from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.capture.link import Files, WorkerLink
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.capture.worker import Worker

_CODE = "import sys; sys.path[:] = sys.argv[2:]; from edgefuse_runtime.capture.child import main; main(sys.argv[1])"


class Runner(Protocol):
    """A worker that was started."""

    can_be_killed: bool

    def ending(self) -> str | None:
        """Why it has ended; empty for a normal end; None while it runs."""

    def kill(self) -> None:
        """End it at once if that can be done."""

    def end(self, wait_s: float) -> None:
        """Wait until it ends. After `wait_s` seconds end it, or leave it behind if that cannot be done."""


class ProcessRunner:
    """A worker in a process of its own."""

    can_be_killed = True

    def __init__(self, source: Source, files: Files, *, has_opened: bool) -> None:
        request = dumps({"source": source.to_json(), "files": files.of_worker(), "has_opened": has_opened})
        # Without a standard error of its own, the process could write librealsense's messages to the ring.
        errors = None if _is_open(2) else subprocess.DEVNULL
        self._process = subprocess.Popen(
            [sys.executable, "-c", _CODE, request, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            pass_fds=files.of_worker(),
        )

    def ending(self) -> str | None:
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return f"the capture process was ended by {signal.Signals(-code).name}"
        return f"the capture process ended with exit code {code}" if code else ""

    def kill(self) -> None:
        self._process.kill()

    def end(self, wait_s: float) -> None:
        for limit_s in (wait_s, 0.5):
            # A process that waits in a driver of the kernel does not end. It is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(limit_s)
                return
            self._process.kill()


class ThreadRunner:
    """A worker in a thread. One in which a call of the SDK hangs is left behind."""

    can_be_killed = False

    def __init__(self, source: Source, files: Files, *, has_opened: bool) -> None:
        worker = Worker(source, WorkerLink(files), has_opened=has_opened)
        self._thread = threading.Thread(target=worker.capture, name="capture", daemon=True)
        self._thread.start()

    def ending(self) -> str | None:
        return None if self._thread.is_alive() else ""

    def kill(self) -> None:
        return

    def end(self, wait_s: float) -> None:
        self._thread.join(wait_s)


def main(request: str) -> None:
    """Run a worker, then end the process at once: librealsense's own clean-up at exit may hang or crash.

    The signals of the terminal and of systemd also reach this process; the reader handles them and stops it.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    arguments = parse_json(request.encode(), what="the request")
    files = Files.from_worker(arguments["files"])
    _end_with_reader(files.life_in)
    Worker(Source(**arguments["source"]), WorkerLink(files), has_opened=arguments["has_opened"]).capture()
    os._exit(0)


def _end_with_reader(life: int) -> None:
    """Let the kernel end this process when the other end of the pipe is closed. A thread would wait for Python's GIL.

    Unlike PR_SET_PDEATHSIG, this does not depend on the thread that started the process.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(life, fcntl.F_SETOWN, os.getpid())
    fcntl.fcntl(life, fcntl.F_SETFL, fcntl.fcntl(life, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([life], [], [], 0)[0]:  # closed before
        os._exit(0)


def _is_open(file: int) -> bool:
    try:
        os.fstat(file)
    except OSError:
        return False
    return True
