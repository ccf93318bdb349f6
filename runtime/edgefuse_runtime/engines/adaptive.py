"""Adaptive computing: the depth half of the model first; if its answer is not confident enough, the rest of the model too.

The bundle has the model in two files (`edgefuse.adaptive`). The second continues from the depth features of the first, so that both
together compute what the complete model computes, in nearly the same time.
"""

from __future__ import annotations

import math
import time
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.adaptive import DEPTH_FILE, FEATURES, FILES, REST_FILE, check_threshold, is_confident
from edgefuse.bundle import Bundle
from edgefuse.contract import (
    DEPTH_INPUT,
    GATE_OUTPUT,
    NEAREST_OUTPUT,
    PROBABILITIES_OUTPUT,
    RGB_INPUT,
    check_batch,
)
from edgefuse.errors import UserError
from edgefuse.io.text import quoted
from edgefuse_runtime.engines.cpu import cpu_id, usable_cores
from edgefuse_runtime.engines.engine import Decision, OfBundle, Tensor, check_decision, check_num_pairs, padded
from edgefuse_runtime.engines.graph import Arrays, Graph, OnnxRuntimeGraph, OpenVinoGraph
from edgefuse_runtime.engines.onnxruntime import PROVIDERS, load_onnxruntime
from edgefuse_runtime.engines.openvino import load_openvino
from edgefuse_runtime.engines.openvino_parity import check_first_open, check_has_samples

NAME = f"{DEPTH_FILE}, {REST_FILE}"
"""What descriptions give as the file."""


class AdaptiveEngine(OfBundle):
    """The two files of a bundle on ONNX Runtime or OpenVINO. See `Engine` for the protocol."""

    def __init__(self, bundle: Bundle, *, threshold: float, word: str = "cpu", num_threads: int | None = None) -> None:
        """Check that the bundle has the files; `with` loads them.

        Args:
            threshold: probability of the depth head from which it answers alone.
            word: "cpu", "openvino:fp32" or "openvino:bf16".
            num_threads: CPU threads; None = one per core.

        Raises:
            UserError: the bundle lacks the files, or the threshold is not above 0 and at most 1.
        """
        check_threshold(threshold)
        if bundle.manifest.adaptive is None or any(name not in bundle.manifest.files for name in FILES):
            raise UserError(
                f"{bundle.folder} cannot answer from depth alone, because it was exported without --adaptive. Export the run again: "
                f"edgefuse export RUN --out {quoted(bundle.folder)} --adaptive --force"
            )
        self._bundle, self._threshold, self._num_threads = bundle, threshold, num_threads
        name, _, precision = word.partition(":")
        self._precision = precision or "fp32"
        self._is_openvino = name == "openvino"
        self._graphs: tuple[Graph, ...] = ()
        self._gate_width = 1
        self._description: dict[str, Any] = {
            "engine": "openvino" if self._is_openvino else "onnxruntime",
            "file": NAME,
            "precision": self._precision,
        }

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        side = self.contract.size
        return (self._tensor(RGB_INPUT, "uint8", side, side, 3), self._tensor(DEPTH_INPUT, "uint8", side, side, 2))

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        widths = {PROBABILITIES_OUTPUT: len(self.labels), GATE_OUTPUT: self._gate_width, NEAREST_OUTPUT: 1}
        return tuple(self._tensor(name, "float32", width) for name, width in widths.items())

    @property
    def batch_size(self) -> int | None:
        return self._bundle.manifest.batch_size

    @property
    def description(self) -> dict[str, Any]:
        """As of other engines; `adaptive` is the threshold."""
        return self._description

    def __enter__(self) -> AdaptiveEngine:
        started_s = time.perf_counter()
        if self._is_openvino:
            check_has_samples(self._bundle)
        self._graphs = tuple(self._load(name) for name in FILES)
        side, num_pairs = self.contract.size, self.batch_size or 1
        blank = [np.zeros((num_pairs, side, side, channels), np.uint8) for channels in (3, 2)]
        try:
            decision = self.complete(blank[0], blank[1])
            self._gate_width = decision.gate.shape[
                1
            ]  # nothing is measured in a blank pair, so this is the output of the second file
            check_decision(
                decision, self._bundle.manifest, num_pairs=num_pairs, where=f"{self._bundle.folder}/{REST_FILE}"
            )
            start_ms = (time.perf_counter() - started_s) * 1e3
            self._description |= self._facts() | {"start_ms": round(start_ms, 1), "adaptive": self._threshold}
        except UserError:
            self._graphs = ()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._graphs = ()

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`. Pairs without RGB or without any depth are never answered from depth alone."""
        return self.run_at(rgb, depth, threshold=self._threshold)

    def complete(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """The outputs of the complete model for every pair, as `run` without a confident depth head."""
        return self.run_at(rgb, depth, threshold=math.inf)

    def depth_alone(self, depth: NDArray[np.uint8]) -> Decision:
        """The outputs of the depth half for every pair, as `run` with a confident depth head; the gate is 1."""
        found = self._first(depth)
        return self._decision(found, from_depth=np.ones(len(depth), np.bool_))

    def run_at(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8], *, threshold: float) -> Decision:
        """As `run`, with another threshold."""
        check_batch(rgb, depth, self.contract)
        found = self._first(depth)
        from_depth = is_confident(found[PROBABILITIES_OUTPUT], threshold)
        for i in np.flatnonzero(from_depth):
            from_depth[i] = rgb[i].max() > 0 and depth[i].max() > 0
        decision, others = self._decision(found, from_depth=from_depth), ~from_depth
        if not others.any():
            return decision
        part = slice(None) if others.all() else others  # a slice copies nothing
        given: dict[str, NDArray[Any]] = {RGB_INPUT: rgb[part], DEPTH_INPUT: depth[part]}
        given |= {name: found[name][part] for name in (NEAREST_OUTPUT, FEATURES)}
        rest = self._graphs[1].run({name: padded(array, self.batch_size) for name, array in given.items()})
        rest = {name: array[: len(given[RGB_INPUT])] for name, array in rest.items()}
        if others.all():
            return replace(decision, probabilities=rest[PROBABILITIES_OUTPUT], gate=rest[GATE_OUTPUT])
        decision.probabilities[others], decision.gate[others] = rest[PROBABILITIES_OUTPUT], rest[GATE_OUTPUT]
        return decision

    def _first(self, depth: NDArray[np.uint8]) -> dict[str, NDArray[np.float32]]:
        """The outputs of the first file, without padding."""
        if not self._graphs:
            raise RuntimeError("run outside of `with`")
        check_num_pairs(len(depth), self.batch_size)
        found = self._graphs[0].run({DEPTH_INPUT: padded(depth, self.batch_size)})
        return {name: array[: len(depth)] for name, array in found.items()}

    def _decision(self, found: Arrays, *, from_depth: NDArray[np.bool_]) -> Decision:
        """The answers of the first file."""
        return Decision(
            probabilities=found[PROBABILITIES_OUTPUT],
            gate=np.ones((len(from_depth), self._gate_width), np.float32),
            nearest_m=found[NEAREST_OUTPUT][:, 0],
            from_depth=from_depth,
        )

    def _load(self, name: str) -> Graph:
        path, entry = self._bundle.file(name), self._bundle.manifest.files[name]
        if not self._is_openvino:
            return OnnxRuntimeGraph(path, num_threads=self._num_threads)
        return OpenVinoGraph(path, sha256=entry.sha256, precision=self._precision, num_threads=self._num_threads)

    def _facts(self) -> dict[str, Any]:
        """The part of the description that depends on the library; on OpenVINO, the first start on a CPU compares the outputs."""
        facts: dict[str, Any] = {"num_threads": self._num_threads or "one per core"}
        if not self._is_openvino:
            return {**facts, "provider": PROVIDERS["cpu"], "version": load_onnxruntime("cpu").__version__}
        version = load_openvino().__version__
        parity = check_first_open(
            self._bundle,
            self.complete,
            file=REST_FILE,
            precision=self._precision,
            num_threads=self._num_threads or usable_cores(),
            library=f"OpenVINO {version}",
            cpu=cpu_id(),
        )
        return {**facts, "provider": "OpenVINO CPU", "version": version.partition("-")[0], "parity": parity}

    def _tensor(self, name: str, dtype: str, *shape: int) -> Tensor:
        return Tensor(name=name, dtype=dtype, shape=(self.batch_size or "N", *shape))
