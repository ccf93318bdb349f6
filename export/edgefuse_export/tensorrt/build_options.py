"""The options of an engine build, checked."""

from __future__ import annotations

from dataclasses import dataclass, replace

from edgefuse.errors import UserError
from edgefuse_runtime.engines.tensorrt_library import RTX, TENSORRT

ENGINES = {product.engine: product for product in (TENSORRT, RTX)}
PRECISIONS = ("fp16", "int8", "fp32")
MAX_OPTIMIZATION_LEVEL = 5


@dataclass(frozen=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        precision: "fp16", "int8" or "fp32".
        workspace_mib: most scratch memory of one layer.
        optimization_level: 0 (fastest build) to 5 (fastest engine); 3 is TensorRT's default.
        batch_size: N of the engine's inputs; None = that of the bundle, or 1 if the bundle's is dynamic.
        force: build even if the cache has the engine; keep INT8 even if it is not faster than FP16.
        engine: "tensorrt", for the GPU of this machine, or "rtx" (TensorRT-RTX), for any of its GPUs on any machine.
        targets: GPUs to build for, such as "sm89" or "current", only for "rtx". Default: see `targets_for`.
    """

    precision: str = "fp16"
    workspace_mib: int = 1024
    optimization_level: int = 3
    batch_size: int | None = None
    force: bool = False
    engine: str = "tensorrt"
    targets: tuple[str, ...] = ()

    def of_fp16(self) -> BuildOptions:
        """The same options for the FP16 engine, from the cache if it has it."""
        return replace(self, precision="fp16", force=False)

    def __post_init__(self) -> None:
        if self.engine not in ENGINES:
            raise UserError(f"engine {self.engine!r} is unknown: one of {', '.join(ENGINES)} was expected")
        if self.targets and self.engine != "rtx":
            raise UserError(
                f"--for {','.join(self.targets)} is for --engine rtx: TensorRT builds only for the GPU of the machine that it runs on. "
                "Add --engine rtx, or leave out --for and build on the device"
            )
        if self.precision not in PRECISIONS:
            raise UserError(f"precision {self.precision!r} is unknown: one of {', '.join(PRECISIONS)} was expected")
        if self.workspace_mib < 1 or (self.batch_size is not None and self.batch_size < 1):
            raise UserError(
                f"the workspace is {self.workspace_mib} MiB and the batch {self.batch_size}: 1 or more was expected"
            )
        if not 0 <= self.optimization_level <= MAX_OPTIMIZATION_LEVEL:
            raise UserError(
                f"the optimization level is {self.optimization_level}: 0 to {MAX_OPTIMIZATION_LEVEL} was expected"
            )
