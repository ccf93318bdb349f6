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
    model: Path, *, num_threads: int | None, file: str | None = None, engine: str = "auto"
) -> Iterator[OpenModel]:
    """Open a run in PyTorch, or a bundle.

    Args:
        file: of the bundle; None = the FP32 file, or with engine "tensorrt" or "rtx" the same plan as live.
    """
    from edgefuse.errors import UserError, require

    if not (model / "run.json").is_file():
        from edgefuse.bundle import MODEL_NAME
        from edgefuse_runtime.classifier import Classifier

        file = file if engine in ("tensorrt", "rtx") else file or MODEL_NAME
        with Classifier(model, file=file, engine=engine, num_threads=num_threads) as classifier:
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
    if engine != "auto":
        raise UserError(f"{model} is a run, which runs in PyTorch: give a bundle, or leave out --engine {engine}")
    if file is not None:
        raise UserError(f"{model} is a run and has no {file}: give a bundle, or leave out --file")
    require("torch", extra="train")
    from edgefuse.training.fold_frozen_batchnorm import for_prediction
    from edgefuse.training.loop import best_device, torch_pixel_gate, torch_predictor
    from edgefuse.training.run import open_run

    run = open_run(model)
    network = run.build_model().to(best_device())
    config = run.model_config
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


def name_of(description: dict[str, Any]) -> str:
    """The engine as text: file, library, and the precision if the file name does not show it."""
    file, provider = description["file"], description["provider"]
    if description["engine"] in ("tensorrt", "rtx"):
        return (
            f"{file} in {'TensorRT-RTX' if description['engine'] == 'rtx' else 'TensorRT'}, {description['precision']}"
        )
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
