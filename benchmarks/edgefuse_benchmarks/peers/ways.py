"""The peers by name. Each is imported when it is opened, because each needs other packages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from edgefuse.errors import require
from edgefuse_benchmarks.peers.peer import INSTALL, Peer, Source

Opener = Callable[[Source], AbstractContextManager[Peer]]


@dataclass(frozen=True)
class Way:
    """A peer that is not imported yet.

    Attributes:
        module, function: in this package; the function opens the peer.
        needs: module -> the extra of edgefuse that installs it; None = the dependency group.
    """

    module: str
    function: str
    options: Mapping[str, Any] = field(default_factory=dict)
    needs: Mapping[str, str | None] = field(default_factory=dict)

    def open(self, source: Source) -> AbstractContextManager[Peer]:
        """The peer, for `with`.

        Raises:
            MissingPackageError: one of `needs` is not installed.
        """
        for name, extra in self.needs.items():
            require(name, extra=extra or "", install=INSTALL if extra is None else "")
        function = getattr(import_module(f"edgefuse_benchmarks.peers.{self.module}"), self.function)
        found: AbstractContextManager[Peer] = function(source, **self.options)
        return found


_TORCH = {"torch": "train", "torchvision": "train"}
COMPILED, SERVED, ULTRALYTICS = "torch.compile + torchvision", "LitServe, HTTP", "Ultralytics classify"
SLOW_TO_OPEN = (COMPILED, SERVED)
WAYS = {
    "OpenCV + ONNX Runtime": Way("opencv_onnxruntime", "opencv_onnxruntime"),
    "OpenVINO preprocessing, fp32": Way("openvino_pipeline", "openvino_pipeline", {"precision": "fp32"}),
    "OpenVINO preprocessing, bf16": Way("openvino_pipeline", "openvino_pipeline", {"precision": "bf16"}),
    "torch eager + torchvision": Way("torch_peers", "torch_peer", {"is_compiled": False}, _TORCH),
    COMPILED: Way("torch_peers", "torch_peer", {"is_compiled": True}, _TORCH),
    SERVED: Way("litserve_peer", "litserve_peer", needs={"litserve": None}),
    ULTRALYTICS: Way("ultralytics_peer", "ultralytics_classify", needs=_TORCH),
}
