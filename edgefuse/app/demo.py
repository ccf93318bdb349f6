"""The complete workflow without a camera: rendered data, four models, a bundle, a recording, and live on it.

Owns the order of the steps and the summary; each step calls the function of its command.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import load, scan
from edgefuse.io.environment import TRAINING_PACKAGES, versions
from edgefuse.io.files import folder_begun, refuse_existing
from edgefuse.io.json_files import write_json
from edgefuse.model.choices import FusionKind
from edgefuse.synth.rendered_set import stream, write_dataset
from edgefuse.training.callbacks import Callback
from edgefuse.training.recipe import TrainConfig, demo_rgbd
from edgefuse.training.trainer import train_on_dataset
from edgefuse_export.onnx.export import export_run
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.opening import open_live
from edgefuse_runtime.recording.write_db3 import write_recording
from edgefuse_runtime.regions.region import parse_region
from edgefuse_runtime.results import LiveSummary
from edgefuse_runtime.sinks.sink import Sink

FUSIONS: tuple[FusionKind, ...] = ("rgb", "depth", "naive", "gated")
RESULTS_NAME = "demo.json"
Metrics = dict[str, dict[str, Any]]
"""Fusion -> condition -> metrics."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class DemoSize:
    """Amount of data and training. The default takes about three minutes on two CPU cores."""

    num_pairs: int = 1000
    epochs: int | None = None
    num_live_frames: int = 90
    frames_per_object: int = 5


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """Result of the demo.

    Attributes:
        metrics: fusion -> condition -> metrics on held-out sequences, as in `metrics.json` of a run.
        live: summary of `edgefuse live` on the recording.
        seconds: step -> duration.
    """

    folder: Path
    bundle: Path
    recording: Path
    metrics: Metrics
    live: LiveSummary
    seconds: dict[str, float]


def run_demo(
    out: Path,
    *,
    seed: int = 0,
    size: DemoSize | None = None,
    force: bool = False,
    callback: Callback | None = None,
    on_trained: Callable[[Metrics], None] = lambda metrics: None,
    sinks: Sequence[Sink] = (),
    real_time: bool = False,
) -> DemoResult:
    """Run all steps and write their outputs to `out`.

    Args:
        seed: random seed of the images, the split and the training.
        callback: called after each batch and epoch of the trainings.
        on_trained: called with the metrics on held-out sequences before the export.
        sinks: receive the live results.
        real_time: play the recording at its original speed.

    Raises:
        UserError: `out` exists, or a step failed.
    """
    size = size if size is not None else DemoSize()
    refuse_existing(out, force=force, marker=RESULTS_NAME, contents=("data", "runs", "bundle", "live.db3", "live.json"))
    with folder_begun(out) as new:  # replaces an existing folder when the first step is done
        steps = _Steps(num_steps=5)
        text = f"render {size.num_pairs} RGB-D pairs of objects that neither sensor alone can distinguish"
        with steps("data", text):
            write_dataset(new.path / "data", num_pairs=size.num_pairs, seed=seed)
        write_json(new.path / RESULTS_NAME, {"state": "begun"})
        new.keep()
    data = out / "data"
    with steps("train", f"train {', '.join(FUSIONS)} on the same pairs; a quarter of the sequences is held out"):
        metrics = _train_all(data, out / "runs", config=_config(seed, size), callback=callback)
    on_trained(metrics)
    with steps("export", "export the gated model to ONNX and compare it with the PyTorch model"):
        bundle = export_run(out / "runs" / "gated", out / "bundle").bundle
    with steps("recording", f"record {size.num_live_frames} frames of new objects with librealsense's software device"):
        recording, regions = _record(out, seed=seed, size=size)
    with steps("live", f"edgefuse live {bundle.folder} --camera {recording} --roi {regions}"):
        live = _live(bundle, recording, regions, sinks=sinks, real_time=real_time)
    result = DemoResult(
        folder=out, bundle=bundle.folder, recording=recording, metrics=metrics, live=live, seconds=steps.seconds
    )
    write_json(out / RESULTS_NAME, _report(result, seed=seed, size=size))
    return result


class _Steps:
    """Logs each step when it starts, and records its duration."""

    def __init__(self, *, num_steps: int) -> None:
        self._num_steps = num_steps
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, name: str, text: str) -> Iterator[None]:
        _log.info("[%d/%d] %s", len(self.seconds) + 1, self._num_steps, text)
        begun_s = time.monotonic()
        yield
        self.seconds[name] = round(time.monotonic() - begun_s, 1)


def _report(result: DemoResult, *, seed: int, size: DemoSize) -> dict[str, Any]:
    return {
        "state": "done",
        "seed": seed,
        "size": asdict(size),
        "versions": versions(TRAINING_PACKAGES),
        "seconds": result.seconds,
        "held_out": result.metrics,
        "live": result.live.to_json(),
    }


def _config(seed: int, size: DemoSize) -> TrainConfig:
    config = replace(demo_rgbd(), seed=seed)
    return config if size.epochs is None else replace(config, epochs=size.epochs)


def _train_all(data: Path, runs: Path, *, config: TrainConfig, callback: Callback | None) -> Metrics:
    rgbd = load(scan([data]))
    metrics: Metrics = {}
    for fusion in FUSIONS:
        summary = train_on_dataset(rgbd, runs / fusion, config=replace(config, fusion=fusion), callback=callback)
        if summary.interrupted:
            raise KeyboardInterrupt
        metrics[fusion] = summary.metrics["test"]
        _log.info("      %-6s %.1f%% of held-out pairs", fusion, 100 * metrics[fusion]["both"]["accuracy"])
    return metrics


def _record(out: Path, *, seed: int, size: DemoSize) -> tuple[Path, Path]:
    """Record full camera frames, and write the region and the label of each frame to a JSON file."""
    frames = list(stream(seed=seed, num_frames=size.num_live_frames, frames_per_object=size.frames_per_object))
    recording = write_recording(out / "live.db3", [(frame.rgb, frame.depth) for frame in frames])
    entries = [
        {"frame": number, "label": frame.label, "roi_xywh": list(frame.roi_xywh)}
        for number, frame in enumerate(frames, 1)
    ]
    regions = out / "live.json"
    write_json(regions, {"unit_m": 0.001, "frames": entries})
    return recording, regions


def _live(bundle: Bundle, recording: Path, regions: Path, *, sinks: Sequence[Sink], real_time: bool) -> LiveSummary:
    region = parse_region(str(regions))
    with open_live(bundle, camera=str(recording), region=region, real_time=real_time, sinks=sinks) as live:
        summary = run_live(
            engine=live.engine,
            camera=live.camera,
            region=live.region,
            degraded_mode=bundle.manifest.degraded_mode,
            sinks=live.bus,
        )
    if summary.was_interrupted:
        raise KeyboardInterrupt
    return summary
