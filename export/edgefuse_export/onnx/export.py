"""Exports a run to a bundle: writes each file, opens it as the device will, compares its outputs, and publishes them together."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from edgefuse.adaptive import FILES, Adaptive
from edgefuse.bundle import (
    CONTENTS,
    MANIFEST_NAME,
    MODEL_NAME,
    MODEL_NAMES,
    NUM_SAMPLES,
    SAMPLES_NAME,
    Bundle,
    FileEntry,
    Manifest,
    Samples,
    model_metadata,
    open_bundle,
    write_manifest,
    write_samples,
)
from edgefuse.degraded_mode import Action, DegradedMode, choose_degraded_mode
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import (
    NUM_OF_DYNAMIC,
    TOLERANCES,
    ParityReport,
    Tolerance,
    check_parity,
    predicted_in_batches,
)
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.environment import EXPORT_PACKAGES, versions
from edgefuse.io.files import folder_replaced, refuse_existing
from edgefuse.io.new_files import held
from edgefuse.model.classifier import FusionClassifier
from edgefuse.progress import Progress, no_progress, step
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import Run, open_run
from edgefuse_export.onnx.adaptive import calibrate, compare, depth_classifier, write_files
from edgefuse_export.onnx.calibration_data import Frames, RunData, data_for
from edgefuse_export.onnx.check_precision import inside
from edgefuse_export.onnx.fp16 import fp32_modules
from edgefuse_export.onnx.fp16_search import Fp16Search
from edgefuse_export.onnx.int8 import describe_calibration, measured_ranges, quantised_modules
from edgefuse_export.onnx.int8_search import Int8Search
from edgefuse_export.onnx.layer_sensitivity import Fp32Selection, find_blocks, measure_sensitivity, select_fp32_blocks
from edgefuse_export.onnx.openvino_check import compare_on_openvino
from edgefuse_export.onnx.parity_error import NEXT_STEP, NOT_OPTIMISED, TORCH_FP32, refuse_differences
from edgefuse_export.onnx.torch_to_onnx import OPSET, Batch, onnx_from_model, save_model
from edgefuse_export.tensorrt.lint import check_file, refuse_unready
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.engines.openvino_parity import OPENVINO_TOLERANCES

PRECISIONS = tuple(MODEL_NAMES)
NUM_CALIBRATION_FRAMES = 128
NUM_MORE_FRAMES = 48  # to compare on, in addition to the run's 16, if its data exists
BATCH_SIZE = 16  # frames that PyTorch predicts at once
NUM_THREADS = min(os.cpu_count() or 1, 8)
"""Sessions, of one thread each, that run at the same time while INT8 is measured."""

_log = logging.getLogger(__name__)
_TRAINING_KEYS = ("data", "training", "epochs_done", "epoch_kept", "calibration")


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The bundle, and the comparisons of each file by its name; the first comparison shows the file's precision."""

    bundle: Bundle
    reports: dict[str, tuple[ParityReport, ...]]


def export_run(  # long: the options, and the order of the files
    run_folder: Path,
    out: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    keep_fp32: Sequence[str] = (),
    num_calibration_frames: int = NUM_CALIBRATION_FRAMES,
    batch: Batch = 1,
    adaptive: bool = False,
    force: bool = False,
    tolerances: Mapping[str, Tolerance] = TOLERANCES,
    no_rgb: Action | None = None,
    no_depth: Action | None = None,
    progress: Progress = no_progress,
) -> ExportSummary:
    """Export a run to a bundle.

    Args:
        run_folder: written by `edgefuse train`.
        out: the bundle folder; it is created complete or not at all.
        precisions: some of `PRECISIONS`; the FP32 file is always written, because the others depend on it.
        keep_fp32: modules that stay in FP32 in the FP16 and INT8 files, as glob patterns on their names.
        num_calibration_frames: of the training data, for INT8.
        batch: pairs in one run of the files: a fixed number, or "dynamic" for any number.
        adaptive: also write the FP32 model in two files (`edgefuse.adaptive`); it needs the run's validation pairs.
        force: overwrite an existing bundle.
        tolerances: precision -> largest accepted differences from the PyTorch model.
        no_rgb, no_depth: what live reports without that sensor; None = chosen from the run's held-out accuracy, see
            `choose_degraded_mode`.
        progress: called for each step, and with the number of pairs predicted and blocks measured.

    Raises:
        UserError: no run, an existing folder, "predict" without the model's only sensor, a pattern that matches nothing, or,
            for INT8 and `adaptive`, missing or changed data.
        ParityError: the outputs of a file differ; layers that overflow are named.
        NotReadyError: TensorRT does not support a file.
    """
    unknown = [precision for precision in precisions if precision not in PRECISIONS]
    if unknown:
        raise UserError(f"precision {unknown[0]!r} is unknown: some of {', '.join(PRECISIONS)} were expected")
    refuse_existing(out, force=force, marker=MANIFEST_NAME, contents=CONTENTS)
    run = open_run(run_folder)
    degraded_mode = choose_degraded_mode(
        run.metrics(), fusion=run.model_config.fusion, no_rgb=no_rgb, no_depth=no_depth
    )
    model = run.build_model()
    rgb, depth = run.samples()
    with ExitStack() as old_manifest_lock, folder_replaced(out, private=True) as folder:
        job = _Job(
            run=run,
            model=model,
            folder=folder,
            frames=Frames(rgb=rgb, depth=depth),
            tolerances=tolerances,
            keep_fp32=tuple(keep_fp32),
            batch=batch,
            degraded_mode=degraded_mode,
            progress=progress,
        )
        with step(progress, "reading the data"):
            data = data_for(run, precisions, adaptive=adaptive)
            if data is not None:
                job.frames = job.frames.and_more(data.held_out_frames(NUM_MORE_FRAMES))
        job.write_samples()
        job.write_fp32()
        if adaptive and data is not None:
            job.write_adaptive(data)
        if "fp16" in precisions:
            _log.info("FP16: compared in PyTorch, emulated, because ONNX Runtime on a CPU runs FP16 files in FP32")
            job.write_fp16()
        if "int8" in precisions:
            assert data is not None
            frames = data.training_frames(num_calibration_frames)
            _log.info("INT8: ranges from %d frames of the training data", len(frames.rgb))
            job.write_int8(frames)
        job.write_manifest()
        run.copy_card(folder)
        if (out / MANIFEST_NAME).is_file():  # a build that ends now writes to the old bundle or finds it replaced
            old_manifest_lock.enter_context(held(out / MANIFEST_NAME))
    return ExportSummary(bundle=open_bundle(out), reports=job.reports)


@dataclass(kw_only=True)
class _Job:
    """A bundle in progress: each `write_` method adds a file and its comparisons, or raises an error."""

    run: Run
    model: FusionClassifier
    folder: Path
    frames: Frames
    tolerances: Mapping[str, Tolerance]
    keep_fp32: tuple[str, ...]
    batch: Batch
    degraded_mode: DegradedMode
    progress: Progress
    files: dict[str, FileEntry] = field(default_factory=dict)
    reports: dict[str, tuple[ParityReport, ...]] = field(default_factory=dict)
    facts: dict[str, dict[str, Any]] = field(default_factory=dict)
    adaptive: Adaptive | None = None

    def write_samples(self) -> None:
        """Write 16 frames of the run with the outputs of the PyTorch model, to compare engines with."""
        rgb, depth = self.run.samples()
        chosen = Frames(rgb=rgb, depth=depth).repeated_to(NUM_SAMPLES)
        outputs = torch_predictor(self.model)(chosen.rgb, chosen.depth)
        samples = Samples(rgb=chosen.rgb, depth=chosen.depth, **outputs._asdict())
        self.files[SAMPLES_NAME] = write_samples(self.folder, samples)

    def write_fp32(self) -> None:
        self._write_onnx("fp32", self.model)
        self._add("fp32", self._report_of_engine("fp32"))

    def write_fp16(self) -> None:
        """Write the FP16 file: PyTorch shows the rounding, ONNX Runtime checks the file, which its CPU provider runs in FP32."""
        search = Fp16Search(
            model=self.model,
            frames=self.frames,
            keep_fp32=self.keep_fp32,
            compare=lambda predictor, name: self._report(
                "fp16", self._in_batches(predictor, stage="predicting in FP16"), name
            ),
        )
        kept = select_fp32_blocks(
            search.evaluate,
            passes=lambda found: not found.report.failures(),
            measure=lambda: self._sensitivity(
                "fp16", search.blocks, frames=self.frames, alone=search.alone, batch_size=BATCH_SIZE
            ),
            can_improve=lambda found: found.report.is_finite,  # layers that overflow are reported to the user
        )
        fp16, report = kept.evaluation.fp16, kept.evaluation.report
        refuse_differences(
            "fp16",
            report,
            hint=lambda: self._advice("fp16", kept) if report.is_finite else search.overflows(kept.evaluation),
        )
        self._log_selection("FP16", kept)
        self._write_onnx("fp16", fp16.model, fp32_modules=fp16.fp32_modules)
        facts = {"fp32_modules": list(fp16.fp32_modules), **kept.to_json()}
        self._add("fp16", report, self._report_of_engine("fp16"), **facts)

    def write_int8(self, frames: Frames) -> None:
        """Write the INT8 file: the unoptimised session shows the rounding, the optimised one is what `live` and `evaluate` run."""
        requested = fp32_modules(self.model, keep_fp32=self.keep_fp32)
        source, path = self.folder / MODEL_NAME, self.folder / MODEL_NAMES["int8"]
        contract, temperature = self.run.model_config.contract, self.model.temperature
        metadata = model_metadata(labels=self.run.labels, contract=contract, precision="int8", temperature=temperature)
        num_pairs = self.batch if isinstance(self.batch, int) else 1
        measuring = partial(self.progress, stage="measuring ranges for INT8")
        ranges = measured_ranges(source, frames=frames, num_threads=NUM_THREADS, progress=measuring)

        def write(quantised: Any) -> Path:
            with step(self.progress, f"writing {path.name}"):
                return save_model(quantised, path, metadata=metadata)

        def compare(predictor: Predictor) -> ParityReport:
            stage = f"comparing {path.name}, not optimised"
            candidate = self._in_batches(predictor, stage=stage, batch_size=num_pairs, num_threads=NUM_THREADS)
            return self._report("int8", candidate, f"{path.name} in ONNX Runtime on the CPU, not optimised")

        search = Int8Search(
            fp32=source,
            ranges=ranges,
            fp32_modules=requested,
            blocks=self._quantised_blocks(requested),
            write=write,
            compare=compare,
            compare_live=lambda: self._report_of_engine("int8"),
        )
        kept = select_fp32_blocks(
            search.evaluate,
            passes=lambda found: found.passes,
            measure=lambda: self._sensitivity(
                "int8", search.blocks, frames=frames, alone=search.alone, batch_size=num_pairs, num_threads=NUM_THREADS
            ),
        )
        if not kept.passes:
            kept = replace(kept, evaluation=search.evaluate_file(kept.blocks))  # names values that are not finite
        report, live = kept.evaluation.report, kept.evaluation.live
        refuse_differences("int8", report, hint=lambda: self._advice("int8", kept))
        assert live is not None
        refuse_differences("int8", live, hint=lambda: NOT_OPTIMISED + self._advice("int8", kept))
        self._log_selection("INT8", kept)
        facts = {"fp32_modules": [*requested, *kept.blocks], **kept.to_json()}
        self._add("int8", report, live, **facts, calibration=describe_calibration(frames))

    def write_adaptive(self, data: RunData) -> None:
        """Write the FP32 model in two files, after calibrating the depth head on the run's validation pairs."""
        contract, labels = self.run.model_config.contract, self.run.labels
        with step(self.progress, f"writing and comparing {', '.join(FILES)}"):
            depth_model = depth_classifier(self.model)
            self.adaptive = calibrate(depth_model, self.model, run=self.run, data=data)
            write_files(self.folder, self.model, depth_model, contract=contract, labels=labels, batch=self.batch)
            self.files |= {name: FileEntry.of(self.folder / name, precision="fp32") for name in FILES}
            self.write_manifest()
            reports = compare(self.folder, self.model, depth_model, self.frames, tolerance=self.tolerances["fp32"])
        for name, report in reports.items():
            refuse_differences("fp32", report)
            self.reports[name] = (report,)
            _log.info("%s", _line(self.folder / name, report))

    def write_manifest(self) -> None:
        parity = {
            name: {
                **reports[0].to_json(),
                **({"file": reports[1].to_json()} if len(reports) > 1 else {}),
                **self.facts.get(name, {}),
            }
            for name, reports in self.reports.items()
        }
        config = self.run.model_config
        model: dict[str, Any] = {key: value for key, value in config.to_json().items() if key != "contract"}
        info = {**self.run.info, "calibration": self.run.metrics().get("calibration")}
        manifest = Manifest(
            labels=self.run.labels,
            contract=config.contract,
            model={**model, "batch_size": self.batch, "opset": OPSET},
            files=self.files,
            parity=parity,
            versions=versions(EXPORT_PACKAGES),
            training={key: info[key] for key in _TRAINING_KEYS if info.get(key)},
            degraded_mode=self.degraded_mode,
            adaptive=self.adaptive,
        )
        write_manifest(self.folder, manifest)

    def _write_onnx(self, precision: str, model: FusionClassifier, **more: Any) -> None:
        contract, labels = self.run.model_config.contract, self.run.labels
        path = self.folder / MODEL_NAMES[precision]
        with step(self.progress, f"writing {path.name}"):
            onnx_from_model(model, path, contract=contract, labels=labels, batch=self.batch, **more)

    def _add(self, precision: str, *reports: ParityReport, **facts: Any) -> None:
        """Add a file to the bundle after checking its reports."""
        for report in reports:
            refuse_differences(precision, report)
        name = MODEL_NAMES[precision]
        self.reports[name] = reports
        self.facts[name] = {**facts, "tensorrt": refuse_unready(check_file(self.folder / name), what=name).to_json()}
        self.files[name] = FileEntry.of(self.folder / name, precision=precision)
        _log.info("%s", _line(self.folder / name, reports[0]))
        self.write_manifest()
        self.facts[name] |= compare_on_openvino(self.folder, precision, self._report, progress=self.progress)

    def _report_of_engine(self, precision: str) -> ParityReport:
        """Compare the file on the engine that live uses, opened like live opens it."""
        name = MODEL_NAMES[precision]
        self.files[name] = FileEntry.of(self.folder / name, precision=precision)
        self.write_manifest()
        with (
            step(self.progress, f"comparing {name} in ONNX Runtime"),
            Classifier(self.folder, file=name, engine="cpu") as classifier,
        ):
            what, num = f"{name} in ONNX Runtime on the CPU", classifier.batch_size or NUM_OF_DYNAMIC
            return self._report(precision, classifier.predict_framed, what, batch_size=num)

    @cached_property
    def _reference(self) -> Predictor:
        return self._in_batches(torch_predictor(self.model), stage="predicting in FP32")

    def _in_batches(
        self, predictor: Predictor, *, stage: str, batch_size: int = BATCH_SIZE, num_threads: int = 1
    ) -> Predictor:
        return predicted_in_batches(
            predictor,
            rgb=self.frames.rgb,
            depth=self.frames.depth,
            contract=self.run.model_config.contract,
            batch_size=batch_size,
            num_threads=num_threads,
            progress=partial(self.progress, stage=stage),
        )

    def _report(self, precision: str, candidate: Predictor, name: str, *, batch_size: int = 1) -> ParityReport:
        return check_parity(
            reference=self._reference,
            candidate=candidate,
            reference_name=TORCH_FP32,
            candidate_name=name,
            rgb=self.frames.rgb,
            depth=self.frames.depth,
            contract=self.run.model_config.contract,
            tolerance=self.tolerances.get(precision, OPENVINO_TOLERANCES[precision]),
            batch_size=batch_size,
        )

    def _sensitivity(self, precision: str, blocks: Sequence[str], **more: Any) -> dict[str, float]:
        name = precision.upper()
        _log.info("%s outputs exceed the tolerance: measuring the sensitivity of %d blocks", name, len(blocks))
        return measure_sensitivity(
            blocks,
            contract=self.run.model_config.contract,
            tolerance=self.tolerances[precision],
            reference=torch_predictor(self.model),
            progress=partial(self.progress, stage=f"measuring blocks in {name}"),
            **more,
        )

    def _quantised_blocks(self, outside: Sequence[str]) -> tuple[str, ...]:
        """Blocks with operators to quantise in the FP32 file: the exporter may have folded layers of others."""
        names = quantised_modules(self.folder / MODEL_NAME)
        return tuple(b for b in find_blocks(self.model, outside=outside) if any(inside(name, (b,)) for name in names))

    def _log_selection(self, what: str, kept: Fp32Selection[Any]) -> None:
        if kept.blocks:
            counts = (len(kept.blocks), len(kept.sensitivity))
            _log.info("%s keeps %d of %d blocks in FP32: %s", what, *counts, kept.describe())

    def _advice(self, precision: str, kept: Fp32Selection[Any]) -> str:
        """The blocks to keep in FP32, and the alternatives."""
        return "\n".join(text for text in (kept.next_step(self.keep_fp32), NEXT_STEP[precision]) if text)


def _line(path: Path, report: ParityReport) -> str:
    """The line that is logged for a file that passed."""
    size_mb, found = path.stat().st_size / 1e6, report.together
    return f"{path.name:<15} {size_mb:6.1f} MB  {found.top1_flips} of {found.num_samples} predictions changed  pass"
