"""Compiles an ONNX file with OpenVINO in a process of its own, and runs it once there: a crash would end the caller."""

from __future__ import annotations

import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.errors import UserError, require
from edgefuse.io.files import path_or_bytes
from edgefuse.io.json_files import dumps, parse_json

LIMIT_S = 900.0
_CODE = "import sys; sys.path[:] = sys.argv[4:]; from edgefuse_runtime.engines.openvino_compiler import main; main(*sys.argv[1:4])"


def compile_apart(path: Path, *, config: Mapping[str, Any], library: str) -> bytes:
    """The bytes that OpenVINO exports for a compiled model.

    Args:
        config: OpenVINO's properties.
        library: name and version of OpenVINO, for messages.

    Raises:
        UserError: it refuses the file, or crashes.
    """
    with tempfile.TemporaryDirectory(prefix="edgefuse-") as folder:
        out = Path(folder) / "compiled"
        command = [sys.executable, "-c", _CODE, str(path), str(out), dumps(dict(config)), *sys.path]
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=LIMIT_S, check=False)
        except (OSError, subprocess.TimeoutExpired) as error:
            raise UserError(f"{library} does not compile {path} in a process of its own: {error}") from error
        if done.returncode == 0:
            return out.read_bytes()
    if done.returncode < 0:
        crash = signal.Signals(-done.returncode).name
        raise UserError(f"{library} crashes ({crash}) while it compiles {path}. Use ONNX Runtime: --engine cpu")
    raise UserError(f"{library} does not load {path}: {last_line(done.stderr.decode(errors='replace'))}")


def main(path: str, out: str, config: str) -> None:
    """The process: compile, export, import, and run once on zeros."""
    ov = require("openvino", extra="openvino")
    properties, core = parse_json(config, what="the properties"), ov.Core()
    blob = exported(core.compile_model(core.read_model(path_or_bytes(Path(path))), "CPU", properties))
    Path(out).write_bytes(blob)
    model = imported(core, blob, properties)
    request = model.create_infer_request()
    for port in model.inputs:
        shape = [1 if size.is_dynamic else size.get_length() for size in port.partial_shape]
        request.set_tensor(port.any_name, ov.Tensor(np.zeros(shape, port.element_type.to_dtype())))
    request.infer()


def exported(model: Any) -> bytes:
    """The bytes of a compiled model; OpenVINO returns them as bytes or as io.BytesIO."""
    blob = model.export_model()
    return blob if isinstance(blob, bytes) else bytes(blob.getbuffer())


def imported(core: Any, blob: bytes, config: Mapping[str, Any]) -> Any:
    """The inverse of `exported`."""
    import io

    return core.import_model(io.BytesIO(blob), "CPU", dict(config))


def last_line(text: str) -> str:
    """The reason in one of OpenVINO's messages, which begin with its source files."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no message"
