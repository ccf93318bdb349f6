"""One export from a run to a bundle: write each file, open it as the device will, compare, and only then let all of it appear."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
from edgefuse.evaluation.metrics import Predictor
from edgefuse.io.environment import EXPORT_PACKAGES, versions
from edgefuse.io.files import folder_replaced, refuse_existing
from edgefuse.io.new_files import held
from edgefuse.model.classifier import FusionClassifier
from edgefuse.progress import Progress, no_progress
from edgefuse.training.loop import torch_predictor
from edgefuse.training.run import Run, open_run
from edgefuse_export.compare_outputs import NUM_OF_DYNAMIC, TOLERANCES, ParityReport, Tolerance, check_parity
from edgefuse_export.onnx.activation_statistics import ITSELF, OnnxActivationObserver, TorchActivationObserver
from edgefuse_export.onnx.calibration_data import Frames, data_for
from edgefuse_export.onnx.check_precision import inside
from edgefuse_export.onnx.fp16 import FP16_MAX, Fp16Model, fold_frozen_batchnorm, fp16_from_model, fp32_modules
from edgefuse_export.onnx.int8 import describe_calibration, int8_from_onnx, measured_ranges, quantised_modules
from edgefuse_export.onnx.layer_sensitivity import Kept, blocks_of, keep_until_it_holds, measure_drift
from edgefuse_export.onnx.torch_to_onnx import OPSET, Batch, onnx_from_model, save_model
from edgefuse_export.ort_reference import reference_predictor
from edgefuse_export.tensorrt.lint import check_file
from edgefuse_runtime.classifier import Classifier

PRECISIONS = tuple(MODEL_NAMES)
NUM_CALIBRATION_FRAMES = 128
NUM_MORE_FRAMES = 48
"""Frames for parity besides the run's 16, where its data is still there. Half takes 13 times as long as FP32 on a CPU."""

TORCH_FP32 = "torch fp32 on the CPU"
_log = logging.getLogger(__name__)
_OF_THE_RUN = ("data", "training", "epochs_done", "epoch_kept", "calibration")


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The bundle that was written, and the proof: file name -> its comparisons; the first one is the file's precision at work."""

    bundle: Bundle
    reports: dict[str, tuple[ParityReport, ...]]


class ParityError(UserError):
    """An exported file does not give the torch model's answers; no bundle was written."""


def export_run(  # long: what may be asked for, and the order of the proof
    run_folder: Path,
    out: Path,
    *,
    precisions: Sequence[str] = ("fp32",),
    keep_fp32: Sequence[str] = (),
    num_calibration_frames: int = NUM_CALIBRATION_FRAMES,
    batch: Batch = 1,
    force: bool = False,
    tolerances: Mapping[str, Tolerance] = TOLERANCES,
    no_rgb: Action | None = None,
    no_depth: Action | None = None,
    progress: Progress = no_progress,
) -> ExportSummary:
    """Export a run to a bundle.

    Args:
        run_folder: what `edgefuse train` left.
        out: the bundle to make; it appears whole or not at all.
        precisions: some of `PRECISIONS`; the FP32 file is always made, the others stand on it.
        keep_fp32: modules that stay in FP32 in the FP16 and INT8 files, as glob patterns on their names.
        num_calibration_frames: of the training data, for INT8.
        batch: pairs in one run of the files: a fixed number, or "dynamic" for any number.
        force: replace a bundle that stands at `out`.
        tolerances: precision -> largest differences from the torch model that pass.
        no_rgb, no_depth: what live reports with that sensor dead; None = by the run's held-out figures, see `choose_degraded_mode`.
        progress: called with the blocks measured and their number, where a file needs a search for the layers to keep in FP32.

    Raises:
        UserError: no run, an existing folder, a label asked for without the model's only sensor, a pattern that matches
            nothing, or, for INT8, training data that is gone or differs.
        ParityError: a file's answers differ; the layer that overflows is named.
        NotReadyError: TensorRT would refuse a file.
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
    with ExitStack() as held_until_it_is_replaced, folder_replaced(out, private=True) as folder:
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
        data = data_for(run, precisions)
        if data is not None:
            job.frames = job.frames.and_more(data.held_out_frames(NUM_MORE_FRAMES))
        job.write_samples()
        job.write_fp32()
        if "fp16" in precisions:
            _log.info("FP16: layers in half, compared with torch in half on the CPU, which rounds as a GPU does")
            job.write_fp16()
        if "int8" in precisions:
            assert data is not None
            frames = data.training_frames(num_calibration_frames)
            _log.info("INT8: ranges from %d frames of the training data", len(frames.rgb))
            job.write_int8(frames)
        job.write_manifest()
        if (out / MANIFEST_NAME).is_file():  # a build that ends now writes into this bundle or finds it replaced
            held_until_it_is_replaced.enter_context(held(out / MANIFEST_NAME))
    return ExportSummary(bundle=open_bundle(out), reports=job.reports)


@dataclass(kw_only=True)
class _Job:
    """A bundle as it grows: each `write_` adds one file and its proof, or raises."""

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

    def write_samples(self) -> None:
        """16 of the run's frames with the torch model's answers, for whoever builds an engine from the bundle."""
        rgb, depth = self.run.samples()
        chosen = Frames(rgb=rgb, depth=depth).repeated_to(NUM_SAMPLES)
        probabilities, gate = torch_predictor(self.model)(chosen.rgb, chosen.depth)
        samples = Samples(rgb=chosen.rgb, depth=chosen.depth, probabilities=probabilities, gate=gate.astype(np.float32))
        self.files[SAMPLES_NAME] = write_samples(self.folder, samples)

    def write_fp32(self) -> None:
        self._write_onnx("fp32", self.model)
        self._add("fp32", self._report_of_engine("fp32"))

    def write_fp16(self) -> None:
        """Torch in half proves the precision, ONNX Runtime the file: its CPU provider reads half, but computes in FP32."""
        blocks = blocks_of(self.model, outside=fp32_modules(self.model, keep_fp32=self.keep_fp32))

        def alone(block: str) -> Predictor:
            return torch_predictor(self._half([other for other in blocks if other != block]).model)

        kept = keep_until_it_holds(
            self._prove_fp16,
            holds=lambda proof: not proof.report.failures(),
            measure=lambda: self._drift("fp16", blocks, frames=self.frames, alone=alone),
            worth_it=lambda proof: proof.report.is_finite,  # what overflows is named for the user to decide about
        )
        half, report = kept.proof.half, kept.proof.report
        self._refuse(
            "fp16",
            report,
            hint=lambda: self._advice("fp16", kept) if report.is_finite else self._overflows(kept.proof),
        )
        self._say_kept("FP16", kept)
        self._write_onnx("fp16", half.model, fp32_modules=half.fp32_modules)
        facts = {"fp32_modules": list(half.fp32_modules), **kept.to_json()}
        self._add("fp16", report, self._report_of_engine("fp16"), **facts)

    def write_int8(self, frames: Frames) -> None:
        """The file as it stands proves the 8 bits, the optimised session what `live` and `evaluate` run."""
        asked = fp32_modules(self.model, keep_fp32=self.keep_fp32)
        source, path = self.folder / MODEL_NAME, self.folder / MODEL_NAMES["int8"]
        contract, temperature = self.run.model_config.contract, self.model.temperature
        metadata = model_metadata(labels=self.run.labels, contract=contract, precision="int8", temperature=temperature)
        ranges = measured_ranges(source, frames=frames)

        def prove(blocks: tuple[str, ...]) -> _Int8Proof:
            quantised = int8_from_onnx(source, ranges=ranges, fp32_modules=(*asked, *blocks))
            save_model(quantised, path, metadata=metadata)
            observer = OnnxActivationObserver(path)
            report = self._report("int8", observer, f"{path.name} in ONNX Runtime on the CPU, not optimised")
            report = replace(report, activations=observer.activations.to_json())
            return _Int8Proof(report=report, live=None if report.failures() else self._report_of_engine("int8"))

        def alone(block: str) -> Predictor:
            quantised = int8_from_onnx(source, ranges=ranges, fp32_modules=asked, only=(block,))
            return reference_predictor(quantised.SerializeToString())

        kept = keep_until_it_holds(
            prove,
            holds=lambda proof: proof.live is not None and not proof.live.failures(),
            measure=lambda: self._drift("int8", self._quantised_blocks(asked), frames=frames, alone=alone),
        )
        report, live = kept.proof.report, kept.proof.live
        self._refuse("int8", report, hint=lambda: self._advice("int8", kept))
        assert live is not None
        self._refuse("int8", live, hint=lambda: _NOT_OPTIMISED + self._advice("int8", kept))
        self._say_kept("INT8", kept)
        facts = {"fp32_modules": [*asked, *kept.blocks], **kept.to_json()}
        self._add("int8", report, live, **facts, calibration=describe_calibration(frames))

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
            training={key: info[key] for key in _OF_THE_RUN if info.get(key)},
            degraded_mode=self.degraded_mode,
        )
        write_manifest(self.folder, manifest)

    def _write_onnx(self, precision: str, model: FusionClassifier, **more: Any) -> None:
        contract, labels = self.run.model_config.contract, self.run.labels
        path = self.folder / MODEL_NAMES[precision]
        onnx_from_model(model, path, contract=contract, labels=labels, batch=self.batch, **more)

    def _add(self, precision: str, *reports: ParityReport, **facts: Any) -> None:
        """Keep a file that was proved."""
        for report in reports:
            self._refuse(precision, report)
        name = MODEL_NAMES[precision]
        self.reports[name] = reports
        self.facts[name] = {**facts, "tensorrt": check_file(self.folder / name).to_json()}
        self.files[name] = FileEntry.of(self.folder / name, precision=precision)
        _log.info("%s", _line(self.folder / name, reports[0]))

    def _report_of_engine(self, precision: str) -> ParityReport:
        """The file on the engine that live uses, opened through the bundle as live opens it."""
        name = MODEL_NAMES[precision]
        self.files[name] = FileEntry.of(self.folder / name, precision=precision)
        self.write_manifest()
        with Classifier(self.folder, file=name, engine="cpu") as classifier:
            what, num = f"{name} in ONNX Runtime on the CPU", classifier.batch_size or NUM_OF_DYNAMIC
            return self._report(precision, classifier.predict_framed, what, batch_size=num)

    def _report(self, precision: str, candidate: Predictor, name: str, *, batch_size: int = 1) -> ParityReport:
        return check_parity(
            reference=torch_predictor(self.model),
            candidate=candidate,
            reference_name=TORCH_FP32,
            candidate_name=name,
            rgb=self.frames.rgb,
            depth=self.frames.depth,
            contract=self.run.model_config.contract,
            tolerance=self.tolerances[precision],
            batch_size=batch_size,
        )

    def _refuse(self, precision: str, report: ParityReport, *, hint: Callable[[], str] = lambda: "") -> None:
        failures = report.failures()
        if not failures:
            return
        shown = failures[:12] + ([f"... and {len(failures) - 12} more"] if len(failures) > 12 else [])
        raise ParityError(
            f"{report.candidate} does not give the model's answers, so no bundle was written:\n  "
            + "\n  ".join(shown)
            + f"\n{hint() or _NEXT_STEP[precision]}"
        )

    def _half(self, keep_fp32: Sequence[str]) -> Fp16Model:
        first = torch.from_numpy(self.frames.rgb[:1]), torch.from_numpy(self.frames.depth[:1])
        return fp16_from_model(self.model, rgb_NHWC=first[0], depth_NHW2=first[1], keep_fp32=keep_fp32)

    def _prove_fp16(self, blocks: tuple[str, ...]) -> _Fp16Proof:
        """The model in half, with the patterns that were asked for and `blocks` in FP32, compared on all frames."""
        half = self._half((*self.keep_fp32, *blocks))
        observer = TorchActivationObserver(dtype=torch.float16)
        with observer.on(half.model):
            report = self._report("fp16", torch_predictor(half.model), "torch with its layers in half on the CPU")
        report = replace(report, activations=observer.activations.to_json(limit=FP16_MAX))
        return _Fp16Proof(half=half, report=report)

    def _drift(
        self, precision: str, blocks: Sequence[str], *, frames: Frames, alone: Callable[[str], Predictor]
    ) -> dict[str, float]:
        name = precision.upper()
        _log.info("%s drifts too far: measuring which of %d blocks move the answers", name, len(blocks))
        return measure_drift(
            blocks,
            frames=frames,
            contract=self.run.model_config.contract,
            tolerance=self.tolerances[precision],
            reference=torch_predictor(self.model),
            alone=alone,
            progress=partial(self.progress, stage=f"measuring layers in {name}"),
        )

    def _quantised_blocks(self, outside: Sequence[str]) -> tuple[str, ...]:
        """Blocks with something in the FP32 file that would be quantised: the exporter may have folded a layer away."""
        named = quantised_modules(self.folder / MODEL_NAME)
        return tuple(b for b in blocks_of(self.model, outside=outside) if any(inside(name, (b,)) for name in named))

    def _say_kept(self, what: str, kept: Kept[Any]) -> None:
        if kept.blocks:
            counts = (len(kept.blocks), len(kept.drift))
            _log.info("%s keeps %d of %d blocks in FP32: %s", what, *counts, kept.in_words())

    def _advice(self, precision: str, kept: Kept[Any]) -> str:
        """Which blocks to keep, and what else there is to try."""
        return "\n".join(text for text in (kept.next_step(self.keep_fp32), _NEXT_STEP[precision]) if text)

    def _overflows(self, proof: _Fp16Proof) -> str:
        """Which layers hold more than half can, seen in FP32, and the options that keep them there; "" where it is none."""
        first = torch.from_numpy(self.frames.rgb[:1]), torch.from_numpy(self.frames.depth[:1])
        wide = fold_frozen_batchnorm(self.model, *first)
        seen = TorchActivationObserver()
        with seen.on(wide):
            self._report("fp16", torch_predictor(wide), "torch fp32")
        known = (ITSELF, *proof.half.fp32_modules)
        over = [name for name in seen.activations.over(FP16_MAX) if not inside(name, known)]
        if not over:
            first_bad = next(iter((proof.report.activations or {}).get("not_finite", {})), "")
            return f"the first layer with values that are not finite is {first_bad}" if first_bad else ""
        layers = ", ".join(f"{name} ({seen.activations.largest[name]:.3g})" for name in over)
        options = " ".join(f"--keep-fp32 '{name}'" for name in (*self.keep_fp32, *over))
        return (
            f"beyond {FP16_MAX:.0f}, the largest number in half, go: {layers}\n"
            f"Keep them in FP32: {options}; or train with a smaller learning rate or weight decay"
        )


@dataclass(frozen=True, kw_only=True)
class _Fp16Proof:
    half: Fp16Model
    report: ParityReport


@dataclass(frozen=True, kw_only=True)
class _Int8Proof:
    """Of the file as it stands, and as `live` runs it; the latter only where the first holds."""

    report: ParityReport
    live: ParityReport | None


def _line(path: Path, report: ParityReport) -> str:
    """A file that passed: its size, and how many outputs differ from the torch model's."""
    size_mb, compared = path.stat().st_size / 1e6, report.together
    return f"{path.name:<15} {size_mb:6.1f} MB  {compared.top1_flips} of {compared.num_samples} outputs changed  pass"


_NOT_OPTIMISED = "Not optimised, the same file passes, so TensorRT may well run it; but `live` and `evaluate` use the optimised session, whose 8-bit kernels saturate on CPUs without VNNI\n"

_NEXT_STEP = {
    "fp32": "Export again with another torch or onnxruntime version, or report this with the run folder",
    "fp16": "Keep the layers that suffer in FP32 with --keep-fp32 PATTERN, or export without fp16",
    "int8": "Or calibrate on more frames with --calibration-frames N, or export without int8",
}
