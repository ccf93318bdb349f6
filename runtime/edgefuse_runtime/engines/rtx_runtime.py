"""Kernels and CUDA graphs of TensorRT-RTX, which compiles the kernels of a plan on the GPU that runs it.

The compiled kernels are kept in a file beside the plan, so that only the first start on a GPU compiles. The library checks that the
file is for its version, the GPU and the driver. Without the file, or if it cannot be written, each start compiles.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from edgefuse.io.files import file_replaced
from edgefuse_runtime.engines.engine_cache import PlanError, read_private
from edgefuse_runtime.engines.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as rtx

_log = logging.getLogger(__name__)


class RtxRuntime:
    """Creates the execution contexts of one engine. Every call needs an active CUDA context."""

    def __init__(self, library: Library, engine: rtx.ICudaEngine, *, kernels: Path | None) -> None:
        """Load the compiled kernels, if there are any.

        Args:
            kernels: their file; None = compile them, and keep no file.
        """
        self._library, self._engine, self._path = library, engine, kernels
        self._config = engine.create_runtime_config()
        self._cache = self._config.create_runtime_cache()
        self._stored = b"" if kernels is None else self._read(kernels)
        self._config.set_runtime_cache(self._cache)

    @property
    def is_compiled(self) -> bool:
        """Whether the kernels were loaded from the file."""
        return bool(self._stored)

    def create_context(self, *, graph: bool) -> rtx.IExecutionContext | None:
        """A new execution context; None if GPU memory is short.

        Args:
            graph: let the library capture its kernels in a CUDA graph, and launch that.
        """
        rtx = self._library.module
        strategy = rtx.CudaGraphStrategy.WHOLE_GRAPH_CAPTURE if graph else rtx.CudaGraphStrategy.DISABLED
        self._config.cuda_graph_strategy = strategy
        return self._engine.create_execution_context(self._config)

    def save(self) -> None:
        """Write the kernels to the file, if new ones were compiled. A folder that cannot be written is no error."""
        if self._path is None:
            return
        compiled = bytes(self._cache.serialize())
        if compiled == self._stored:
            return
        try:
            with file_replaced(self._path, private=True, follow_links=False) as temporary:
                temporary.write_bytes(compiled)
        except OSError as error:
            _log.info("each start compiles the kernels again: %s cannot be written (%s)", self._path, error.strerror)

    def _read(self, path: Path) -> bytes:
        """Load the file into the library. Returns its bytes, or none if it is missing or cannot be used; then it is removed."""
        try:
            stored, _ = read_private(path)
            if self._cache.deserialize(stored):
                return stored
            reason = f"{path} is damaged, or of another GPU, driver or version"
        except FileNotFoundError:
            return b""
        except (PlanError, OSError) as error:
            reason = str(error)
        _log.warning("the compiled kernels are not used and are compiled again: %s", reason)
        try:
            path.unlink()  # a replaced file would keep its mode
        except OSError:
            self._path = None
        return b""
