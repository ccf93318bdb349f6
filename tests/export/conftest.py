"""A small trained run for several export tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse.bundle import Bundle
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.trainer import train
from edgefuse_export.onnx.export import ExportSummary, export_run


@pytest.fixture(scope="session")
def trained_run(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = TrainConfig(size=32, epochs=6, batch_size=8, num_features=32, num_hidden=32)
    return train([colour_and_range], tmp_path_factory.mktemp("runs") / "run", config=config).folder


@pytest.fixture(scope="session")
def all_precisions(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> ExportSummary:
    out = tmp_path_factory.mktemp("bundles") / "all"
    return export_run(trained_run, out, precisions=("fp32", "fp16", "int8"), num_calibration_frames=20)


@pytest.fixture(scope="session")
def adaptive_bundle(trained_run: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """The run in FP32, with the two files of adaptive computing."""
    return export_run(trained_run, tmp_path_factory.mktemp("adaptive") / "bundle", adaptive=True).bundle
