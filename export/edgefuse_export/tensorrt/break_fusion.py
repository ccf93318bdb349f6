"""Finds the tensor at which a wrong engine must not be fused, by building with intermediate tensors as outputs of the network.

TensorRT may fuse operators into a kernel that computes something else: 11.2 did with a reduction of an input (rerun-io/examples-monorepo
PR #87), 10.13 on Thor with sibling projections (TensorRT-Edge-LLM #151). Making the tensor an output cured both, because it must then be
written to memory. `INetworkDefinition.mark_output` is in all versions; of `mark_debug` no cure is known.

The search compares engines, not intermediate values: every further output changes the fusions, so the values that an engine with
such outputs shows are not those of the wrong engine. First all tensors are outputs. If that engine is wrong too, fusion is not the
cause (`first_difference` then names the layer). Otherwise bisection finds the smallest n for which the first n tensors, in topological
order, are enough. The last of them is needed; if it is not enough alone, the search continues among those before it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import ParityReport
from edgefuse_runtime.engines.tensorrt_library import Library

if TYPE_CHECKING:
    import tensorrt as trt

    from edgefuse_export.tensorrt.plan_from_onnx import BuiltPlan

MAX_BUILDS = 12
"""Enough for one tensor of a thousand: 1 build with all, 10 of the bisection, 1 with the tensor alone."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Attempt:
    """An engine that was built and compared.

    Attributes:
        layers: number of layers by precision; None, as `parity`, if the engine cannot run on this machine.
        failures: why it is not accepted; empty = its outputs agree.
    """

    built: BuiltPlan
    layers: Mapping[str, int] | None
    parity: ParityReport | None
    failures: tuple[str, ...]


Build = Callable[[Collection[str] | None], Attempt]
"""Builds and compares an engine with these tensors as outputs; None = all."""


@dataclass(frozen=True, kw_only=True)
class Search:
    """The result of a search.

    Attributes:
        kept: the engine with the fewest additional outputs whose outputs agree, or None.
        everything: the engine with all tensors as outputs; None = it could not be built.
        num_builds: builds of the search.
    """

    kept: Attempt | None
    everything: Attempt | None
    num_builds: int


def make_outputs(library: Library, network: trt.INetworkDefinition, names: Collection[str] | None) -> dict[str, str]:
    """Make intermediate floating-point tensors outputs of the network: those of these names, or with None all that depend on an
    input. Returns tensor -> the layer that computes it, in topological order.
    """
    trt = library.module
    dependent = {network.get_input(index).name for index in range(network.num_inputs)}
    made = {}
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        inputs = [layer.get_input(number) for number in range(layer.num_inputs)]
        if not any(tensor is not None and tensor.name in dependent for tensor in inputs):
            continue
        for tensor in [layer.get_output(number) for number in range(layer.num_outputs)]:
            dependent.add(tensor.name)
            is_float = tensor.dtype in {trt.DataType.FLOAT, trt.DataType.HALF}
            if is_float and not tensor.is_network_output and (names is None or tensor.name in names):
                network.mark_output(tensor)
                made[tensor.name] = layer.name
    return made


def break_fusion(build: Build, *, wrong: Attempt, max_builds: int = MAX_BUILDS) -> Search:
    """Search for the fewest tensors that must be outputs for the outputs to agree.

    Args:
        wrong: the engine without additional outputs.
        max_builds: then the search ends with what it has: an engine that is right with more outputs than needed, if there is one.
    """
    _log.warning("the outputs of the engine are wrong (%s): looking for a wrong fusion", wrong.failures[0])
    builds = _Builds(build, max_builds)
    everything = builds.make(None)
    if everything is None or everything.failures:
        return Search(kept=None, everything=everything, num_builds=builds.num)
    kept, needed, rest = everything, list[str](), list(everything.built.marked)
    while rest:
        low, high = 0, len(rest)  # with `needed`, the first `low` tensors are not enough, the first `high` are: `kept`
        while high - low > 1:
            middle = (low + high) // 2
            if attempt := builds.right([*rest[:middle], *needed]):
                kept, high = attempt, middle
            else:
                low = middle
        needed.insert(0, rest[high - 1])
        rest = rest[: high - 1]
        if rest and (attempt := builds.right(needed)):
            kept, rest = attempt, []
    places = ", ".join(f"{tensor} (layer {layer})" for tensor, layer in kept.built.marked.items())
    _log.warning("fusion is broken at %s: the outputs agree", places)
    return Search(kept=kept, everything=everything, num_builds=builds.num)


class _Builds:
    """Counts and logs builds."""

    def __init__(self, build: Build, max_builds: int) -> None:
        self._build, self._max = build, max_builds
        self.num = 0

    def right(self, names: Sequence[str]) -> Attempt | None:
        """An engine with these outputs, if it is right; None also after the last build."""
        attempt = self.make(names) if self.num < self._max else None
        return None if attempt is None or attempt.failures else attempt

    def make(self, names: Sequence[str] | None) -> Attempt | None:
        """An engine with these outputs (None = all); None = it does not build or run."""
        self.num += 1
        what = "all tensors" if names is None else names[0] if len(names) == 1 else f"{len(names)} tensors"
        attempt = None
        try:
            attempt = self._build(names)
        except UserError as error:
            result = f"no engine: {error}"
        else:
            result = attempt.failures[0] if attempt.failures else "right"
        _log.info("build %d of at most %d, with %s as outputs: %s", self.num, self._max, what, result)
        return attempt


def broken_at(search: Search, *, wrong: Attempt) -> dict[str, Any]:
    """The additional outputs of the kept engine and the failures of the engine without them, for the record."""
    assert search.kept is not None
    marked = search.kept.built.marked
    return {
        "tensors": list(marked),
        "layers": list(marked.values()),
        "num_builds": search.num_builds,
        "failures_before": list(wrong.failures),
    }
