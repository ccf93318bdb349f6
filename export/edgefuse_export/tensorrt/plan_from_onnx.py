"""Builds a serialized TensorRT plan from an ONNX file: network typing, builder settings, log and progress.

Runs with TensorRT-RTX 1.7.1 in every test run; checked against the bindings of TensorRT 10.3, 10.16 and 11.4, whose libraries are
untried.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgefuse.bundle import MODEL_NAME, MODEL_NAMES
from edgefuse.errors import MissingPackageError, UserError
from edgefuse.io.files import file_replaced
from edgefuse.progress import Progress, no_progress
from edgefuse_export.tensorrt.break_fusion import make_outputs
from edgefuse_export.tensorrt.build_log import BuildProgress, Journal, interrupt_noted, reported
from edgefuse_export.tensorrt.inspect_engine import ParsedLayers, check_parsed_precision, check_plan_size, parsed_layers
from edgefuse_export.tensorrt.parse import Refusal, is_strongly_typed, refusals_of
from edgefuse_export.tensorrt.rtx_targets import set_targets
from edgefuse_runtime.engines.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt

_log = logging.getLogger(__name__)


class BuildError(UserError):
    """TensorRT did not build a plan; the message has its last errors and what to try."""


PREFERRED_NOTE = "no kernel keeps decoding and softmax in FP32, so FP32 is only preferred there; the comparison of the outputs decides"


@dataclass(frozen=True, kw_only=True)
class BuiltPlan:
    """The result of a build.

    Attributes:
        content: the serialized plan.
        notes: messages for the user about the build.
        parsed: the layers of the network that was built from.
        marked: intermediate tensor that was made an output -> the layer that computes it, in topological order.
    """

    content: bytes
    notes: tuple[str, ...]
    parsed: ParsedLayers
    marked: Mapping[str, str]


@dataclass(frozen=True, kw_only=True)
class Typing:
    """How a network gets its precision.

    Attributes:
        strongly_typed: from the types in the ONNX file; else from `flag`, and TensorRT chooses for each layer.
        flag: name of the BuilderFlag of a weakly typed network, or None.
        onnx_file: name of the bundle's file to build from.
        note: a message for the user, or "".
    """

    strongly_typed: bool
    flag: str | None
    onnx_file: str
    note: str

    @property
    def description(self) -> str:
        """As text, for the plan's key."""
        return "strongly typed" if self.strongly_typed else f"weakly typed, BuilderFlag {self.flag or 'none'}"


def typing_for(*, library: Library, precision: str) -> Typing:
    """Strongly typed from TensorRT 10.12 on; earlier, weakly typed with a builder flag, for FP16 with the FP32 file."""
    if is_strongly_typed(library):
        return Typing(strongly_typed=True, flag=None, onnx_file=MODEL_NAMES[precision], note="")
    if precision == "fp32":
        return Typing(strongly_typed=False, flag=None, onnx_file=MODEL_NAMES[precision], note="")
    flag, details = {
        "fp16": (
            "FP16",
            "; decoding of the inputs and softmax stay in FP32, TensorRT chooses for the other layers",
        ),
        "int8": ("INT8", ", which its Q/DQ layers need"),
    }[precision]
    onnx_file = MODEL_NAME if precision == "fp16" else MODEL_NAMES[precision]
    return Typing(
        strongly_typed=False,
        flag=flag,
        onnx_file=onnx_file,
        note=(
            f"TensorRT {library.version} is older than 10.12, so the network is not strongly typed: built from "
            f"{onnx_file} with BuilderFlag.{flag}{details}"
        ),
    )


def new_logger(library: Library, journal: Journal) -> trt.ILogger:
    """A logger that writes all but VERBOSE messages to the journal. It must outlive the objects created with it."""
    trt = library.module

    class JournalLogger(trt.ILogger):  # type: ignore[misc, name-defined]
        def log(self, severity: Any, msg: str) -> None:
            journal.write(severity.name, msg)

    return JournalLogger()


def _new_monitor(library: Library, progress: BuildProgress) -> trt.IProgressMonitor:
    trt = library.module

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc, name-defined]
        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            progress.start(phase_name, parent_phase, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            return progress.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            progress.finish(phase_name)

    return Monitor()


def plan_from_onnx(  # long: the settings, in the order that TensorRT requires
    onnx_path: Path,
    *,
    library: Library,
    typing: Typing,
    precision: str,
    shapes: Mapping[str, tuple[int, ...]],
    workspace_mib: int,
    optimization_level: int,
    timing_cache: Path | None,
    targets: Sequence[str] = (),
    journal: Journal,
    logger: trt.ILogger,
    mark_outputs: Collection[str] | None = (),
    progress: Progress = no_progress,
) -> BuiltPlan:
    """Build a plan: with TensorRT for the GPU of this machine, with TensorRT-RTX for any of its GPUs.

    Args:
        library: builds it.
        precision: that `typing` is for; a network without a layer of it is not built.
        shapes: input name -> shape, batch first; the plan accepts no other shapes.
        workspace_mib: most scratch memory of one layer.
        optimization_level: 0 (fastest build) to 5 (fastest engine).
        timing_cache: file that is read if it exists and matches, and updated with the new timings; TensorRT-RTX measures none.
        targets: compute capabilities to build for, only for TensorRT-RTX.
        journal: the log that `logger` writes to.
        mark_outputs: intermediate tensors to make outputs of the plan; None = all.
        progress: called with (percent, 100).

    Raises:
        BuildError: the file does not parse, has inputs of other shapes, or the build fails.
        PrecisionError: the network has no layer in the precision.
        TargetError: a target does not support the network.
        PlanSizeError: the plan is too large for the file.
        KeyboardInterrupt: Ctrl-C was pressed during the build.
    """
    trt = library.module
    builder = _start(library, logger, journal)
    flags = 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED) if typing.strongly_typed else 0
    network = builder.create_network(flags)
    parser = trt.OnnxParser(network, logger)
    if refusals := refusals_of(parser, onnx_path):
        raise BuildError(_refused_message(refusals, onnx_path, title=library.title))
    parsed = parsed_layers(library, network)
    if typing.strongly_typed:
        check_parsed_precision(parsed, precision=precision, file=str(onnx_path))
    marked = make_outputs(library, network, mark_outputs)
    config = builder.create_builder_config()
    set_targets(library, config, targets, parsed=parsed)
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace_mib << 20)
    config.builder_optimization_level = optimization_level
    _set_precision(library, network, config, typing)
    config.add_optimization_profile(_static_profile(library, builder, network, shapes, onnx_path))
    if timing_cache is not None:
        _attach_timing_cache(config, timing_cache, journal)
    phases = BuildProgress(progress)
    config.progress_monitor = monitor = _new_monitor(library, phases)  # the variable keeps the object alive  # noqa: F841
    notes: tuple[str, ...] = ()
    with interrupt_noted(phases), reported(phases.status):
        plan = builder.build_serialized_network(network, config)
        if plan is None and not phases.interrupted and journal.lacked_kernel() and _prefer_constraints(library, config):
            notes = (PREFERRED_NOTE,)
            journal.reset_errors()
            journal.write("WARNING", f"edgefuse: {PREFERRED_NOTE}")
            _log.info("note: %s", PREFERRED_NOTE)
            plan = builder.build_serialized_network(network, config)
    if phases.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise BuildError(_failure_message(journal, workspace_mib, title=library.title))
    if timing_cache is not None:
        _save_timing_cache(config, timing_cache, journal)
    phases.complete()
    content = bytes(plan)
    check_plan_size(len(content), onnx_bytes=onnx_path.stat().st_size, file=str(onnx_path), title=library.title)
    return BuiltPlan(content=content, notes=notes, parsed=parsed, marked=marked)


def check_parser(library: Library) -> None:
    """Raises MissingPackageError for a library that only runs plans, such as TensorRT's lean and dispatch runtimes."""
    trt = library.module
    if not hasattr(trt, "OnnxParser"):
        raise MissingPackageError(
            f"{library.title} is installed without its ONNX parser, so it builds no engine: install the whole library: "
            f"{library.product.install}"
        )


def _start(library: Library, logger: trt.ILogger, journal: Journal) -> trt.Builder:
    trt = library.module
    try:
        return trt.Builder(logger)
    except TypeError as error:  # pybind11's error for a null pointer
        raise BuildError(
            f"{library.product.name} does not start on this GPU{journal.last_errors()}. Check the driver with nvidia-smi: it must be new "
            f"enough for the CUDA version of {library.title}"
        ) from error


def _set_precision(
    library: Library, network: trt.INetworkDefinition, config: trt.IBuilderConfig, typing: Typing
) -> None:
    """Disable TF32, and set the flags of a weakly typed network; TensorRT 11 has neither such flags nor such networks."""
    trt = library.module
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # else the inspector reports no types
    config.clear_flag(trt.BuilderFlag.TF32)  # TF32 has only ten bits of mantissa
    if typing.strongly_typed or typing.flag is None:
        return
    if typing.flag == "INT8":
        config.set_flag(trt.BuilderFlag.__members__["INT8"])
        return
    config.set_flag(trt.BuilderFlag.__members__["FP16"])
    config.set_flag(trt.BuilderFlag.__members__["OBEY_PRECISION_CONSTRAINTS"])
    _keep_in_fp32(library, network)


def _prefer_constraints(library: Library, config: trt.IBuilderConfig) -> bool:
    """Prefer precision constraints instead of obeying them; False if there are none, as in strongly typed networks."""
    trt = library.module
    obey = trt.BuilderFlag.__members__.get("OBEY_PRECISION_CONSTRAINTS")
    prefer = trt.BuilderFlag.__members__.get("PREFER_PRECISION_CONSTRAINTS")
    if obey is None or prefer is None or not config.get_flag(obey):
        return False
    config.clear_flag(obey)
    config.set_flag(prefer)
    return True


def _keep_in_fp32(library: Library, network: trt.INetworkDefinition) -> None:
    """Constrain decoding of the inputs and softmax to FP32: FP16 rounds depth by up to 8 mm and makes code 65535 infinite.

    Decoding is everything computed from inputs and constants only, before any layer with weights. Its constants stay in FP32
    too: FP16 does not represent a millimetre exactly.
    """
    trt = library.module
    learned = (trt.LayerType.CONVOLUTION, trt.LayerType.DECONVOLUTION, trt.LayerType.MATRIX_MULTIPLY)
    kinds = {network.get_input(index).name: "decoded" for index in range(network.num_inputs)}  # of tensors
    needed = set()
    for index in range(network.num_layers):  # layers are in topological order
        layer = network.get_layer(index)
        inputs = [tensor.name for tensor in _inputs_of(layer)]
        seen = {kinds.get(name, "constant") for name in inputs}
        kind = (
            "learned" if layer.type in learned or "learned" in seen else "decoded" if "decoded" in seen else "constant"
        )
        kinds.update({layer.get_output(number).name: kind for number in range(layer.num_outputs)})
        if kind == "decoded":
            needed.update(inputs)
            needed.update(layer.get_output(number).name for number in range(layer.num_outputs))
    for index in reversed(range(network.num_layers)):
        layer = network.get_layer(index)
        outputs = [layer.get_output(number) for number in range(layer.num_outputs)]
        decodes = any(tensor.name in needed for tensor in outputs)
        if decodes:  # constants may pass through other layers
            needed.update(tensor.name for tensor in _inputs_of(layer))
        if decodes or layer.type == trt.LayerType.SOFTMAX:
            _set_fp32(library, layer)


def _set_fp32(library: Library, layer: trt.ILayer) -> None:
    trt = library.module
    outputs = range(layer.num_outputs)
    if any(layer.get_output(number).dtype != trt.DataType.FLOAT for number in outputs):
        return  # comparisons and integer operations have no precision to choose
    if hasattr(layer, "precision") and hasattr(layer, "set_output_type"):  # not in TensorRT 11
        layer.precision = trt.DataType.FLOAT
        for number in outputs:
            layer.set_output_type(number, trt.DataType.FLOAT)


def _inputs_of(layer: trt.ILayer) -> list[trt.ITensor]:
    """The inputs of a layer, without missing optional ones."""
    inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
    return [tensor for tensor in inputs if tensor is not None]


def _static_profile(
    library: Library,
    builder: trt.Builder,
    network: trt.INetworkDefinition,
    shapes: Mapping[str, tuple[int, ...]],
    onnx_path: Path,
) -> trt.IOptimizationProfile:
    """A profile whose minimum, optimum and maximum shapes are equal, which TensorRT runs fastest. Fixes a dynamic batch first."""
    trt = library.module
    profile = builder.create_optimization_profile()
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        wanted = shapes.get(tensor.name)
        if wanted is not None and tuple(tensor.shape) == (-1, *wanted[1:]):
            tensor.shape = trt.Dims(list(wanted))  # otherwise the plan has -1 there despite the profile
    found = {}
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        found[tensor.name] = tuple(tensor.shape)
    for name, shape in shapes.items():
        actual = found.get(name, ())
        if len(actual) != len(shape) or any(one not in {-1, size} for one, size in zip(actual, shape, strict=True)):
            fixed = (
                f"; its batch is fixed to {actual[0]}: build with --batch {actual[0]}"
                if actual[1:] == shape[1:]
                else ""
            )
            raise BuildError(
                f"{onnx_path}: the shape of {name} is {list(actual) or 'missing'}, but {list(shape)} was expected"
                f"{fixed or ': export again: edgefuse export RUN --out BUNDLE'}"
            )
        profile.set_shape(name, shape, shape, shape)
    return profile


def _attach_timing_cache(config: trt.IBuilderConfig, path: Path, journal: Journal) -> None:
    """Use the timings of earlier builds; a damaged file, or one of another version or GPU, is ignored."""
    stored = path.read_bytes() if path.is_file() else b""
    cache = config.create_timing_cache(stored)
    if cache is not None and config.set_timing_cache(cache, False):
        return
    journal.write(
        "WARNING", f"edgefuse: the timing cache {path.name} does not match this GPU and TensorRT; starting a new one"
    )
    fresh = config.create_timing_cache(b"")
    if fresh is not None:
        config.set_timing_cache(fresh, False)


def _save_timing_cache(config: trt.IBuilderConfig, path: Path, journal: Journal) -> None:
    cache = config.get_timing_cache()
    if cache is None or not path.parent.is_dir():  # the bundle was replaced in the meantime: the new one gets nothing
        return
    try:
        with file_replaced(path, follow_links=False) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    except (UserError, OSError) as error:  # a plan of minutes is worth more than its timings
        journal.write("WARNING", f"edgefuse: the timings are not kept: {error}")


def _refused_message(refusals: Sequence[Refusal], onnx_path: Path, *, title: str) -> str:
    reasons = "\n  ".join(map(str, refusals))
    return (
        f"{title} cannot parse {onnx_path}:\n  {reasons}\n"
        f"Export again with this version of edgefuse, which checks the file with NVIDIA's parser or its operator lists"
    )


def _failure_message(journal: Journal, workspace_mib: int, *, title: str) -> str:
    if journal.lacked_gpu_memory():
        step = (
            f"The GPU is out of memory. Close other programs that use it (nvidia-smi; on a Jetson: tegrastats), and build with "
            f"less scratch memory: --workspace-mib {max(64, workspace_mib // 4)}"
        )
    elif journal.lacked_workspace():
        step = (
            f"A layer has no kernel within {workspace_mib} MiB of scratch memory: build with --workspace-mib "
            f"{workspace_mib * 4}, or less if GPU memory is short"
        )
    else:
        step = "Try a lower --optimization-level or --precision fp32; the log has all messages of the builder"
    return f"{title} built no engine{journal.last_errors()}.\n{step}.\nlog: {journal.path}"


def json_settings(*, typing: Typing, workspace_mib: int, optimization_level: int) -> dict[str, Any]:
    """The settings that determine the plan, for its key."""
    return {"network": typing.description, "workspace_mib": workspace_mib, "optimization_level": optimization_level}
