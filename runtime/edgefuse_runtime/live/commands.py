"""edgefuse live"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgefuse.console.options import (
    MAX_FRAMES,
    AsJson,
    BundleFolder,
    CameraSpec,
    EngineWord,
    Force,
    ModelFile,
    NumThreads,
)
from edgefuse_runtime.regions.option import RegionSpec, parsed_region

if TYPE_CHECKING:
    from edgefuse_runtime.capture.capture import Mode
    from edgefuse_runtime.sinks.sink import Sink


def live(  # long: each option is a parameter
    bundle: BundleFolder,
    camera: CameraSpec = "realsense",
    roi: RegionSpec = None,
    frames: Annotated[
        int | None,
        typer.Option(min=1, max=MAX_FRAMES, help="Stop after this many frames. Default: run until the stream ends."),
    ] = None,
    jsonl: Annotated[
        Path | None, typer.Option(help="Write each result, and then the summary, as a line of JSON to this file.")
    ] = None,
    engine: EngineWord = "auto",
    file: ModelFile = None,
    threads: NumThreads = None,
    real_time: Annotated[
        bool, typer.Option("--real-time", help="Play a recording at its recorded rate, and drop frames when too slow.")
    ] = False,
    capture: Annotated[
        str,
        typer.Option(
            help="process: read a camera or recording in a process of its own, which is ended if librealsense hangs. "
            "thread: in a thread, which uses less memory."
        ),
    ] = "process",
    force: Force = False,
    as_json: AsJson = False,
) -> None:
    """Classify the frames of a RealSense camera, a recording, a folder, or the built-in scenes.

    Stops at the end of the stream, after --frames, or on Ctrl-C. --json prints only the summary.
    """
    from contextlib import ExitStack
    from typing import cast

    from edgefuse.bundle import open_bundle
    from edgefuse.io.text import say
    from edgefuse_runtime.live.loop import open_live, run_live
    from edgefuse_runtime.live.systemd import Systemd
    from edgefuse_runtime.sinks.sink import JsonlSink, LinesSink, SummarySink
    from edgefuse_runtime.sinks.terminal import TableSink

    if capture not in ("process", "thread"):
        raise typer.BadParameter(f"{capture!r} is neither process nor thread", param_hint="--capture")
    opened = open_bundle(bundle)
    given = parsed_region(roi) if roi is not None else None
    sinks: list[Sink] = []
    if as_json:
        sinks.append(SummarySink(sys.stdout))
    else:
        sinks.append(TableSink() if sys.stdout.isatty() else LinesSink(sys.stdout))
    if jsonl is not None:
        sinks.append(JsonlSink(jsonl, force=force))
    with ExitStack() as stack:
        runner, source, region = stack.enter_context(
            open_live(
                opened,
                camera=camera,
                region=given,
                engine=engine,
                file=file,
                num_threads=threads,
                real_time=real_time,
                capture=cast("Mode", capture),
            )
        )
        for sink in sinks:
            stack.enter_context(sink)
        summary = run_live(
            engine=runner,
            camera=source,
            region=region,
            degraded_mode=opened.manifest.degraded_mode,
            sinks=sinks,
            num_frames=frames,
            service=Systemd(source),
        )
    if summary.failed_sinks:
        raise typer.Exit(1)
    if summary.processed == 0:
        say("no frame was classified: no frame arrived, or no region was found")
        raise typer.Exit(1)
    if summary.not_finite == summary.processed:
        say(
            "no frame was classified: every output of the model had NaN or infinity; export it again with --precision fp32"
        )
        raise typer.Exit(1)
