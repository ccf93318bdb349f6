"""Bundles with the two files of adaptive computing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from export_runs import CONTRACT, LABELS, new_model
from numpy.typing import NDArray

from edgefuse.adaptive import FILES, Adaptive
from edgefuse.bundle import MODEL_NAME, Bundle, FileEntry, Manifest, open_bundle, write_manifest
from edgefuse.model.classifier import FusionClassifier
from edgefuse_export.onnx.adaptive import depth_classifier, write_files
from edgefuse_export.onnx.torch_to_onnx import Batch, onnx_from_model
from edgefuse_runtime.engines.adaptive import AdaptiveEngine

TEMPERATURE = 0.02
"""Of the depth heads: the answers of untrained ones are nearly the same for every pair, and differ clearly at this temperature."""


def untrained_bundle(folder: Path, fusion: str, *, batch: Batch = 1) -> tuple[Bundle, FusionClassifier]:
    """A bundle of an untrained model in FP32, and its depth head as a model."""
    folder.mkdir()
    model = new_model(
        fusion,
        num_features=16,
        num_hidden=16,
        auxiliary_heads=True,
        frame_gate=fusion == "spatial",
        temperature=0.1,
        temperature_no_rgb=0.2,
    )
    depth_model = depth_classifier(model)
    depth_model.temperature = TEMPERATURE
    onnx_from_model(model, folder / MODEL_NAME, contract=CONTRACT, labels=LABELS, batch=batch)
    write_files(folder, model, depth_model, contract=CONTRACT, labels=LABELS, batch=batch)
    manifest = Manifest(
        labels=LABELS,
        contract=CONTRACT,
        model={"fusion": fusion, "batch_size": batch, "temperature": 0.1},
        files={name: FileEntry.of(folder / name, precision="fp32") for name in (MODEL_NAME, *FILES)},
        adaptive=Adaptive(temperature=TEMPERATURE, num_pairs=1, accuracy=1.0, depth_accuracy=1.0, curve=()),
    )
    write_manifest(folder, manifest)
    return open_bundle(folder), depth_model


def confidences(bundle: Bundle, depth: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The largest probability of the depth head for each framed depth image, each in a run of its own."""
    with AdaptiveEngine(bundle, threshold=1.0) as engine:
        return np.array([engine.depth_alone(depth[i : i + 1]).probabilities.max() for i in range(len(depth))])
