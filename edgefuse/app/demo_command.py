"""edgefuse demo"""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import MAX_EPOCHS, MAX_FRAMES, MAX_PAIRS, MAX_SEED, Force

if TYPE_CHECKING:
    from edgefuse.app.demo import DemoResult


def demo(
    out: Annotated[Path, typer.Option(help="Where data, runs, bundle and recording go.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Decides the pictures, the split and the training.")
    ] = 0,
    pairs: Annotated[int, typer.Option(min=72, max=MAX_PAIRS, help="Rendered pairs to learn from.")] = 1000,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Passes over them. Default: what the demo's recipe says.")
    ] = None,
    frames: Annotated[int, typer.Option(min=1, max=MAX_FRAMES, help="Frames of the recording that live runs on.")] = 90,
    force: Force = False,
) -> None:
    """The main job without a camera: render data, train four models, export, record, run live. Some minutes."""
    from edgefuse.errors import require

    for package, extra in (("torch", "train"), ("onnx", "export"), ("onnxruntime", "runtime")):
        require(package, extra=extra)
    from edgefuse.app.demo import DemoSize, run_demo
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2

    load_pyrealsense2()
    with TrainingDisplay(brief=True) as display:
        result = run_demo(
            out,
            seed=seed,
            size=DemoSize(num_pairs=pairs, epochs=epochs, num_live_frames=frames),
            force=force,
            callback=display,
        )
    _print_result(result)


def _print_result(result: DemoResult) -> None:
    from edgefuse.io.text import new_console, new_table, printable

    console = new_console()
    table = new_table(title="accuracy on held-out instances")
    for column in ("model", "both sensors", "RGB dead", "depth dead", "mean gate"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for fusion, scores in result.metrics.items():
        cells = [f"{scores[condition]['accuracy']:.1%}" for condition in ("both", "no_rgb", "no_depth")]
        table.add_row(fusion, *cells, f"{scores['both']['mean_gate']:.2f}")
    console.print(table)
    accuracies = {fusion: scores["both"]["accuracy"] for fusion, scores in result.metrics.items()}
    better = max(("rgb", "depth"), key=accuracies.__getitem__)
    console.print(
        f"gated against the better single sensor ({better}): {100 * (accuracies['gated'] - accuracies[better]):+.1f} points"
    )
    live = result.live
    if live.accuracy is not None and live.latency_ms is not None:
        apart = f" ({live.accuracy.abstained} without a decision, a sensor was dead)" if live.accuracy.abstained else ""
        console.print(
            f"live on {printable(str(result.recording))}: {live.accuracy.correct} of {live.accuracy.scored} frames right{apart}, latency from a frame's "
            f"arrival to its decision: median {live.latency_ms['p50']:.1f} ms, p99 {live.latency_ms['p99']:.1f} ms"
        )
    folder = printable(str(result.folder))
    console.print(
        f"pictures: {folder}/data, training curves: {folder}/runs/*/training.png, bundle: {folder}/{result.bundle.name}"
    )
    console.print(
        f"took {sum(result.seconds.values()):.0f} s: " + ", ".join(f"{k} {v:.0f} s" for k, v in result.seconds.items())
    )
    for command in next_commands(result):
        console.print(printable(command), soft_wrap=True)


def next_commands(result: DemoResult, *, prefix: Path = Path(sys.prefix)) -> list[str]:
    """What to type next; first the line that lets the shell find `edgefuse`, where it does not.

    Args:
        prefix: of the environment that runs the demo.
    """
    live = ("edgefuse", "live", str(result.bundle), "--camera", str(result.recording))
    regions = ("--roi", str(result.recording.with_suffix(".json")))
    found = shutil.which("edgefuse")
    is_found = found is not None and Path(found).absolute() == (prefix / "bin/edgefuse").absolute()
    activate = prefix / "bin/activate"
    lines = [] if is_found or not activate.is_file() else [f". {shlex.quote(os.path.relpath(activate))}"]
    return [
        f"next: {line}" if number == 0 else f"      {line}"
        for number, line in enumerate([*lines, shlex.join((*live, *regions))])
    ]
