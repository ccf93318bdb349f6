"""LitServe on this machine: a frame travels over HTTP to a process of its own, which runs the loop that users write by hand."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial
from typing import IO

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import Outputs, outputs_of
from edgefuse.errors import UserError
from edgefuse.io.json_files import parse_json
from edgefuse_benchmarks.peers.peer import Peer, Source

HOST = "127.0.0.1"
START_LIMIT_S, STOP_LIMIT_S = 60.0, 5.0


@contextmanager
def litserve_peer(source: Source) -> Iterator[Peer]:
    """A server for the bundle, and a client with one connection.

    Raises:
        UserError: the server does not start.
    """
    with socket.socket() as free:
        free.bind((HOST, 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "edgefuse_benchmarks.peers.litserve_server", str(source.bundle.folder), str(port)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(
            command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        try:
            _wait_until_ready(server, port, log)
            connection = http.client.HTTPConnection(HOST, port, timeout=START_LIMIT_S)
            try:
                yield Peer(classify=partial(_classify, connection))
            finally:
                connection.close()
        finally:
            _stop(server)


def _classify(connection: http.client.HTTPConnection, rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Outputs:
    body = b"".join((np.array(depth.shape, "<u4").tobytes(), rgb.tobytes(), depth.astype("<u2", copy=False).tobytes()))
    try:
        connection.request("POST", "/predict", body, {"Content-Type": "application/octet-stream"})
        response = connection.getresponse()
        content = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise UserError(f"the server of LitServe does not answer: {type(error).__name__}: {error}") from error
    if response.status != http.HTTPStatus.OK:
        raise UserError(f"LitServe answered with {response.status}: {content[:200].decode(errors='replace')}")
    found = parse_json(content, what="the response of LitServe")
    return outputs_of({name: np.array(values, np.float32) for name, values in found.items()}, num_pairs=1)


def _wait_until_ready(server: subprocess.Popen[bytes], port: int, log: IO[bytes]) -> None:
    end_s = time.monotonic() + START_LIMIT_S
    while server.poll() is None and time.monotonic() < end_s:
        connection = http.client.HTTPConnection(HOST, port, timeout=1)
        with suppress(OSError, http.client.HTTPException):
            connection.request("GET", "/health")
            if connection.getresponse().status == http.HTTPStatus.OK:
                connection.close()
                return
        connection.close()
        time.sleep(0.1)
    log.seek(0)
    lines = log.read().decode(errors="replace").split("\n")
    reason = next((line for line in reversed(lines) if line.strip()), "without a message")
    raise UserError(f"the server of LitServe did not start: {reason.strip()}")


def _stop(server: subprocess.Popen[bytes]) -> None:
    """End the server and its workers, which are in one session."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(server.pid, number)
        with suppress(subprocess.TimeoutExpired):
            server.wait(STOP_LIMIT_S)
            if number == signal.SIGKILL:
                return
