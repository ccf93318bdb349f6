"""One ONNX file on an engine of the CPU, with any inputs and outputs: arrays by name in, arrays by name out."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse_runtime.engines.cpu import cpu_id
from edgefuse_runtime.engines.onnxruntime import PROVIDERS, load_onnxruntime, new_session
from edgefuse_runtime.engines.openvino import Tensors, check_device, config_of, load_openvino, openvino_core
from edgefuse_runtime.engines.openvino_cache import compiled_model

Arrays = Mapping[str, NDArray[Any]]


class Graph(Protocol):
    """A loaded file."""

    def run(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        """The outputs, as new arrays. `arrays` may have more than the inputs of the file.

        Raises:
            UserError: the file does not run with these arrays.
        """


class OnnxRuntimeGraph:
    """A session of ONNX Runtime's CPU provider."""

    def __init__(self, path: Path, *, num_threads: int | None) -> None:
        """Load the file; `num_threads`: None = one per core."""
        ort = load_onnxruntime("cpu")
        self._path = path
        self._session = new_session(ort, path, provider=PROVIDERS["cpu"], num_threads=num_threads)
        self._inputs = [one.name for one in self._session.get_inputs()]
        self._outputs = [one.name for one in self._session.get_outputs()]

    def run(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        try:
            found = self._session.run(self._outputs, {name: arrays[name] for name in self._inputs})
        except Exception as error:  # ONNX Runtime's exceptions have no common base class
            raise UserError(f"{self._path} failed to run on ONNX Runtime: {error}") from error
        return dict(zip(self._outputs, found, strict=True))


class OpenVinoGraph:
    """A model compiled by OpenVINO."""

    def __init__(self, path: Path, *, sha256: str, precision: str, num_threads: int | None) -> None:
        """Load the file, compiled before if possible.

        Args:
            sha256: of the file.
            precision: "fp32" or "bf16".
            num_threads: None = one per core.
        """
        library, core = f"OpenVINO {load_openvino().__version__}", openvino_core()
        check_device(core, precision)
        config = config_of(precision, num_threads=num_threads)
        model, self.was_cached = compiled_model(core, path, sha256=sha256, config=config, library=library, cpu=cpu_id())
        self._path, self._request = path, model.create_infer_request()
        self._inputs = [port.any_name for port in model.inputs]
        self._outputs = [port.any_name for port in model.outputs]
        self._tensors: Tensors | None = None

    def run(self, arrays: Arrays) -> dict[str, NDArray[np.float32]]:
        given = {name: arrays[name] for name in self._inputs}
        try:
            if self._tensors is None or not self._tensors.fit(given):
                self._tensors = Tensors(self._request, given)
            self._tensors.run(given)
            return {name: np.array(self._request.get_tensor(name).data) for name in self._outputs}
        except RuntimeError as error:
            raise UserError(f"{self._path} failed to run on OpenVINO: {error}") from error
