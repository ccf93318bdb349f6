"""A TensorRT in memory, for tests of behaviour on machines that have none: `with fake.module` as `tensorrt` in sys.modules.

It plays the Python bindings 10.3.0, 10.16.1.11 or 11.4.0.106: the names, signatures and enum values are the real ones of that
version (tests/tensorrt_api/test_fake_is_true.py compares them). How it behaves is written from the documentation; it proves
that the project's code does what it should with such answers, and nothing about TensorRT itself.

    fake = FakeTensorRT(version="10.3.0")
    monkeypatch.setitem(sys.modules, "tensorrt", fake.module)

A plan holds its ONNX file. `execute_async_v3` reads and writes *host* addresses at once, with ONNX Runtime on that file.
Capture of a CUDA graph, for the test's stand-in of GPU memory: begin = `fake.captures[stream] = []`, end = pop the list,
launch = call each function of it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from fake_tensorrt import build, network, run
from fake_tensorrt.bound import Bound, Dims, IHostMemory
from fake_tensorrt.names import VERSIONS, make_enums


@dataclass(kw_only=True)
class Faults:
    """What goes wrong. Each can be set at any time.

    Attributes:
        no_driver: Builder and Runtime cannot be made; pybind11 says so with a TypeError.
        parser_errors: descriptions of errors that the parser finds in any file.
        build_returns_none: the build fails; `build_error` is logged, and before it `build_warning`, where there is one.
        no_kernel_obeys: the build fails while the precision of single layers must be kept.
        no_half_layer: every half layer becomes a float one, unsaid.
        deserialize_returns_none: any plan is refused.
        context_returns_none: no execution context, as when GPU memory is short.
        enqueue_returns_false: nothing runs.
        capture_fails: enqueueing works, but not while the stream is captured.
        answers_off: added to every float output.
        answers_nan: every float output is NaN.
    """

    no_driver: bool = False
    parser_errors: tuple[str, ...] = ()
    build_returns_none: bool = False
    build_warning: str = ""
    build_error: str = "Error Code 10: Internal Error (Could not find any implementation for node conv.)"
    no_kernel_obeys: bool = False
    no_half_layer: bool = False
    deserialize_returns_none: bool = False
    context_returns_none: bool = False
    enqueue_returns_false: bool = False
    capture_fails: bool = False
    answers_off: float = 0.0
    answers_nan: bool = False


class FakeTensorRT:
    """One stand-in: the module, what goes wrong in it, and what it was asked for.

    Attributes:
        module: stands for `tensorrt`.
        device: written into plans and timing caches; those of another device are refused.
        builds: one record for each call of `build_serialized_network`, in JSON values.
        captures: streams that are being captured, and what was enqueued on them.
        num_executions: runs of any execution context.
    """

    def __init__(
        self, *, version: str = "10.3.0", faults: Faults | None = None, device: str = "Fake GPU sm_87"
    ) -> None:
        if version not in VERSIONS:
            raise ValueError(f"{version} is none of {', '.join(VERSIONS)}")
        self.version = version
        self.faults = faults or Faults()
        self.device = device
        self.builds: list[dict[str, Any]] = []
        self.captures: dict[int, list[Callable[[], None]]] = {}
        self.num_executions = 0
        self.enums = make_enums(version)
        self.module = self._module()

    @property
    def always_strongly_typed(self) -> bool:
        """From 11 on there are no other networks."""
        return int(self.version.split(".", maxsplit=1)[0]) >= 11

    def _module(self) -> ModuleType:
        module = ModuleType("tensorrt", "A stand-in for TensorRT's Python bindings.")
        module.__version__ = self.version  # type: ignore[attr-defined]
        made: dict[type, type] = {Bound: Bound, IHostMemory: IHostMemory}
        severity = self.enums["Severity"]
        for base in [*network.CLASSES, *build.CLASSES, *run.CLASSES, IHostMemory]:
            # Each stand-in has classes of its own: `_fake` leads from any object to it.
            parents = tuple(made[parent] for parent in base.__bases__ if parent in made and parent is not Bound)
            name = base.__name__
            body = network.WeakLayer if base is network.ILayer and not self.always_strongly_typed else base
            made[base] = type(name, (body, *parents), {"_fake": self, "__module__": "tensorrt"})
            setattr(module, name, made[base])
        for name, kind in self.enums.items():
            if name != "Severity":
                setattr(module, name, kind)
        for logger in (module.ILogger, module.Logger):  # type: ignore[attr-defined]
            logger.Severity = severity
            for member in severity:
                setattr(logger, member.name, member)
        module.Dims = Dims  # type: ignore[attr-defined]
        module.volume = run.volume  # type: ignore[attr-defined]
        module.nptype = run.nptype  # type: ignore[attr-defined]
        return module

    def log(self, logger: Any, severity: str, text: str) -> None:
        logger.log(self.enums["Severity"][severity], text)
