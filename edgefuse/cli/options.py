"""Options that several commands share, declared once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

DataFolders = Annotated[
    list[Path], typer.Argument(help="Data set folders: root/<class>/<instance>/<name>_rgb.png and _depth.png.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace what stands at the output's name.")]
SkipBad = Annotated[
    bool, typer.Option("--skip-bad", help="Leave unreadable or incomplete pairs out instead of refusing.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Take warnings for errors: exit code 1, for checks by machines.")
]
SetValues = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        metavar="NAME=VALUE",
        help="Any number of the recipe, such as reach_m=0.2 or augmentation.rotation_deg=0; an unknown name lists all. Repeatable.",
    ),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object on standard output.")]
OnlyInstances = Annotated[
    list[str] | None,
    typer.Option("--only", help="Evaluate on these instances alone: a glob such as 's1_clip02'. Repeatable."),
]
BundleFolder = Annotated[Path, typer.Argument(help="A bundle, as edgefuse export makes it.")]
NumThreads = Annotated[
    int | None, typer.Option(help="Threads of the engine on the CPU. Default: as many as cores.", min=1)
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
RegionSpec = Annotated[
    str | None,
    typer.Option(
        "--roi",
        help="Where to look: whole, x,y,w,h in pixels, center, nearest (the closest compact blob), or FILE.json with a region per "
        "frame number. Default: record stores whole images, live looks where the model's training data was recorded.",
    ),
]
