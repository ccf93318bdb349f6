"""A bundle's ONNX file on ONNX Runtime's CPU provider."""

from __future__ import annotations

import json
import time
import warnings
from collections.abc import Mapping
from importlib import metadata
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse import framing
from edgefuse.bundle import MODEL_NAME, Bundle
from edgefuse.contract import DEPTH_INPUT, GATE_OUTPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract, check_batch
from edgefuse.errors import UserError, require
from edgefuse_runtime.engines.engine import Decision

PROVIDER = "CPUExecutionProvider"


class OnnxRuntimeEngine:
    """One ONNX Runtime session. See `Engine` for the protocol."""

    def __init__(self, bundle: Bundle, *, file: str = MODEL_NAME, num_threads: int | None = None) -> None:
        """Name the file; `with` checks and loads it.

        Args:
            file: name of a file of the bundle.
            num_threads: threads inside one operator; None = ONNX Runtime's choice, one for each core. For tiny models one
                thread has the best tail.
        """
        self._bundle = bundle
        self._file = file
        self._num_threads = num_threads
        self._session: Any = None
        self._description: dict[str, Any] = {"engine": "onnxruntime", "file": file}

    @property
    def labels(self) -> tuple[str, ...]:
        return self._bundle.manifest.labels

    @property
    def contract(self) -> InputContract:
        return self._bundle.manifest.contract

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    def __enter__(self) -> OnnxRuntimeEngine:
        started_s = time.perf_counter()
        ort = require("onnxruntime", extra="runtime")
        _warn_of_two_packages()
        path = self._bundle.file(self._file)
        options = ort.SessionOptions()
        options.log_severity_level = 3
        # Spinning costs the other threads of a live loop more than it gains: 34 instead of 63 ms at p99 on shared cores.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        # CPUs without VNNI saturate in the quick 8-bit kernels: accuracy fell from 90 to 32 %. No effect on the others.
        options.add_session_config_entry("session.x64quantprecision", "1")
        if self._num_threads is not None:
            options.intra_op_num_threads = self._num_threads
        try:
            session = ort.InferenceSession(str(path), options, providers=[PROVIDER])
        except Exception as error:  # ONNX Runtime's exceptions share no base class of their own
            raise UserError(f"{path} does not load in ONNX Runtime {ort.__version__}: {error}") from error
        where = f"{self._bundle.folder}/{self._file}"
        _check_session(session, self.contract, num_labels=len(self.labels), where=where)
        _check_metadata(session.get_modelmeta().custom_metadata_map, self._bundle, where=where)
        self._session = session
        side = self.contract.size
        self.run(np.zeros((1, side, side, 3), np.uint8), np.zeros((1, side, side, 2), np.uint8))
        self._description |= {
            "provider": session.get_providers()[0],
            "precision": self._bundle.manifest.files[self._file].precision,
            "num_threads": self._num_threads if self._num_threads is not None else "one per core",
            "version": ort.__version__,
            "start_ms": round((time.perf_counter() - started_s) * 1e3, 1),
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._session = None

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self._session is None:
            raise RuntimeError("run outside of `with`")
        check_batch(rgb, depth, self.contract)
        probabilities, gate = self._session.run(
            [PROBABILITIES_OUTPUT, GATE_OUTPUT], {RGB_INPUT: rgb, DEPTH_INPUT: depth}
        )
        return Decision(probabilities=probabilities, gate=gate)


def _check_session(session: Any, contract: InputContract, *, num_labels: int, where: str) -> None:
    """Refuse a file whose inputs, outputs or provider are not what the manifest promises."""
    used = session.get_providers()
    if used[0] != PROVIDER:
        raise UserError(f"{where} runs on {used[0]} instead of {PROVIDER}: install onnxruntime again")
    side = contract.size
    expected = {RGB_INPUT: [side, side, 3], DEPTH_INPUT: [side, side, 2]}
    inputs = {value.name: value for value in session.get_inputs()}
    outputs = {value.name: value for value in session.get_outputs()}
    for name, tail in expected.items():
        value = inputs.get(name)
        found = "nothing" if value is None else f"{value.type} {value.shape}"
        batch_fits = (
            value is not None and len(value.shape) == 4 and (value.shape[0] == 1 or isinstance(value.shape[0], str))
        )
        if value is None or value.type != "tensor(uint8)" or not batch_fits or list(value.shape[1:]) != tail:
            raise UserError(
                f"{where} takes {found} as {name}, its manifest promises tensor(uint8) {[1, *tail]}: "
                f"export again: edgefuse export RUN --out BUNDLE"
            )
    missing = {PROBABILITIES_OUTPUT, GATE_OUTPUT} - set(outputs)
    extra = set(inputs) - set(expected)
    if missing or extra:
        raise UserError(
            f"{where} lacks the outputs {sorted(missing)} or has further inputs {sorted(extra)}: "
            f"export again: edgefuse export RUN --out BUNDLE"
        )
    num_classes = outputs[PROBABILITIES_OUTPUT].shape[-1]
    if isinstance(num_classes, int) and num_classes != num_labels:
        raise UserError(
            f"{where} tells {num_classes} classes apart, its manifest has {num_labels} labels: "
            f"export again: edgefuse export RUN --out BUNDLE"
        )


def _check_metadata(found: Mapping[str, str], bundle: Bundle, *, where: str) -> None:
    """Refuse a manifest that was changed after the export: the file says labels, contract and framing as well."""
    manifest = bundle.manifest
    for key, promised in (
        ("edgefuse.labels", list(manifest.labels)),
        ("edgefuse.contract", manifest.contract.to_json()),
        ("edgefuse.framing", {**framing.SPEC, "sha256": manifest.framing_sha256}),
    ):
        if key in found and json.loads(found[key]) != promised:
            raise UserError(
                f"{where} and the manifest beside it differ in {key.removeprefix('edgefuse.')}: one of them was changed "
                f"after the export; export again: edgefuse export RUN --out BUNDLE"
            )


def _warn_of_two_packages() -> None:
    """Both packages write into one folder, and CUDA breaks (onnxruntime#26996)."""
    found = []
    for name in ("onnxruntime", "onnxruntime-gpu"):
        try:
            metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found.append(name)
    if len(found) == 2:
        warnings.warn(
            "both onnxruntime and onnxruntime-gpu are installed, which breaks CUDA: "
            "pip uninstall -y onnxruntime onnxruntime-gpu, then install one of them",
            stacklevel=3,
        )
