"""edgefuse train"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from edgefuse.console.options import (
    MAX_SEED,
    MAX_THREADS,
    AsJson,
    BatchSize,
    DataFolders,
    Epochs,
    FarM,
    Flip,
    Force,
    NearM,
    Person,
    SetValues,
    Size,
    SkipBad,
    Strict,
    finite,
)
from edgefuse.model.choices import (
    COMMON_BACKBONES,
    DEFM_BACKBONES,
    DEPTH_FROM_SCRATCH,
    RGB_FROM_SCRATCH,
    DepthEncoding,
    FusionKind,
)


def train(  # long: each option is a parameter, and each parameter a line of the recipe
    data: DataFolders,
    out: Annotated[Path, typer.Option(help="Output run folder.")],
    recipe: Annotated[
        str,
        typer.Option(
            help="small_rgbd: from scratch, on any machine; mobilenet_rgbd: MobileNetV2 with ImageNet weights, for real images. "
            "The options below change it."
        ),
    ] = "small_rgbd",
    fusion: Annotated[
        FusionKind | None,
        typer.Option(
            help="gated: as in the paper; spatial: depth also masks the RGB image; joint: the gate uses RGB too; naive: no gate."
        ),
    ] = None,
    rgb: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"RGB backbone: {RGB_FROM_SCRATCH}, {', '.join(COMMON_BACKBONES)}, or any torchvision classification network with a "
            f"spatial feature map; {RGB_FROM_SCRATCH} is trained from scratch.",
        ),
    ] = None,
    depth: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help=f"Depth backbone: {DEPTH_FROM_SCRATCH}, a torchvision network on depth as an image, or {', '.join(DEFM_BACKBONES)} for "
            f"state dicts of DeFM. Default with --rgb: the same, or {DEPTH_FROM_SCRATCH} for {RGB_FROM_SCRATCH}.",
        ),
    ] = None,
    encoding: Annotated[
        DepthEncoding | None,
        typer.Option(
            help="relative: depth behind the nearest surface; absolute: distance to the camera, for classes that differ in it; log: "
            "the three logarithmic channels of DeFM, the default with its backbones."
        ),
    ] = None,
    rgb_weights: Annotated[
        str | None,
        typer.Option(help="imagenet, none, or a state dict FILE. Default with --rgb: imagenet, or none for small."),
    ] = None,
    depth_weights: Annotated[
        str | None,
        typer.Option(
            help="imagenet, none, or a state dict FILE (.pth, .safetensors) of torchvision or DeFM. Default: as --rgb-weights, if the "
            "backbone is the same."
        ),
    ] = None,
    epochs: Epochs = None,
    batch_size: BatchSize = None,
    size: Size = None,
    near: NearM = None,
    far: FarM = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Random seed of splits, initial weights and augmentation."),
    ] = None,
    exclude: Annotated[
        list[str] | None,
        typer.Option(help="Sequences held out for testing: a glob such as 's1_clip02' or 'mug/*'. Repeatable."),
    ] = None,
    validation_fraction: Annotated[
        float | None,
        typer.Option(
            min=0, max=0.5, callback=finite, help="Fraction of the pairs held out by sequence for validation."
        ),
    ] = None,
    test_fraction: Annotated[
        float | None,
        typer.Option(
            min=0,
            max=0.5,
            callback=finite,
            help="Fraction of the pairs held out by sequence for testing, in addition to --exclude.",
        ),
    ] = None,
    person: Person = None,
    flip: Flip = None,
    background: Annotated[
        Literal["replace", "keep"] | None,
        typer.Option(
            help="replace: put the object of half of the pairs in front of other backgrounds, where depth separates them (default). "
            "keep: for classes that differ in their background."
        ),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=MAX_THREADS, help="CPU threads. Default: the number of cores.")
    ] = None,
    amp: Annotated[
        bool | None,
        typer.Option("--amp/--no-amp", help="Mixed precision in bfloat16, for GPUs since Ampere. Default: off."),
    ] = None,
    values: SetValues = None,
    force: Force = False,
    skip_bad: SkipBad = False,
    strict: Strict = False,
    as_json: AsJson = False,
) -> None:
    """Train a classifier on labelled RGB-D pairs, split by sequence, and write a run folder.

    The recipe has all settings; options change it, then --set.
    After Ctrl-C, the run has the last finished epoch and can be exported.
    """
    from edgefuse.errors import UserError, require

    require("torch", extra="train")
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse.io.text import quoted, say
    from edgefuse.training.recipe import recipe_with_options, with_values
    from edgefuse.training.trainer import train as run_training

    try:
        config = recipe_with_options(
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
            amp=amp,
            exclude=None if exclude is None else tuple(exclude),
            validation_fraction=validation_fraction,
            test_fraction=test_fraction,
            person=person,
            flip=flip,
            background=background,
        )
    except UserError as error:
        raise typer.BadParameter(str(error)) from error
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
        say(f"stopped early: {out} has the last finished epoch and can be exported")
        raise typer.Exit(130)
    plots = ", ".join(path.name for path in sorted(out.glob("*.png")))
    say(f"run: {out} ({plots}, metrics.json, model_card.md); next: edgefuse export {quoted(out)} --out BUNDLE")


HARMFUL = 0.05
"""A sensor that lowers the accuracy by more than this is worth a warning."""


def summary_lines(metrics: dict[str, Any]) -> list[str]:
    """The accuracy on each held-out part with the classes missing in it, a sensor that lowers it, and the effect of calibration."""
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
            both = scores["both"]["accuracy"]
            for sensor, without in (("RGB", "no_rgb"), ("depth", "no_depth")):
                if without in scores and (alone := scores[without]["accuracy"]) > both + HARMFUL:
                    lines.append(
                        f"warning: {sensor} makes the {part} pairs worse: accuracy {alone:.1%} without it, {both:.1%} with both; "
                        "edgefuse explain RUN DATA --out FOLDER shows the gate and examples"
                    )
    calibrated = calibration_line(metrics["calibration"])
    return [*lines, *([calibrated] if calibrated else [])]


def calibration_line(calibration: dict[str, Any]) -> str:
    """The temperature and its effect on the test pairs, or on the validation pairs if there are no test pairs."""
    if not calibration["fitted_on_validation_pairs"]:
        return ""
    part = "test" if "test" in calibration else "validation"
    before, after = calibration[part]["before"], calibration[part]["after"]
    changes = ", ".join(
        f"{words} {before[name]:.3f} -> {after[name]:.3f}"
        for words, name in (("ECE", "expected_calibration_error"), ("NLL", "negative_log_likelihood"))
    )
    where = "test" if part == "test" else "on the same data (optimistic):"
    return f"Calibrated on validation data (T = {calibration['temperature']:.3f}): {where} {changes}"
