"""Depth images that make NaN where a graph divides by a statistic of depth: each is compared, and a planted NaN is found."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from export_runs import CONTRACT, LABELS, new_model, parity_in_fp32
from torch import Tensor, nn

from edgefuse.errors import UserError
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import Run
from edgefuse_export.onnx.export import ExportSummary, export_run
from edgefuse_export.onnx.torch_to_onnx import onnx_from_model
from edgefuse_export.ort_reference import reference_predictor


def spread(depth: Tensor) -> Tensor:
    """Sum of squared differences from the mean: 0 if all depth is equal."""
    return ((depth[:, :1] - depth[:, :1].mean((2, 3), keepdim=True)) ** 2).sum((2, 3), keepdim=True)


def degrees_of_freedom(depth: Tensor) -> Tensor:
    """The divisor of an unbiased variance: 0 with one measurement."""
    return depth[:, 1:].sum((2, 3), keepdim=True) - 1


def height(depth: Tensor) -> Tensor:
    """Largest minus smallest number of measurements above a row: 0 if only one row is valid, or none."""
    rows = depth[:, 1:].amax(3, keepdim=True)
    return rows.sum(2, keepdim=True) - rows.amax(2, keepdim=True)


def num_neighbours(depth: Tensor) -> Tensor:
    """Horizontal pairs of measurements: 0 if every other pixel is valid."""
    return (depth[:, 1:, :, 1:] * depth[:, 1:, :, :-1]).sum((2, 3), keepdim=True)


STATISTICS: dict[str, Callable[[Tensor], Tensor]] = {
    "all depth equal": spread,
    "one valid pixel": degrees_of_freedom,
    "one valid row": height,
    "alternating 0, 65535": num_neighbours,
}


class DividedBy(nn.Module):
    """An encoding, divided and multiplied by a statistic of the depth image."""

    def __init__(self, encode: nn.Module, statistic: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.encode = encode
        self._statistic = statistic

    def forward(self, depth_N2SS: Tensor, nearest_m: Tensor) -> Tensor:
        statistic = self._statistic(depth_N2SS)
        return self.encode(depth_N2SS, nearest_m) / statistic * statistic  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", STATISTICS)
def test_a_division_by_zero_is_found_on_its_frame(name: str, tmp_path: Path) -> None:
    healthy, planted = new_model(), new_model()
    planted.encode = DividedBy(planted.encode, STATISTICS[name])  # type: ignore[assignment]
    path = onnx_from_model(planted, tmp_path / "m.onnx", contract=CONTRACT, labels=LABELS)
    report = parity_in_fp32(torch_predictor(healthy), reference_predictor(path), n=2)
    not_finite = {case.name for case in report.cases if case.num_not_finite}
    assert name in not_finite and "real samples" not in not_finite
    assert any(failure.startswith(f"{name}: values that are not finite") for failure in report.failures())


def test_every_file_is_compared_on_each_of_these_frames(all_precisions: ExportSummary) -> None:
    assert len(all_precisions.reports) == 3
    for reports in all_precisions.reports.values():
        for report in reports:
            assert {case.name for case in report.cases} >= set(STATISTICS)


def test_an_export_whose_file_divides_by_zero_names_the_frame(
    trained_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build = Run.build_model

    def planted(run: Run) -> nn.Module:
        model = build(run)
        model.encode = DividedBy(model.encode, degrees_of_freedom)  # type: ignore[assignment]
        return model

    monkeypatch.setattr(Run, "build_model", planted)
    with pytest.raises(UserError, match=r"^one valid pixel: model\.onnx has NaN or infinity in its output for 1 of 1"):
        export_run(trained_run, tmp_path / "bundle")
    assert list(tmp_path.iterdir()) == []
