"""The server that `litserve_peer` starts: python -m edgefuse_benchmarks.peers.litserve_server BUNDLE PORT

A request is two uint32 (height, width) and the bytes of the frame, RGB then depth; the response has the model's outputs as JSON.
"""
# LitServe reads the types of decode_request: they must not be strings, so annotations are not imported from __future__.

import sys
from pathlib import Path
from typing import Annotated, Any

import litserve
import numpy as np
from fastapi import Body

from edgefuse.bundle import open_bundle
from edgefuse.contract import Outputs
from edgefuse_benchmarks.peers.peer import NUM_THREADS
from edgefuse_benchmarks.suites.usual_loop import UsualLoop, usual_loop


class Api(litserve.LitAPI):  # type: ignore[misc]
    """The loop that users write by hand, behind LitServe."""

    loop: UsualLoop

    def __init__(self, bundle: str) -> None:
        super().__init__()
        self.bundle = bundle

    def setup(self, device: str) -> None:
        """Load the network, in the process of the worker."""
        self.loop = usual_loop(open_bundle(Path(self.bundle)), num_threads=NUM_THREADS)

    def decode_request(self, request: Annotated[bytes, Body()]) -> Any:
        """RGB uint8 [H, W, 3] and depth uint16 [H, W]."""
        height, width = np.frombuffer(request, "<u4", count=2).tolist()
        rgb = np.frombuffer(request, np.uint8, count=3 * height * width, offset=8).reshape(height, width, 3)
        return rgb, np.frombuffer(request, "<u2", offset=8 + rgb.nbytes).reshape(height, width)

    def predict(self, x: Any) -> Outputs:
        """The outputs for one frame."""
        return self.loop.frame(*x)

    def encode_response(self, output: Outputs) -> dict[str, Any]:
        """The outputs as JSON values."""
        return {name: array.tolist() for name, array in output._asdict().items() if array is not None}


if __name__ == "__main__":
    server = litserve.LitServer(Api(sys.argv[1]), accelerator="cpu")
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[2]),
        log_level="warning",
        generate_client_file=False,
        timeout_keep_alive=3600,  # seconds; by default the connection is closed while other ways are opened
    )
