"""`edgefuse live` with a camera of `capture_cameras`: python live_with_camera.py CLASS ARGUMENTS_AS_JSON BUNDLE ..."""

from __future__ import annotations

import json
import sys
from typing import Any

from edgefuse.app.main import main
from edgefuse_runtime.camera import Camera
from edgefuse_runtime.capture.capture import Capture
from edgefuse_runtime.capture.source import Source
from edgefuse_runtime.live import opening


def run(name: str, arguments: dict[str, Any], options: list[str]) -> None:
    """Run the command; it ends the process."""

    def open_capture(_spec: str, *, align: Any, mode: Any, wait: bool, **_: object) -> Camera:
        source = Source(factory=f"capture_cameras:{name}", arguments=arguments, is_live=True)
        return Capture(source, align=align, mode=mode, wait=wait)

    opening.open_capture = open_capture
    sys.argv = ["edgefuse", "live", *options]
    main()


if __name__ == "__main__":
    run(sys.argv[1], json.loads(sys.argv[2]), sys.argv[3:])
