"""The model in two files for adaptive computing: the depth half with its own calibrated answer, and the rest, which continues from it.

Owns the two exported modules, the calibration of the depth head on validation pairs, and the comparison of both files with PyTorch.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from edgefuse.adaptive import DEPTH_FILE, FEATURES, REST_FILE, Adaptive, curve_of
from edgefuse.bundle import DYNAMIC_BATCH, model_metadata, open_bundle
from edgefuse.contract import (
    DEPTH_INPUT,
    GATE_OUTPUT,
    NEAREST_OUTPUT,
    PROBABILITIES_OUTPUT,
    RGB_INPUT,
    InputContract,
)
from edgefuse.data.dataset import RgbdDataset
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import (
    NUM_OF_DYNAMIC,
    ParityReport,
    Tolerance,
    check_parity,
    predicted_in_batches,
)
from edgefuse.evaluation.metrics import Answers, Predictor, answers_under, as_they_are
from edgefuse.model.classifier import FusionClassifier
from edgefuse.model.fusion import FusionCore
from edgefuse.training.final_scores import fit_temperatures
from edgefuse.training.loop import torch_predictor
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import Run
from edgefuse_export.onnx.calibration_data import Frames, RunData
from edgefuse_export.onnx.parity_error import TORCH_FP32
from edgefuse_export.onnx.torch_to_onnx import Batch, constant_gate, gate_output, proto_from_module, save_model
from edgefuse_runtime.engines.adaptive import AdaptiveEngine

BOTH = "both"


class DepthHalf(nn.Module):
    """The first file: the depth backbone and the depth head."""

    def __init__(self, depth_model: FusionClassifier) -> None:
        super().__init__()
        self.model = depth_model

    def forward(self, depth_NHW2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """uint8 [N, S, S, 2] -> float32: probabilities [N, C], nearest_m [N, 1], depth features [N, d]."""
        model = self.model
        depth = model.decode.of_depth(depth_NHW2)
        nearest_m = model.nearest_surface(depth)
        F_B = model.features_of_depth(depth, nearest_m)
        logits, _ = model.core(F_B, F_B)
        return model.probabilities(logits), nearest_m, F_B


class RestOfModel(nn.Module):
    """The second file: everything but the depth backbone, which is `FusionClassifier.forward` from the depth features on.

    Args:
        constant_gate: see `edgefuse_export.onnx.torch_to_onnx.gate_output`.
    """

    def __init__(self, model: FusionClassifier, *, constant_gate: Tensor | None) -> None:
        super().__init__()
        self.model = model
        self.constant_gate = constant_gate

    def forward(self, rgb_NHWC: Tensor, depth_NHW2: Tensor, nearest_m: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        """uint8 [N, S, S, 3] and [N, S, S, 2], and the outputs of the first file -> float32: probabilities [N, C], gate."""
        model = self.model
        rgb, depth = model.decode(rgb_NHWC, depth_NHW2)
        frame_gate = None if model.frame_gate is None else model.frame_gate(rgb, depth)
        F_A = model.features_of_rgb(rgb, depth, nearest_m, frame_gate)
        logits, gate = model.fused(F_A, F_B, rgb, depth, frame_gate)
        probabilities = model.probabilities(logits)
        return probabilities, gate_output(gate, probabilities, self.constant_gate)


def depth_classifier(model: FusionClassifier) -> FusionClassifier:
    """The depth head as a model of its own, with the weights of `model` and temperature 1.

    Raises:
        UserError: the model has one sensor only, or no depth head.
    """
    heads = model.core.auxiliary_heads
    if heads is None or model.depth_features is None or model.rgb_features is None:
        raise UserError(
            "--adaptive needs a model of both sensors with auxiliary heads: train with --fusion spatial, gated, joint or naive and without "
            "--set aux_loss_weight=0, or export without --adaptive"
        )
    num_features, num_classes = heads.depth.in_features, heads.depth.out_features
    core = FusionCore(kind="depth", num_features=num_features, num_hidden=1, num_classes=num_classes)
    core.head = nn.Sequential(heads.depth)
    return FusionClassifier(
        decode=model.decode,
        nearest_surface=model.nearest_surface,
        encode=model.encode,
        spatial_gate=None,
        rgb_features=None,
        depth_features=model.depth_features,
        core=core,
    ).eval()


def calibrate(depth_model: FusionClassifier, model: FusionClassifier, *, run: Run, data: RunData) -> Adaptive:
    """Set the temperature of the depth head, and measure what each threshold gives on the validation pairs.

    Raises:
        UserError: the run has no validation pairs.
    """
    validation = _validation(run, data)
    contract, labels = run.model_config.contract, run.labels
    config = TrainConfig.from_json(run.info.get("training") or {})
    depth_model.temperature = fit_temperatures(
        depth_model,
        validation,
        contract=contract,
        labels=labels,
        augmentation=config.augmentation,
        depth_window_m=run.model_config.depth_window_m,
        seed=config.seed,
    ).both

    def answers(one: FusionClassifier) -> Answers:
        changes = {BOTH: as_they_are}
        return answers_under(torch_predictor(one), validation, contract=contract, labels=labels, changes=changes)[BOTH]

    depth, full = answers(depth_model), answers(model)
    accuracies = [float((one.probabilities.argmax(axis=1) == one.truth).mean()) for one in (depth, full)]
    return Adaptive(
        temperature=depth_model.temperature,
        num_pairs=len(full.truth),
        accuracy=accuracies[1],
        depth_accuracy=accuracies[0],
        curve=curve_of(depth.probabilities, full.probabilities, full.truth),
    )


def write_files(
    folder: Path,
    model: FusionClassifier,
    depth_model: FusionClassifier,
    *,
    contract: InputContract,
    labels: tuple[str, ...],
    batch: Batch,
) -> None:
    """Write both files in FP32.

    Args:
        model, depth_model: in eval mode, on the CPU.
        batch: see `edgefuse_export.onnx.torch_to_onnx.onnx_from_model`.
    """
    side, num_pairs = contract.size, 2 if isinstance(batch, str) else batch
    rgb, depth = (torch.zeros(num_pairs, side, side, channels, dtype=torch.uint8) for channels in (3, 2))
    first = DepthHalf(depth_model).eval()
    with torch.no_grad():
        _, nearest_m, F_B = first(depth)
    rest = RestOfModel(model, constant_gate=constant_gate(model, (rgb, depth))).eval()
    shared, is_dynamic = (NEAREST_OUTPUT, FEATURES), batch == DYNAMIC_BATCH
    for name, module, example, inputs, outputs, temperature in (
        (DEPTH_FILE, first, (depth,), (DEPTH_INPUT,), (PROBABILITIES_OUTPUT, *shared), None),
        (
            *(REST_FILE, rest, (rgb, depth, nearest_m, F_B), (RGB_INPUT, DEPTH_INPUT, *shared)),
            *((PROBABILITIES_OUTPUT, GATE_OUTPUT), model.temperature),
        ),
    ):
        proto = proto_from_module(module, example, input_names=inputs, output_names=outputs, dynamic_batch=is_dynamic)
        # The metadata of the depth file has no temperature, because the manifest's is that of the complete model.
        metadata = model_metadata(labels=labels, contract=contract, precision="fp32", temperature=temperature)
        save_model(proto, folder / name, metadata=metadata)


def compare(
    folder: Path, model: FusionClassifier, depth_model: FusionClassifier, frames: Frames, *, tolerance: Tolerance
) -> dict[str, ParityReport]:
    """Compare both ways to an answer, the first file alone and both, with PyTorch on frames and edge cases. Returns file name -> report.

    Args:
        folder: a bundle that has the files.
    """
    bundle, reports = open_bundle(folder), {}
    contract = bundle.manifest.contract
    with AdaptiveEngine(bundle, threshold=1.0) as engine:
        ways: dict[str, tuple[FusionClassifier, Predictor]] = {
            DEPTH_FILE: (depth_model, lambda rgb, depth: engine.depth_alone(depth).outputs),
            REST_FILE: (model, lambda rgb, depth: engine.complete(rgb, depth).outputs),
        }
        for name, (reference, candidate) in ways.items():
            predictor = torch_predictor(reference)
            reports[name] = check_parity(
                reference=predicted_in_batches(predictor, rgb=frames.rgb, depth=frames.depth, contract=contract),
                candidate=candidate,
                reference_name=TORCH_FP32 + (", depth head" if name == DEPTH_FILE else ""),
                candidate_name=f"{name} in ONNX Runtime on the CPU",
                rgb=frames.rgb,
                depth=frames.depth,
                contract=contract,
                tolerance=tolerance,
                batch_size=engine.batch_size or NUM_OF_DYNAMIC,
            )
    return reports


def _validation(run: Run, data: RunData) -> RgbdDataset:
    described = run.info.get("data") or {}
    chosen = set(described.get("validation_groups") or ()) - set(described.get("test_groups") or ())
    groups = data.rgbd.dataset.groups()
    indices = [i for i in data.held_out if groups[i] in chosen]
    if not indices:
        raise UserError(
            "--adaptive is calibrated on the validation pairs of the run, which has none: train again with --set "
            "validation_fraction=0.15, or export without --adaptive"
        )
    return data.rgbd.subset(indices)
