"""A sink that shows a sample of the frames, with their results, in the Rerun viewer, or records them for it.

The SDK runs in a process of its own (`edgefuse_runtime.sinks.rerun_process`), because it is large, and logging an image holds the
interpreter. One message is a line of JSON, then the bytes of the colour image and of the depth image.
"""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse.io.files import refuse_existing
from edgefuse.io.json_files import dumps
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

MAX_PER_S = 5.0
"""Frames per second that are shown."""
CLOSE_TIMEOUT_S = 5.0

_CODE = (
    "import sys; sys.path[:] = sys.argv[2:]; from edgefuse_runtime.sinks.rerun_process import main; main(sys.argv[1])"
)


class RerunSink:
    """Sends the newest frame, at most `MAX_PER_S` times a second."""

    def __init__(self, target: str, *, force: bool = False, max_per_s: float = MAX_PER_S) -> None:
        """Choose the target.

        Args:
            target: FILE.rrd to write, or the address of a viewer, such as "rerun+http://127.0.0.1:9876/proxy".
            force: replace an existing file.
            max_per_s: frames per second.

        Raises:
            UserError: the target has another form.
        """
        if not target.startswith("rerun") and not target.endswith(".rrd"):
            raise UserError(f"--rerun is {target!r}: FILE.rrd or rerun+http://HOST:PORT/proxy was expected")
        self.info = SinkInfo(name=f"rerun {target}", wants_images=True)
        self._target, self._force, self._pause_s = target, force, 1.0 / max_per_s
        self._process: subprocess.Popen[bytes] | None = None
        self._num_opened = 0
        self._next_s = 0.0

    def __enter__(self) -> RerunSink:
        if find_spec("rerun") is None:
            require("rerun", extra="rerun")
        target = self._target
        if target.endswith(".rrd"):
            path = Path(target)
            if self._num_opened:  # what was recorded before the failure stays
                path = path.with_stem(f"{path.stem}-{self._num_opened}")
            refuse_existing(path, force=self._force, is_ours=_is_recording)
            path.parent.mkdir(parents=True, exist_ok=True)
            target = str(path)
        self._num_opened += 1
        command = [
            sys.executable,
            "-c",
            _CODE,
            target,
            *sys.path,
        ]  # python -m would import from the working directory, too
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is None:
            return
        process, self._process = self._process, None
        try:
            if process.stdin is not None:
                process.stdin.close()  # the process writes what it has, and ends
            process.wait(CLOSE_TIMEOUT_S)
        finally:
            process.kill()
            process.wait()

    def result(self, result: Result, frame: Frame | None) -> None:
        now_s = time.monotonic()
        if frame is None or now_s < self._next_s:
            return
        self._next_s = now_s + self._pause_s
        height, width = frame.depth.shape
        header = {"result": result.to_json(), "shape": [height, width], "depth_unit_m": frame.depth_unit_m}
        self._send(header, frame.rgb, frame.depth)

    def event(self, event: Event) -> None:
        self._send({"event": event.to_json()})

    def summary(self, summary: LiveSummary) -> None:
        self._send({"event": summary.to_json() | {"message": f"ended: {summary.ended}"}})

    def _send(self, header: dict[str, Any], *images: np.ndarray) -> None:
        if self._process is None or self._process.stdin is None:
            raise OSError("the process of rerun is not running")
        if self._process.poll() is not None:
            raise OSError(f"the process of rerun has ended (exit code {self._process.returncode})")
        self._process.stdin.write(dumps(header).encode() + b"\n")
        for image in images:
            self._process.stdin.write(np.ascontiguousarray(image).data)
        self._process.stdin.flush()


def _is_recording(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(2) == b"RR"
