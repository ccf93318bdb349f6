"""Ultralytics' classify predictor, for what its program takes around the network: it has no RGB-D, so the network is another one."""

from __future__ import annotations

import io
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import require
from edgefuse_benchmarks.peers.peer import INSTALL, NUM_THREADS, Peer, Source

MODEL = "yolo11n-cls.yaml"
"""The smallest classifier of a stable version. From its description it has random weights: weights would have to be downloaded."""
SETTINGS = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_VERBOSE": "false"}
"""No look-ups on the internet, no installation of packages, no messages."""


@contextmanager
def ultralytics_classify(source: Source) -> Iterator[Peer]:
    """The predictor with a network for RGB of the bundle's input size.

    Raises:
        MissingPackageError: Ultralytics is not installed.
    """
    import torch

    num_threads = torch.get_num_threads()
    settings = {"imgsz": source.bundle.manifest.contract.size, "device": "cpu", "verbose": False}
    with tempfile.TemporaryDirectory(prefix="edgefuse-") as folder:
        os.environ.update({**SETTINGS, "YOLO_CONFIG_DIR": folder})  # read by the import
        with redirect_stdout(io.StringIO()):  # it logs to standard output, which belongs to --json
            model = require("ultralytics", extra="", install=INSTALL).YOLO(MODEL, task="classify", verbose=False)
        model.predict(source.rgb[0], **settings)  # makes the predictor, which has the network with fused layers
    torch.set_num_threads(NUM_THREADS)  # Ultralytics sets its own
    ready = torch.from_numpy(source.ready()[0])
    try:
        yield Peer(
            classify=partial(_classify, model, settings),
            outputs=None,
            network=torch.inference_mode()(partial(model.predictor.model, ready)),
        )
    finally:
        torch.set_num_threads(num_threads)


def _classify(model: Any, settings: dict[str, Any], rgb: NDArray[np.uint8], depth: NDArray[np.uint16]) -> Any:
    return model.predict(rgb, **settings)[0].probs.top1
