"""One build of an engine with its checks: layers by precision, and the comparison of its outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from edgefuse.bundle import Bundle, Samples
from edgefuse.errors import UserError
from edgefuse_export.tensorrt.break_fusion import Attempt, break_fusion, broken_at
from edgefuse_export.tensorrt.build_log import reported
from edgefuse_export.tensorrt.first_difference import TracedEngine, first_difference
from edgefuse_export.tensorrt.inspect_engine import check_precision, count_layers
from edgefuse_export.tensorrt.plan_from_onnx import BuiltPlan
from edgefuse_export.tensorrt.verify_engine import verify_engine
from edgefuse_runtime.engines.engine_cache import ENGINES_FOLDER, PlanKey
from edgefuse_runtime.engines.tensorrt_library import RTX, Library

if TYPE_CHECKING:
    import tensorrt as trt

OpenPlan = Callable[[Path, tuple[str, ...]], TracedEngine]
"""Opens a plan that this process has just built: (path, names of its additional outputs) -> engine, used with `with`."""


class EngineOutputError(UserError):
    """The outputs of the engine differ from those of the bundle; the engine was discarded."""


class BuildPlan(Protocol):
    """`plan_from_onnx` with all but one of its arguments."""

    def __call__(self, *, mark_outputs: Collection[str] | None) -> BuiltPlan: ...


@dataclass(frozen=True, kw_only=True)
class Trial:
    """Builds and compares engines for one key.

    Attributes:
        onnx_path: what `build_plan` builds from.
        candidate: file for the engine that is being compared.
    """

    bundle: Bundle
    key: PlanKey
    library: Library
    logger: trt.ILogger
    onnx_path: Path
    build_plan: BuildPlan
    candidate: Path
    samples: Samples
    open_plan: OpenPlan

    def right_engine(self) -> tuple[Attempt, dict[str, Any]]:
        """An engine whose outputs agree, if needed with a fusion broken, and what the record says about that.

        Raises:
            EngineOutputError: there is none, or it does not run.
            PrecisionError: it does not run in the requested precision.
        """
        attempt = self.build(())
        if not attempt.failures:
            return attempt, {}
        search = break_fusion(self.build, wrong=attempt)
        if search.kept is not None:
            check_precision(search.kept.layers or {}, precision=self.key.precision)
            return search.kept, {"fusion_broken_at": broken_at(search, wrong=attempt)}
        fusion, where = "", ""
        if search.everything is not None:
            fusion, where = ", also without fusion", f"{self._where_different(search.everything)}\n"
        raise EngineOutputError(
            f"the outputs of the engine differ from those of the bundle{fusion}, so it was discarded:\n  "
            + "\n  ".join(attempt.failures)
            + f"\n{where}{self._next_step()}"
        )

    def unverified(self) -> Attempt:
        """An engine that cannot run on this machine."""
        return Attempt(built=self.build_plan(mark_outputs=()), layers=None, parity=None, failures=())

    def build(self, outputs: Collection[str] | None) -> Attempt:
        """Build, check and compare an engine with additional outputs; None = all intermediate tensors."""
        key = self.key
        built = self.build_plan(mark_outputs=outputs)
        with reported(lambda: "checking the precision of the layers"):
            layers = count_layers(built.content, library=self.library, logger=self.logger, shapes=key.shapes)
        if outputs is not None:  # the outputs of a weakly typed network are FP32, and then so are its layers
            check_precision(layers, precision=key.precision)
        try:
            with reported(lambda: "comparing the outputs"), self.opened(built) as engine:
                report = verify_engine(
                    self.bundle,
                    engine,
                    samples=self.samples,
                    precision=key.precision,
                    batch_size=key.batch_size,
                    name=f"{self.library.title} {key.precision} on {key.device_name}",
                )
        except UserError as error:
            raise EngineOutputError(
                f"the engine was built but does not run, so it was discarded: {error}\n{self._next_step()}"
            ) from error
        return Attempt(built=built, layers=layers, parity=report, failures=tuple(report.failures()))

    def _where_different(self, attempt: Attempt) -> str:
        """The layer where the outputs begin to differ, or why it is not known, as a sentence."""
        try:
            with self.opened(attempt.built) as engine:
                return first_difference(
                    engine,
                    onnx_path=self.onnx_path,
                    marked=attempt.built.marked,
                    samples=self.samples,
                    contract=self.bundle.manifest.contract,
                    key=self.key,
                )
        except UserError as error:
            return f"The layer where the difference starts was not found: {error}"

    def opened(self, built: BuiltPlan) -> TracedEngine:
        """The engine of a plan, for `with`."""
        self.candidate.write_bytes(built.content)
        return self.open_plan(self.candidate, tuple(built.marked))

    def _next_step(self) -> str:
        again = "build again"
        if self.library.product is not RTX:  # which measures no kernels
            again = f"remove {self.bundle.folder / ENGINES_FOLDER}/timing-*.cache and build again"
        return (
            f"Let the builder choose other kernels: {again}, or use another --optimization-level; if a layer overflows in FP16, "
            "export again with --keep-fp32 PATTERN; or build with --precision fp32"
        )
