"""Accuracy of FP16 and INT8: python -m edgefuse_benchmarks.suites.precision RUN BUNDLE DATA --only PATTERN --out FOLDER

FP32 is `model.onnx` and INT8 `model.int8.onnx` in ONNX Runtime on the CPU, optimised, as `live` and `evaluate` run them. FP16 is
PyTorch with the FP16 layers of `model.fp16.onnx`, because ONNX Runtime's CPU provider computes that file in FP32. All precisions are
scored on the same pairs, so differences are counted pair by pair. Owns the protocol, its table and its JSON.
"""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from edgefuse.bundle import MODEL_NAMES, Bundle, open_bundle
from edgefuse.console.messages import messages_shown
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.data.splits import matching
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import Answers, Predictor, answers_under, as_they_are
from edgefuse.io.environment import git_revision_text
from edgefuse.io.files import file_replaced
from edgefuse.io.text import say, write_text
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import bundle_facts, save_json

_log = logging.getLogger(__name__)

SCHEMA = 1
GOALS_POINTS = {"fp16": 0.2, "int8": 1.0}
"""Largest difference of the accuracy from that of FP32, in points."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One precision compared with FP32, on the same pairs.

    Attributes:
        answered_by: the runtime that made the predictions.
        accuracy: fraction of correct predictions.
        num_changed: pairs whose prediction differs from that of FP32; `num_lost` only FP32 has right, `num_gained` only this
            precision.
        fp32_modules: modules of the file that stay in FP32.
    """

    precision: str
    answered_by: str
    num_pairs: int
    accuracy: float
    num_changed: int
    num_lost: int
    num_gained: int
    max_probability_difference: float
    p99_probability_difference: float
    max_gate_difference: float
    fp32_modules: tuple[str, ...] = ()

    @property
    def points(self) -> float:
        """Accuracy minus that of FP32, in points."""
        return 100 * (self.num_gained - self.num_lost) / self.num_pairs

    @property
    def meets_goal(self) -> bool | None:
        """Whether the accuracy is within the goal, above or below that of FP32; None without a goal."""
        goal = GOALS_POINTS.get(self.precision)
        return None if goal is None else abs(self.points) <= goal + 1e-9

    def to_json(self) -> dict[str, Any]:
        """The row as a JSON object."""
        return {
            **asdict(self),
            "points": round(self.points, 4),
            "goal_points": GOALS_POINTS.get(self.precision),
            "meets_goal": self.meets_goal,
        }


def compare(
    precision: str, found: Answers, reference: Answers, *, answered_by: str, fp32_modules: Sequence[str]
) -> Row:
    """Compare the predictions of one precision with those of FP32 on the same pairs."""
    is_right, was_right = (a.probabilities.argmax(axis=1) == a.truth for a in (found, reference))
    changed = found.probabilities.argmax(axis=1) != reference.probabilities.argmax(axis=1)
    difference = np.abs(found.probabilities - reference.probabilities)
    return Row(
        precision=precision,
        answered_by=answered_by,
        num_pairs=len(found.truth),
        accuracy=float(is_right.mean()),
        num_changed=int(changed.sum()),
        num_lost=int((was_right & ~is_right).sum()),
        num_gained=int((is_right & ~was_right).sum()),
        max_probability_difference=float(difference.max()),
        p99_probability_difference=float(np.quantile(difference, 0.99)),
        max_gate_difference=float(np.abs(found.gate - reference.gate).max()),
        fp32_modules=tuple(fp32_modules),
    )


def measure(run_folder: Path, bundle: Bundle, rgbd: RgbdDataset) -> list[Row]:
    """Score all pairs with each precision of the bundle; FP32 comes first.

    Raises:
        UserError: the bundle was not exported from the run, or has only FP32.
    """
    manifest = bundle.manifest
    others = [precision for precision, name in MODEL_NAMES.items() if precision != "fp32" and name in manifest.files]
    if not others:
        raise UserError(f"{bundle.folder} has only FP32: export with --precision fp32,fp16,int8 --force")
    answers: dict[str, Answers] = {}
    rows = []
    with ExitStack() as stack:
        for precision in ("fp32", *others):
            if precision == "fp16":
                name, predictor = _fp16(run_folder, bundle, rgbd)
            else:
                name, predictor = _session(bundle, MODEL_NAMES[precision], stack)
            _log.info("%s: %s", precision, name)
            changes = {"both": as_they_are}
            found = answers_under(predictor, rgbd, contract=manifest.contract, labels=manifest.labels, changes=changes)
            answers[precision] = found["both"]
            kept = manifest.parity.get(MODEL_NAMES[precision], {}).get("fp32_modules", ())
            rows.append(compare(precision, found["both"], answers["fp32"], answered_by=name, fp32_modules=kept))
    return rows


def _session(bundle: Bundle, file: str, stack: ExitStack) -> tuple[str, Predictor]:
    from edgefuse_runtime.classifier import Classifier

    classifier = stack.enter_context(Classifier(bundle.folder, file=file, engine="cpu"))
    return f"{file} in ONNX Runtime on the CPU, optimised", classifier.predict_framed


def _fp16(run_folder: Path, bundle: Bundle, rgbd: RgbdDataset) -> tuple[str, Predictor]:
    """PyTorch with the same modules in FP16 as the bundle's FP16 file."""
    import torch

    from edgefuse.evaluation.metrics import framed_batches
    from edgefuse.training.loop import torch_predictor
    from edgefuse.training.run import open_run, present_module
    from edgefuse_export.onnx.fp16 import fp16_from_model

    model = open_run(run_folder).build_model()
    samples = bundle.samples()
    expected = torch_predictor(model)(samples.rgb, samples.depth).probabilities
    if expected.shape != samples.probabilities.shape or np.abs(expected - samples.probabilities).max() > 1e-4:
        raise UserError(f"{bundle.folder} was not exported from {run_folder}: give the run that it was exported from")
    rgb, depth, _ = next(framed_batches(rgbd, contract=bundle.manifest.contract, batch_size=1))
    kept = [present_module(name) for name in bundle.manifest.parity[MODEL_NAMES["fp16"]]["fp32_modules"]]
    fp16 = fp16_from_model(model, rgb_NHWC=torch.from_numpy(rgb), depth_NHW2=torch.from_numpy(depth), keep_fp32=kept)
    return "torch with the file's layers in FP16 on the CPU", torch_predictor(fp16.model)


def markdown(rows: Sequence[Row], *, described: dict[str, Any]) -> str:
    """The table, the modules in FP32, and the machine."""
    lines = [
        f"Accuracy on {rows[0].num_pairs} pairs by precision; all precisions are scored on the same pairs.",
        "",
        "| precision | predicted by | accuracy | points from FP32 | goal | changed | lost | gained | max dp | p99 dp | max dgate |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        goal = (
            f"within {GOALS_POINTS[row.precision]:g}: {'met' if row.meets_goal else 'missed'}"
            if row.meets_goal is not None
            else ""
        )
        lines.append(
            f"| {row.precision} | {row.answered_by} | {row.accuracy:.2%} | {row.points:+.2f} | {goal} | {row.num_changed} | "
            f"{row.num_lost} | {row.num_gained} | {row.max_probability_difference:.1e} | "
            f"{row.p99_probability_difference:.1e} | {row.max_gate_difference:.1e} |"
        )
    lines += [
        "",
        "changed: predictions that differ from FP32; lost: only FP32 is right; gained: only this one is right.",
        "",
    ]
    lines += [
        f"- in FP32 in the {row.precision} file: {', '.join(row.fp32_modules)}" for row in rows if row.fp32_modules
    ]
    cpu, versions = described["cpu"], described["versions"]
    lines += [
        "",
        f"`{described['command']}` on {described['date_utc'][:10]}: {cpu['model']}, {cpu['cores_usable']} cores; "
        f"torch {versions.get('torch')}, onnxruntime {versions.get('onnxruntime')}; "
        f"commit {git_revision_text(described['commit'])}.",
    ]
    return "\n".join(lines) + "\n"


def main(arguments: Sequence[str]) -> None:
    """Measure, write `precision-<time>.json` and `.md`, and print the table."""
    parser = argparse.ArgumentParser(prog="edgefuse_benchmarks.suites.precision", description=__doc__)
    parser.add_argument("run", type=Path, help="the run that the bundle was exported from")
    parser.add_argument("bundle", type=Path, help="with model.fp16.onnx, model.int8.onnx or both")
    parser.add_argument("data", type=Path, nargs="+", help="data folders")
    parser.add_argument("--only", action="append", help="sequences to score, a glob; give held-out ones. Repeatable")
    parser.add_argument("--out", type=Path, required=True, help="folder for the result")
    options = parser.parse_args(arguments)
    described = machine.describe()
    bundle = open_bundle(options.bundle)
    dataset = scan(options.data)
    if options.only:
        dataset = dataset.subset(matching(dataset, options.only))
    rgbd = load(dataset)
    with messages_shown():
        rows = measure(options.run, bundle, rgbd)
    data = bundle.manifest.training.get("data") or {}
    seen = set((data.get("train_instances") or {}).values())
    trained_on = sorted(name for name, digest in rgbd.dataset.sequence_digests().items() if digest in seen)
    value = {
        "schema": SCHEMA,
        "benchmark": "precision",
        "machine": described,
        "bundle": bundle_facts(bundle),
        "data_digest": rgbd.dataset.digest,
        "only": options.only,
        "sequences_trained_on": trained_on,
        "rows": [row.to_json() for row in rows],
        "parity": {MODEL_NAMES[row.precision]: bundle.manifest.parity.get(MODEL_NAMES[row.precision]) for row in rows},
    }
    path = save_json(value, options.out, benchmark="precision")
    text = markdown(rows, described=described)
    if trained_on:
        text += f"\nNot held out: {len(trained_on)} of these sequences were trained on ({trained_on[0]} and so on).\n"
    with file_replaced(path.with_suffix(".md")) as temporary:
        write_text(temporary, text)
    print(text)
    say(f"result: {path}")


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        sys.exit(f"error: {error}")
