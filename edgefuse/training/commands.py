"""edgefuse train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from edgefuse.console.options import (
    MAX_BATCH,
    MAX_EPOCHS,
    MAX_SEED,
    MAX_THREADS,
    AsJson,
    DataFolders,
    FarM,
    Flip,
    Force,
    NearM,
    SetValues,
    SkipBad,
    Strict,
    finite,
)
from edgefuse.model.choices import DepthBackbone, DepthEncoding, FusionKind, RgbBackbone


def train(  # long: each option is a parameter, and each parameter a line of the recipe
    data: DataFolders,
    out: Annotated[Path, typer.Option(help="The run folder to make.")],
    fusion: Annotated[
        FusionKind,
        typer.Option(
            help="gated is the paper's; spatial: depth also says where RGB looks; joint: its gate sees RGB too; naive: no gate."
        ),
    ] = "spatial",
    rgb: Annotated[RgbBackbone, typer.Option(help="RGB backbone; small is trained from scratch.")] = "small",
    depth: Annotated[
        DepthBackbone | None,
        typer.Option(
            help="Depth backbone; all but scratch see depth drawn as a picture. Default: as --rgb, scratch beside small."
        ),
    ] = None,
    encoding: Annotated[
        DepthEncoding,
        typer.Option(
            help="relative: depth behind the nearest surface; absolute: distance to the camera, where classes differ by it."
        ),
    ] = "relative",
    rgb_weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none, or a state dict FILE. Default: imagenet where the backbone has it."),
    ] = None,
    depth_weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none, or a state dict FILE. Default: as --rgb-weights for the same backbone."),
    ] = None,
    epochs: Annotated[int, typer.Option(min=1, max=MAX_EPOCHS, help="Passes over the training pairs.")] = 40,
    batch_size: Annotated[int, typer.Option(min=2, max=MAX_BATCH)] = 32,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Side of the model input in pixels.")] = 128,
    near: NearM = 0.2,
    far: FarM = 2.0,
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides the splits, the first weights and the augmentation.")
    ] = 0,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Instances held out for testing: a glob such as 's1_clip02' or 'mug/*'. Repeatable."),
    ] = None,
    validation_fraction: Annotated[
        float, typer.Option(min=0, max=0.5, callback=finite, help="Share held out by instance to watch training with.")
    ] = 0.15,
    test_fraction: Annotated[
        float,
        typer.Option(
            min=0, max=0.5, callback=finite, help="Share held out by instance for testing, besides --exclude."
        ),
    ] = 0.0,
    flip: Flip = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. Default: one for each core.")
    ] = None,
    values: SetValues = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Learn a classifier from labelled RGB-D pairs, split by instance, and leave a run folder.

    Ctrl-C leaves a usable run with the last finished epoch.
    """
    from dataclasses import replace

    from edgefuse.contract import InputContract
    from edgefuse.errors import UserError, require

    require("torch", extra="train")
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse.io.text import quoted, say
    from edgefuse.training.recipe import default_depth, default_weights, small_rgbd, with_values
    from edgefuse.training.trainer import train as run_training

    try:
        InputContract(size=size, near_m=near, far_m=far)
    except UserError as error:
        raise typer.BadParameter(str(error), param_hint="--near, --far") from error
    recipe = small_rgbd()
    rgb_weights = rgb_weights if rgb_weights is not None else default_weights(rgb)
    depth = depth if depth is not None else default_depth(rgb)
    if depth_weights is None:
        depth_weights = rgb_weights if depth == rgb else default_weights(depth)
    config = replace(
        recipe,
        fusion=fusion,
        rgb=rgb,
        depth=depth,
        encoding=encoding,
        rgb_weights=rgb_weights,
        depth_weights=depth_weights,
        epochs=epochs,
        batch_size=batch_size,
        size=size,
        near_m=near,
        far_m=far,
        seed=seed,
        num_threads=threads,
        exclude=tuple(exclude or ()),
        validation_fraction=validation_fraction,
        test_fraction=test_fraction,
        augmentation=replace(recipe.augmentation, flip=flip),
    )
    config = with_values(config, values or ())
    with TrainingDisplay() as display:
        summary = run_training(
            data, out, config=config, force=force, skip_bad=skip_bad, strict=strict, callback=display
        )
    if as_json:
        from edgefuse.io.json_files import dumps

        typer.echo(dumps(summary.metrics))
    for line in summary_lines(summary.metrics):
        say(line)
    if summary.not_written:
        say(f"error: {summary.not_written}")
        raise typer.Exit(1)
    if summary.interrupted:
        say(f"stopped early: {out} holds the last finished epoch and can be exported")
        raise typer.Exit(130)
    plots = ", ".join(path.name for path in sorted(out.glob("*.png")))
    say(f"run: {out} ({plots}, metrics.json); next: edgefuse export {quoted(out)} --out BUNDLE")


def summary_lines(metrics: dict[str, Any]) -> list[str]:
    """The accuracies on each held-out part with the classes that it lacks, and what calibration did."""
    from edgefuse.training.final_scores import classes_without_pairs

    lines = []
    for part in ("validation", "test"):
        if part in metrics:
            scores = metrics[part]
            accuracies = ", ".join(
                f"{name.replace('_', ' ')} {found['accuracy']:.1%}" for name, found in scores.items()
            )
            lacking = classes_without_pairs(metrics, part)
            lines.append(f"{part}: accuracy with {accuracies} ({scores['both']['num_samples']} pairs{lacking})")
    calibrated = calibration_line(metrics["calibration"])
    return [*lines, *([calibrated] if calibrated else [])]


def calibration_line(calibration: dict[str, Any]) -> str:
    """The temperature, what it was fitted on, and what it did to the test pairs, or to the same pairs where there are no others."""
    if not calibration["fitted_on_validation_pairs"]:
        return ""
    part = "test" if "test" in calibration else "validation"
    before, after = calibration[part]["before"], calibration[part]["after"]
    changes = ", ".join(
        f"{words} {before[name]:.3f} -> {after[name]:.3f}"
        for words, name in (("ECE", "expected_calibration_error"), ("NLL", "negative_log_likelihood"))
    )
    where = "test" if part == "test" else "on the same data, which flatters it:"
    return f"Calibrated on validation data (T = {calibration['temperature']:.3f}): {where} {changes}"
