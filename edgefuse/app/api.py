"""The public functions behind `edgefuse.train`, `export`, `evaluate` and `open_bundle`: with paths as `str` or `Path`.

Each calls the same function as its command. Only `edgefuse.__init__` imports this module.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgefuse.progress import Progress, no_progress

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse.evaluation.metrics import Scores
    from edgefuse.training.callbacks import Callback
    from edgefuse.training.recipe import TrainConfig

AnyPath = str | Path


def train(  # long: mostly its docstring
    data: AnyPath | Sequence[AnyPath],
    out: AnyPath,
    *,
    recipe: TrainConfig | None = None,
    force: bool = False,
    skip_bad: bool = False,
    callback: Callback | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Train a classifier and write a run folder.

    Args:
        data: one data set folder, or several: root/<class>/<sequence>/<name>_rgb.png and _depth.png.
        out: the run folder to create; it can be exported after the first epoch.
        recipe: from `edgefuse.recipes`, such as `edgefuse.recipes.mobilenet_rgbd(epochs=20)`; None = `small_rgbd()`.
        force: overwrite a run that exists at `out`.
        skip_bad: skip unreadable or incomplete pairs instead of failing.
        callback: called after each batch and epoch; extend `edgefuse.training.callbacks.NullCallback`.
        progress: called with the number of epochs done and in total; see `edgefuse.progress.Progress`.

    Returns:
        The run folder; `metrics.json` has its metrics.

    Raises:
        EdgefuseError: bad data, an output that exists, weights that cannot be loaded, or a loss that is not finite.
        KeyboardInterrupt: Ctrl-C; the run has the last finished epoch.

    Example:
        >>> import edgefuse
        >>> edgefuse.train("mugs", "runs/mugs", recipe=edgefuse.recipes.small_rgbd(epochs=2))
        PosixPath('runs/mugs')
    """
    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.training.recipe import small_rgbd
    from edgefuse.training.trainer import train as run_training

    roots = [data] if isinstance(data, str | Path) else list(data)
    summary = run_training(
        [Path(root) for root in roots],
        Path(out),
        config=recipe if recipe is not None else small_rgbd(),
        force=force,
        skip_bad=skip_bad,
        callback=callback,
        progress=progress,
    )
    if summary.interrupted:
        raise KeyboardInterrupt
    return summary.folder


def export(
    run: AnyPath,
    out: AnyPath,
    *,
    precisions: Sequence[str] = ("fp32", "fp16"),
    batch: int | Literal["dynamic"] = 1,
    adaptive: bool = False,
    force: bool = False,
    progress: Progress = no_progress,
) -> Bundle:
    """Export a run to a bundle: ONNX files with the outputs of the trained model, and their manifest.

    Args:
        run: a folder written by `train`.
        out: the bundle folder to create.
        precisions: some of "fp32", "fp16" and "int8"; FP32 is always included.
        batch: regions per inference, for `Classifier.batch`: a fixed number, or "dynamic" for any number.
        adaptive: also write the files with which depth alone can answer, for `Classifier(..., adaptive=0.9)`; needs the run's data.
        force: overwrite a bundle that exists at `out`.
        progress: called for each step of the export.

    Raises:
        EdgefuseError: not a run, an output that exists, or a file whose outputs differ from those of the trained model.

    Example:
        >>> import edgefuse
        >>> bundle = edgefuse.export("runs/mugs", "bundles/mugs")
        >>> [name for name in bundle.manifest.files if name.endswith(".onnx")]
        ['model.onnx', 'model.fp16.onnx']
    """
    from edgefuse.errors import require

    for package in ("torch", "onnx"):
        require(package, extra="export")
    from edgefuse_export.onnx.export import export_run

    return export_run(
        Path(run), Path(out), precisions=precisions, batch=batch, adaptive=adaptive, force=force, progress=progress
    ).bundle


def open_bundle(bundle: AnyPath) -> Bundle:
    """Read and check the manifest of a bundle; its files are checked when they are opened.

    Raises:
        EdgefuseError: not a bundle, or one that this version cannot read.

    Example:
        >>> import edgefuse
        >>> edgefuse.open_bundle("bundles/mugs").manifest.labels
        ('blue_mug', 'red_mug')
    """
    from edgefuse import bundle as bundles

    return bundles.open_bundle(Path(bundle))


def evaluate(
    model: AnyPath,
    data: AnyPath | Sequence[AnyPath],
    *,
    only: Sequence[str] = (),
    engine: str = "auto",
    file: str | None = None,
    num_threads: int | None = None,
    adaptive: float | None = None,
    skip_bad: bool = False,
    progress: Progress = no_progress,
) -> dict[str, Scores]:
    """Score a model on a data set, with both sensors and with either missing.

    Args:
        model: a bundle, which runs on the same engine as live, or a run, which runs in PyTorch.
        data: one data set folder, or several.
        only: score only these sequences: glob patterns such as "s1_clip02".
        engine, file, num_threads, adaptive: for a bundle, as for `edgefuse.Classifier`; `file` defaults to FP32.
        skip_bad: skip unreadable or incomplete pairs instead of failing.
        progress: called with the number of pairs scored and in total.

    Returns:
        "both", "no_rgb" and "no_depth" -> `edgefuse.evaluation.metrics.Scores`: accuracy, recall by class, calibration error.

    Raises:
        EdgefuseError: not a model, bad data, classes that the model does not know, or an output that is not finite.

    Example:
        >>> import edgefuse
        >>> edgefuse.evaluate("bundles/mugs", "mugs", only=["left_*"])["both"].accuracy
        0.9
    """
    from edgefuse.app.open_model import open_model
    from edgefuse.data.dataset import load, scan
    from edgefuse.data.splits import matching
    from edgefuse.evaluation.metrics import evaluate as score

    roots = [data] if isinstance(data, str | Path) else list(data)
    dataset = scan([Path(root) for root in roots], skip_bad=skip_bad)
    if only:
        dataset = dataset.subset(matching(dataset, only))
    rgbd = load(dataset, skip_bad=skip_bad)
    with open_model(Path(model), num_threads=num_threads, file=file, engine=engine, adaptive=adaptive) as opened:
        scores = score(opened.predictor, rgbd, contract=opened.contract, labels=opened.labels, progress=progress)
    return {str(condition): found for condition, found in scores.items()}
