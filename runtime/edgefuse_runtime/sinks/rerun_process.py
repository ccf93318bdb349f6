"""The process of `edgefuse_runtime.sinks.rerun`: `main`, with messages on standard input."""

from __future__ import annotations

import sys
from typing import IO, Any

import numpy as np

from edgefuse.io.json_files import parse_json
from edgefuse.io.workers import begin_worker


def main(target: str) -> None:
    """Log each message until standard input ends."""
    import rerun

    begin_worker()
    rerun.init("edgefuse live")
    if target.endswith(".rrd"):
        rerun.save(target)
    else:
        rerun.connect_grpc(target)
    while line := sys.stdin.buffer.readline():
        header = parse_json(line, what="a message of edgefuse live")
        if "event" in header:
            rerun.log("events", rerun.TextLog(header["event"]["message"]))
        else:
            _log(rerun, header, sys.stdin.buffer)
    rerun.disconnect()


def _log(rerun: Any, header: dict[str, Any], stream: IO[bytes]) -> None:
    height, width = header["shape"]
    rgb = np.frombuffer(stream.read(height * width * 3), np.uint8).reshape(height, width, 3)
    depth = np.frombuffer(stream.read(height * width * 2), np.uint16).reshape(height, width)
    result = header["result"]
    rerun.set_time("frame", sequence=result["frame"])
    rerun.set_time("time", timestamp=np.datetime64(result["time"].removesuffix("Z"), "ms"))
    rerun.log("rgb", rerun.Image(rgb))
    rerun.log("depth", rerun.DepthImage(depth, meter=1 / header["depth_unit_m"]))
    if result["roi"] is None:
        rerun.log("rgb/region", rerun.Clear(recursive=False))
    else:
        x, y, w, h = result["roi"]
        label = result["label"] or "no decision"
        rerun.log("rgb/region", rerun.Boxes2D(mins=[[x, y]], sizes=[[w, h]], labels=[label]))
    for name in ("probability", "gate_mean", "latency_ms", "age_ms", "valid_depth", "nearest_m"):
        if result[name] is not None:
            rerun.log(f"values/{name}", rerun.Scalars(result[name]))
