"""Options used by several commands."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Annotated

import typer

# Upper limits: larger values overflow in a library, or request more work than a machine can do. Every numeric option has both limits,
# and a float option also has `callback=finite`: tests/app/test_numbers.py checks all commands.
MAX_THREADS = 512
MAX_WORKERS = 256
MAX_EPOCHS = 100_000
MAX_BATCH = 65_536
MAX_PAIRS = 1_000_000
MAX_FRAMES = 1_000_000_000
MAX_SEED = 4_000_000  # fold k trains with 1000 seed + k, and scikit-learn allows 32 bits
MAX_DEPTH_M = 65.535  # the largest depth code


def finite(value: float | None) -> float | None:
    """A callback that refuses NaN and infinity, because limits do not refuse NaN.

    Raises:
        typer.BadParameter: it is NaN or infinite.
    """
    if value is not None and not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number")
    return value


DataFolders = Annotated[
    list[Path], typer.Argument(help="Data set folders: root/<class>/<sequence>/<name>_rgb.png and _depth.png.")
]
Force = Annotated[bool, typer.Option("--force", help="Overwrite the output if it exists.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Skip unreadable or incomplete pairs instead of failing.")]
Strict = Annotated[bool, typer.Option("--strict", help="Treat warnings as errors.")]
Person = Annotated[
    str | None,
    typer.Option(
        metavar="REGEX",
        help="Expression whose first group is the person in a sequence's name, such as '^(s\\d+)_': warns of what one person lacks.",
    ),
]
SetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Change a value of the recipe, such as depth_window_m=0.2 or augmentation.rotation_deg=0. An unknown name lists all. Repeatable.",
    ),
]
Flip = Annotated[
    bool | None,
    typer.Option(
        "--flip/--no-flip",
        help="Mirror half of the pairs. Default: on, unless a class name contains a side, such as left or _R. The first line of the output says which.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OnlySequences = Annotated[
    list[str] | None,
    typer.Option("--only", help="Use only the sequences whose names match a glob such as 's1_clip02'. Repeatable."),
]
BundleFolder = Annotated[Path, typer.Argument(help="Bundle made by edgefuse export.")]
NumThreads = Annotated[
    int | None,
    typer.Option(help="CPU threads of the engine. Default: the number of cores.", min=1, max=MAX_THREADS),
]
# None = as in the recipe.
Epochs = Annotated[int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Training epochs.")]
BatchSize = Annotated[int | None, typer.Option(min=2, max=MAX_BATCH, help="Pairs per training step.")]
Size = Annotated[int | None, typer.Option(min=16, max=1024, help="Side of the model input in pixels.")]
NearM = Annotated[
    float | None,
    typer.Option(min=0, max=MAX_DEPTH_M, callback=finite, help="Near limit of the depth range, in metres."),
]
FarM = Annotated[
    float | None, typer.Option(min=0, max=MAX_DEPTH_M, callback=finite, help="Far limit of the depth range, in metres.")
]
EngineWord = Annotated[
    str,
    typer.Option(
        "--engine",
        help="tensorrt, rtx, cuda, openvino or cpu (ONNX Runtime): that engine or an error. auto: the first of them that works; "
        "prints why the others do not. openvino:fp32, :bf16 and :int8 fix the precision.",
    ),
]
ModelFile = Annotated[
    str | None,
    typer.Option(
        "--file", help="ONNX file of the bundle. Default: FP16 on a GPU if the bundle has it, FP32 on the CPU."
    ),
]
AdaptiveThreshold = Annotated[
    float | None,
    typer.Option(
        "--adaptive",
        metavar="T",
        min=0,
        max=1,
        callback=finite,
        help="Answer from depth alone where its probability is at least T, without running the RGB half of the model. Needs a bundle of "
        "edgefuse export --adaptive, and an engine of the CPU.",
    ),
]
CameraSpec = Annotated[
    str,
    typer.Option(
        help="realsense, realsense:SERIAL, a recording FILE.db3 or FILE.bag, a data set FOLDER, or synthetic."
    ),
]
