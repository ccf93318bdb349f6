"""The fake of TensorRT as TensorRT-RTX: kernels are "compiled" at load and kept in a runtime cache, and it has CUDA graphs of its own.

    fake = FakeRTX()
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", fake.module)

Like `fake_tensorrt`, it follows the documentation and proves nothing about the library.
"""

from __future__ import annotations

import hashlib
import json
from enum import IntEnum
from types import SimpleNamespace
from typing import Any

from fake_tensorrt import ExecutionContext, FakeTensorRT, ICudaEngine

VERSION = "1.7.1.116"


class FakeRTX(FakeTensorRT):
    """See `FakeTensorRT`.

    Attributes:
        compiled: digests of the plans whose kernels were compiled, once for each time.
        graphs: what the library does with its own CUDA graph: "work", "fail" (enqueueing returns False) or "stale" (a replay
            writes no output).
    """

    def __init__(self, *, version: str = VERSION, device: str = "Fake RTX 4090") -> None:
        super().__init__(version=version, device=device)
        self.compiled: list[str] = []
        self.graphs = "work"
        self.module.CudaGraphStrategy = IntEnum("CudaGraphStrategy", "DISABLED WHOLE_GRAPH_CAPTURE", start=0)
        self.module.ICudaEngine = type("ICudaEngine", (RtxEngine,), {"fake": self})


class RuntimeCache:
    """The kernels of plans, for one device and version."""

    def __init__(self, fake: FakeRTX) -> None:
        self._environment = {"device": fake.device, "version": fake.version}
        self.digests: list[str] = []

    def serialize(self) -> bytes:
        return json.dumps({**self._environment, "digests": self.digests}).encode()

    def deserialize(self, blob: bytes) -> bool:
        try:
            value = json.loads(blob)
        except ValueError:
            return False
        digests = value.pop("digests")
        if value != self._environment:
            return False
        self.digests = digests
        return True


class RtxEngine(ICudaEngine):
    fake: FakeRTX

    def __init__(self, plan: bytes, logger: Any) -> None:
        super().__init__(plan, logger)
        self.digest = hashlib.sha256(plan).hexdigest()

    def create_runtime_config(self) -> Any:
        config = SimpleNamespace(
            cuda_graph_strategy=self.fake.module.CudaGraphStrategy.DISABLED,
            cache=None,
            create_runtime_cache=lambda: RuntimeCache(self.fake),
        )
        config.set_runtime_cache = lambda cache: setattr(config, "cache", cache) or True
        return config

    def create_execution_context(self, runtime_config: Any) -> Any:
        context = super().create_execution_context()
        if context is None:
            return None
        known = runtime_config.cache.digests if runtime_config.cache is not None else []
        if self.digest not in known:
            self.fake.compiled.append(self.digest)
            known.append(self.digest)
        has_graph = runtime_config.cuda_graph_strategy != self.fake.module.CudaGraphStrategy.DISABLED
        return WithGraph(self) if has_graph else context


class WithGraph(ExecutionContext):
    """Its first run captures a graph, later ones replay it."""

    num_runs = 0

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert stream_handle not in self._fake.captures, (
            "a stream is captured by the library or by the caller, not by both"
        )
        self.num_runs += 1
        if self._fake.graphs == "fail":
            self._fake.log(self._engine.logger, "cuGraphInstantiate: CUDA_ERROR_NOT_SUPPORTED")
            return False
        if self._fake.graphs == "stale" and self.num_runs > 1:
            return True
        return super().execute_async_v3(stream_handle)
