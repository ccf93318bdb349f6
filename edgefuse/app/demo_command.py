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
    from edgefuse.app.demo import DemoResult, Metrics


def demo(
    out: Annotated[Path, typer.Option(help="Output folder for data, runs, bundle and recording.")] = Path("demo"),
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Random seed of the images, the split and the training.")
    ] = 0,
    pairs: Annotated[int, typer.Option(min=72, max=MAX_PAIRS, help="Number of pairs to render.")] = 1000,
    epochs: Annotated[
        int | None, typer.Option(min=1, max=MAX_EPOCHS, help="Training epochs. Default: those of the demo recipe.")
    ] = None,
    frames: Annotated[
        int, typer.Option(min=1, max=MAX_FRAMES, help="Number of frames in the recording for live.")
    ] = 90,
    force: Force = False,
) -> None:
    """Run the complete workflow without a camera: render data, train four models, export, record, run live. Takes some minutes."""
    from edgefuse.errors import require

    for package, extra in (("torch", "train"), ("onnx", "export"), ("onnxruntime", "runtime")):
        require(package, extra=extra)
    from edgefuse.app.demo import DemoSize, run_demo
    from edgefuse.console.progress import TrainingDisplay
    from edgefuse.io.text import printable, write_line
    from edgefuse_runtime.cameras.pyrealsense import load_pyrealsense2
    from edgefuse_runtime.sinks.lines import LinesSink
    from edgefuse_runtime.sinks.terminal import TableSink

    load_pyrealsense2()
    on_terminal = sys.stdout.isatty()
    with TrainingDisplay(brief=True) as display:
        result = run_demo(
            out,
            seed=seed,
            size=DemoSize(num_pairs=pairs, epochs=epochs, num_live_frames=frames),
            force=force,
            callback=display,
            on_trained=_print_accuracies,
            sinks=(TableSink() if on_terminal else LinesSink(sys.stdout),),
            real_time=on_terminal,  # for watching; otherwise every frame is classified
        )
    folder = printable(str(result.folder))
    seconds = ", ".join(f"{name} {value:.0f}" for name, value in result.seconds.items())
    write_line(
        f"images: {folder}/data, training curves: {folder}/runs/*/training.png, bundle: {folder}/{result.bundle.name}\n"
        f"took {sum(result.seconds.values()):.0f} s: {seconds}",
        sys.stdout,
    )
    for command in next_commands(result):
        write_line(command, sys.stdout)


def _print_accuracies(metrics: Metrics) -> None:
    from edgefuse.io.text import new_console, new_table

    console = new_console()
    table = new_table(title="accuracy on held-out sequences")
    for column in ("model", "both sensors", "no RGB", "no depth", "mean gate"):
        table.add_column(column, justify="left" if column == "model" else "right")
    for fusion, scores in metrics.items():
        cells = [f"{scores[condition]['accuracy']:.1%}" for condition in ("both", "no_rgb", "no_depth")]
        table.add_row(fusion, *cells, f"{scores['both']['mean_gate']:.2f}")
    console.print(table)
    accuracies = {fusion: scores["both"]["accuracy"] for fusion, scores in metrics.items()}
    better = max(("rgb", "depth"), key=accuracies.__getitem__)
    console.print(
        f"gated against the better single sensor ({better}): {100 * (accuracies['gated'] - accuracies[better]):+.1f} points"
    )


def next_commands(result: DemoResult, *, prefix: Path = Path(sys.prefix)) -> list[str]:
    """The next commands, after the activation of the environment if the shell does not find `edgefuse`.

    Args:
        prefix: of the Python environment of the demo.
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
