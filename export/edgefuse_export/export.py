"""One export from a run to a bundle: write, open it as the device will, compare, and only then let it appear."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from edgefuse.bundle import MANIFEST_NAME, MODEL_NAME, Bundle, FileEntry, Manifest, open_bundle, write_manifest
from edgefuse.errors import UserError
from edgefuse.fallback import Answer, Fallback, choose_fallback
from edgefuse.files import folder_replaced, refuse_existing
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import Run, open_run
from edgefuse.training.train import versions
from edgefuse_export.onnx_model import BATCH_SIZE, OPSET, onnx_from_model
from edgefuse_export.parity import FP32_TOLERANCE, ParityReport, Tolerance, check_parity
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.predictor import engine_predictor


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The bundle that was written, and the proof."""

    bundle: Bundle
    parity: ParityReport


class ParityError(UserError):
    """The exported file does not give the torch model's answers; no bundle was written."""


def export_run(  # long: the order of the proof, one step a line
    run_folder: Path,
    out: Path,
    *,
    force: bool = False,
    tolerance: Tolerance = FP32_TOLERANCE,
    no_rgb: Answer | None = None,
    no_depth: Answer | None = None,
) -> ExportSummary:
    """Export a run to a bundle with one FP32 ONNX file.

    Args:
        run_folder: what `edgefuse train` left.
        out: the bundle to make; it appears whole or not at all.
        force: replace a bundle that stands at `out`.
        tolerance: largest differences from the torch model that pass.
        no_rgb, no_depth: what live reports with that sensor dead; None = by the run's held-out figures, see `choose_fallback`.

    Raises:
        UserError: no run, an existing folder, or a label asked for without the model's only sensor.
        ParityError: the file's answers differ.
    """
    refuse_existing(out, force=force, marker=MANIFEST_NAME)
    run = open_run(run_folder)
    fallback = choose_fallback(run.metrics(), fusion=run.model_config.fusion, no_rgb=no_rgb, no_depth=no_depth)
    model = run.build_model()
    rgb, depth = run.samples()
    contract = run.model_config.contract
    with folder_replaced(out) as folder:
        onnx_from_model(model, folder / MODEL_NAME, contract=contract, labels=run.labels)
        manifest = _manifest(run, folder, fallback=fallback)
        write_manifest(folder, manifest)
        with open_engine(open_bundle(folder), engine="cpu") as engine:
            report = check_parity(
                reference=torch_predictor(model),
                candidate=engine_predictor(engine),
                reference_name="torch fp32 on the CPU",
                candidate_name=f"{MODEL_NAME} in ONNX Runtime on the CPU",
                rgb=rgb,
                depth=depth,
                contract=contract,
                tolerance=tolerance,
            )
        failures = report.failures()
        if failures:
            raise ParityError(
                "the exported file does not give the model's answers, so no bundle was written:\n  "
                + "\n  ".join(failures)
                + "\nExport again with another torch or onnxruntime version, or report this with the run folder"
            )
        write_manifest(folder, replace(manifest, parity={MODEL_NAME: report.to_json()}))
    return ExportSummary(bundle=open_bundle(out), parity=report)


def _manifest(run: Run, folder: Path, *, fallback: Fallback) -> Manifest:
    model: dict[str, Any] = {key: value for key, value in run.model_config.to_json().items() if key != "contract"}
    return Manifest(
        labels=run.labels,
        contract=run.model_config.contract,
        model={**model, "batch_size": BATCH_SIZE, "opset": OPSET},
        files={MODEL_NAME: FileEntry.of(folder / MODEL_NAME, precision="fp32")},
        versions=_versions(),
        training={key: run.info[key] for key in ("data", "training", "epochs_done", "epoch_kept") if key in run.info},
        fallback=fallback,
    )


def _versions() -> dict[str, str]:
    from importlib.metadata import version

    return {**versions(), **{package: version(package) for package in ("onnx", "onnxscript")}}
