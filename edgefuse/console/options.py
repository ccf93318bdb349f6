"""Options that several commands share, declared once."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

# More than anybody means; beyond, a number overflows in a library, or asks for work that ends the machine. Every numeric option has
# both bounds, and a float `callback=finite` besides: tests/app/test_numbers.py walks through all commands.
MAX_THREADS = 512
MAX_WORKERS = 256
MAX_EPOCHS = 100_000
MAX_BATCH = 65_536
MAX_PAIRS = 1_000_000
MAX_FRAMES = 1_000_000_000
MAX_SEED = 4_000_000  # fold k trains with 1000 seed + k, and scikit-learn takes 32 bits
MAX_DEPTH_M = 65.535  # the last code of the contract


def finite(value: float | None) -> float | None:
    """A callback: bounds let NaN through, because it is neither below nor above any.

    Raises:
        typer.BadParameter: it is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} was given, a finite number was expected")
    return value


DataFolders = Annotated[
    list[Path], typer.Argument(help="Data set folders: root/<class>/<instance>/<name>_rgb.png and _depth.png.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what stands at the output's name.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable or incomplete pairs out instead of refusing.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")]
SetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any number of the recipe, such as depth_window_m=0.2 or augmentation.rotation_deg=0; an unknown name lists all. Repeatable.",
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Mirror half of the pairs. Default: where no class name speaks of a side, such as left or _R; the first line says it.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OnlySequences = Annotated[
    list[str] | None,
    typer.Option("--only", help="Evaluate on these instances alone: a glob such as 's1_clip02'. Repeatable."),
]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle, as edgefuse export makes it.")]
NumThreads = Annotated[
    int | None,
    typer.Option(help="Threads of the engine on the CPU. Default: as many as cores.", min=1, max=MAX_THREADS),
]
# What a recipe decides; None = the recipe's.
Epochs = Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Passes over the training pairs.")]
BatchSize = Annotated[int | None, typer.Option(min=2, max=MAX_BATCH, help="Pairs in a training step.")]
Size = Annotated[int | None, typer.Option(min=16, max=1024, help="Side of the model input in pixels.")]
NearM = Annotated[
    float | None, typer.Option(min=0, max=MAX_DEPTH_M, callback=finite, help="Nearest depth that counts, in metres.")
]
FarM = Annotated[
    float | None, typer.Option(min=0, max=MAX_DEPTH_M, callback=finite, help="Farthest depth that counts, in metres.")
]
EngineWord = Annotated[
    str,
    typer.Option(
        "--engine",
        help="tensorrt, cuda or cpu: that one or an error. auto: the first of them that opens here, and why not the others.",
    ),
]
ModelFile = Annotated[
    str | None,
    typer.Option(
        "--file", help="An ONNX file of the bundle. Default: FP16 on a GPU where the bundle has it, FP32 on the CPU."
    ),
]
CameraSpec = Annotated[
    str,
    typer.Option(
        help="realsense, realsense:SERIAL, a recording FILE.db3 or FILE.bag, a data set FOLDER, or synthetic."
    ),
]
