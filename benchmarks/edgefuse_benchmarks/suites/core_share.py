"""The fusion core of a bundle alone in ONNX Runtime, for its share of the whole model. Owns this variant of the engine benchmark.

The core has the bundle's fusion and sizes, and random weights: its time does not depend on them. It includes a call of its own. Bundles of
`spatial` from before the frame gate have a larger core than the one that is timed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import cycle
from typing import Any

from edgefuse.bundle import Bundle
from edgefuse.errors import MissingPackageError, require
from edgefuse.measure import Series, Variant, ratio
from edgefuse_benchmarks.report import Group
from edgefuse_benchmarks.suites.core_variants import (
    build_core,
    differences,
    features,
    in_onnxruntime,
    in_torch,
    onnx_from_core,
    problems,
)

NUM_INPUTS = 8
TOLERANCE = 1e-5


class CoreShare:
    """The core of a bundle.

    Attributes:
        variants: the one to time in the same rounds as the engines; empty if there is no core to time.
        parity: the comparison with the core in float64.
        note: why there is none; else empty.
    """

    def __init__(self, bundle: Bundle, *, num_threads: int) -> None:
        self.variants: list[Variant] = []
        self.parity: list[dict[str, Any]] = []
        self.note, self._sizes = "", ""
        model = bundle.manifest.model
        kind, width = model.get("fusion"), model.get("num_features")
        if kind in (None, "rgb", "depth") or not isinstance(width, int):
            return
        try:
            require("torch", extra="train")
            require("onnx", extra="export")
        except MissingPackageError as error:
            self.note = f"the fusion core alone was not measured: {error}"
            return
        hidden, classes = model["num_hidden"], model["num_classes"]
        core = build_core(kind, width=width, num_hidden=hidden, num_classes=classes, seed=0)
        inputs = features(kind, width=width, count=NUM_INPUTS, seed=0)
        exact = in_torch(core, inputs, name="torch in float64", precision="float64")
        found = in_onnxruntime(
            onnx_from_core(core, inputs[0]), inputs, name="fusion core, onnxruntime", num_threads=num_threads
        )
        self.parity.append(differences(exact, found, count=NUM_INPUTS, tolerance=TOLERANCE, d=width))
        numbers, run = cycle(range(NUM_INPUTS)), found.run
        self.variants.append(Variant(name=found.name, call=lambda: run(next(numbers))))
        self._sizes = f"{kind}, d={width}, {hidden} hidden units, {classes} classes"

    def problems(self) -> list[str]:
        """Differences that are too large, as text."""
        return [problem for one in self.parity for problem in problems(one)]

    def groups(self, series: Sequence[Series], *, whole: Series) -> tuple[Group, ...]:
        """The core's times, and their ratio to the whole model in the same engine."""
        if not series:
            return ()
        ratios = tuple(ratio(core, whole) for core in series)
        return (Group(scope="core", name=f"of this bundle: {self._sizes}", series=tuple(series), ratios=ratios),)
