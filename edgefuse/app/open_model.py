"""Opens trained models for evaluation: a bundle on the same engine as live, or a run in PyTorch.

Used by the commands and by `edgefuse.evaluate`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from edgefuse.contract import InputContract
    from edgefuse.data.dataset import RgbdDataset
    from edgefuse.evaluation.explain import PixelGate
    from edgefuse.evaluation.metrics import Predictor

CPU_PROVIDER = "CPUExecutionProvider"
COMPUTES_IN_FP32 = " (which computes FP16 files in FP32 on the CPU)"


class OpenModel(NamedTuple):
    """An opened model and its description."""

    name: str
    predictor: Predictor
    contract: InputContract
    labels: tuple[str, ...]
    training: dict[str, Any]
    fusion: str
    pixel_gate: PixelGate | None = None
    engine: dict[str, Any] | None = None


@contextmanager
def open_model(
    model: Path,
    *,
    num_threads: int | None,
    file: str | None = None,
    engine: str = "auto",
    adaptive: float | None = None,
) -> Iterator[OpenModel]:
    """Open a run in PyTorch, or a bundle.

    Args:
        file: of the bundle; None = the FP32 file, or with engine "tensorrt", "rtx" or "openvino" the same one as live.
        adaptive: of the bundle; see `edgefuse.Classifier`.
    """
    if not (model / "run.json").is_file():
        from edgefuse.bundle import MODEL_NAME
        from edgefuse_runtime.classifier import Classifier

        file = file if engine.startswith(("tensorrt", "rtx", "openvino")) else file or MODEL_NAME
        with Classifier(model, file=file, engine=engine, num_threads=num_threads, adaptive=adaptive) as classifier:
            manifest = classifier.bundle.manifest
            yield OpenModel(
                name_of(classifier.engine),
                classifier.predict_framed,
                classifier.contract,
                classifier.labels,
                manifest.training,
                str(manifest.model.get("fusion", "")),
                engine=classifier.engine,
            )
        return
    _check_run(model, file=file, engine=engine, adaptive=adaptive)
    from edgefuse.training.fold_frozen_batchnorm import for_prediction
    from edgefuse.training.loop import best_device, torch_pixel_gate, torch_predictor
    from edgefuse.training.run import open_run

    run = open_run(model)
    network, config = run.build_model().to(best_device()), run.model_config
    with for_prediction(network):
        yield OpenModel(
            "the run in PyTorch",
            torch_predictor(network),
            config.contract,
            run.labels,
            run.info,
            config.fusion,
            torch_pixel_gate(network),
        )


def _check_run(run: Path, *, file: str | None, engine: str, adaptive: float | None) -> None:
    """Refuse options of bundles, and a machine without PyTorch."""
    from edgefuse.errors import UserError, require
    from edgefuse.io.text import quoted

    if engine != "auto":
        raise UserError(f"{run} is a run, which runs in PyTorch: give a bundle, or leave out --engine {engine}")
    if adaptive is not None:
        step = f"edgefuse export {quoted(run)} --out BUNDLE --adaptive"
        raise UserError(f"{run} is a run, and --adaptive needs a bundle: {step}")
    if file is not None:
        raise UserError(f"{run} is a run and has no {file}: give a bundle, or leave out --file")
    require("torch", extra="train")


def name_of(description: dict[str, Any]) -> str:
    """The engine as text: file, library, and the precision if the file name does not show it."""
    file, provider = description["file"], description["provider"]
    if description["engine"] in ("tensorrt", "rtx"):
        return (
            f"{file} in {'TensorRT-RTX' if description['engine'] == 'rtx' else 'TensorRT'}, {description['precision']}"
        )
    if description["engine"] == "openvino":
        computed_in = COMPUTES_IN_FP32 if description["precision"] == "fp16" else f", {description['precision']}"
        return f"{file} in OpenVINO{computed_in}"
    name = f"{file} in ONNX Runtime"
    if provider == "CUDAExecutionProvider":
        name += " on the GPU"
    if description["precision"] == "fp16" and provider == CPU_PROVIDER:
        name += COMPUTES_IN_FP32
    return name


def sequences_trained_on(model: OpenModel, rgbd: RgbdDataset) -> list[str]:
    """The sequences of the data, as class/sequence, that the model was trained on (same pixels)."""
    data = model.training.get("data") or {}
    seen = set((data.get("train_instances") or {}).values())
    return [name for name, digest in rgbd.dataset.sequence_digests().items() if digest in seen]
