"""`Source`: which camera a capture process opens, as JSON."""

from __future__ import annotations

import importlib
from dataclasses import asdict, dataclass, field, replace
from typing import Any, cast

from edgefuse_runtime.camera import Camera
from edgefuse_runtime.cameras.alignment import Allocate


@dataclass(frozen=True, kw_only=True)
class Source:
    """A camera to open in another process.

    Attributes:
        factory: "module:function" that returns it.
        arguments: of the function, as JSON values; it also gets `allocate`.
        is_live: a camera that failed is opened again. A recording that failed ends the run.
        waits: send one frame for each request, and drop none; otherwise the newest frame wins.
    """

    factory: str = "edgefuse_runtime.cameras:open_camera"
    arguments: dict[str, Any] = field(default_factory=dict)
    is_live: bool
    waits: bool = False

    def camera(self, *, allocate: Allocate) -> Camera:
        """The camera, not yet open."""
        module, _, function = self.factory.partition(":")
        return cast("Camera", getattr(importlib.import_module(module), function)(**self.arguments, allocate=allocate))

    def with_serial(self, serial: str | None) -> Source:
        """The same camera by its serial number, so that after a failure no other one is opened."""
        if self.arguments.get("spec") != "realsense" or serial in (None, "unknown"):
            return self
        return replace(self, arguments={**self.arguments, "spec": f"realsense:{serial}"})

    def to_json(self) -> dict[str, Any]:
        """A JSON object; the arguments of the constructor."""
        return asdict(self)
