"""Runs and models for the export tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

from edgefuse.contract import InputContract
from edgefuse.evaluation.compare_outputs import FP32_TOLERANCE, ParityReport, check_parity
from edgefuse.evaluation.metrics import Predictor
from edgefuse.model.classifier import FusionClassifier, ModelConfig, build_classifier
from edgefuse.model.fusion import JointFusion
from edgefuse.training.run import open_run, write_weights

CONTRACT = InputContract(size=32)
LABELS = ("a", "b", "c")
RUN_FILES = ("run.json", "model.safetensors", "samples.npz")


def samples(n: int = 4, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (n, 32, 32, 3), dtype=np.uint8)
    return rgb, rng.integers(0, 256, (n, 32, 32, 2), dtype=np.uint8)


def parity_in_fp32(reference: Predictor, candidate: Predictor, *, n: int = 4) -> ParityReport:
    """The comparison of an export, on random frames and the edge cases."""
    rgb, depth = samples(n)
    return check_parity(
        reference=reference,
        candidate=candidate,
        reference_name="a",
        candidate_name="b",
        rgb=rgb,
        depth=depth,
        contract=CONTRACT,
        tolerance=FP32_TOLERANCE,
    )


def tensors(n: int = 4, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    rgb, depth = samples(n, seed)
    return torch.from_numpy(rgb), torch.from_numpy(depth)


def new_model(fusion: str = "gated", *, contract: InputContract = CONTRACT, **more: object) -> FusionClassifier:
    torch.manual_seed(0)
    config = ModelConfig(contract=contract, num_classes=3, fusion=fusion, **more)  # type: ignore[arg-type]
    return build_classifier(config).eval()


def overflowing(model: FusionClassifier, *, factor: float = 1e7) -> FusionClassifier:
    """The same outputs in FP32, but the RGB features are `factor` times as large, which exceeds the range of FP16."""
    assert model.rgb_features is not None
    project, core = model.rgb_features.project[0], model.core
    readers = [core.auxiliary_heads.rgb if core.head is None and core.auxiliary_heads is not None else core.head[0]]  # type: ignore[index]
    if isinstance(core.fusion, JointFusion):
        readers.append(core.fusion.W)
    assert isinstance(project, nn.Linear)
    with torch.no_grad():
        project.weight *= factor
        project.bias *= factor
        for reader in readers:
            reader.weight[:, : project.out_features] /= factor
    return model


def copy_run(source: Path, target: Path) -> Path:
    target.mkdir()
    for name in RUN_FILES:
        (target / name).write_bytes((source / name).read_bytes())
    return target


def overflowing_run(source: Path, target: Path) -> Path:
    copy_run(source, target)
    write_weights(target, overflowing(open_run(source).build_model()))
    return target
