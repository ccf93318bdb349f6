"""All benchmarks of a bundle one after another, into one folder with one HTML report. What fails is left out, with the reason."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from edgefuse.bundle import open_bundle
from edgefuse.errors import EdgefuseError, UserError
from edgefuse.measure import Plan
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks.energy.source import find_sources
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.report import Report, save
from edgefuse_benchmarks.reporting.page import write_page

DEMO = Path("demo")
NUM_QUICK_PAIRS = 64
"""Rendered for the training of a quick run, so that its epochs are short."""


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What is measured.

    Attributes:
        camera, roi: as for `edgefuse bench live`.
        data: a data set for the training; None = a rendered one.
    """

    bundle: Path
    camera: str = "synthetic"
    roi: str | None = None
    data: Path | None = None


@dataclass(kw_only=True)
class AllResults:
    """What came of it.

    Attributes:
        folder: with all JSON files and plots.
        seconds: benchmark -> duration.
        failed: benchmark -> why it has no result.
    """

    folder: Path
    page: Path
    seconds: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def demo_inputs(folder: Path = DEMO) -> Inputs:
    """The files of `make demo`.

    Raises:
        UserError: there are none.
    """
    if not (folder / "bundle").is_dir():
        raise UserError(f"there is no {folder / 'bundle'} here: run make demo first, or give a BUNDLE")
    inputs = Inputs(bundle=folder / "bundle", data=folder / "data" if (folder / "data").is_dir() else None)
    if not ((folder / "live.db3").is_file() and (folder / "live.json").is_file()):
        return inputs
    return replace(inputs, camera=str(folder / "live.db3"), roi=str(folder / "live.json"))


def bench_all(inputs: Inputs, *, out: Path, quick: bool, progress: Progress = no_progress) -> AllResults:
    """Run core, engine, preprocess, live, train, peers (those that need no run) and, where it can be measured and not quick, energy.

    Args:
        out: a new folder is made in it.
        quick: fewer samples: about a minute on two cores, instead of about ten.
        progress: called with the number of benchmarks done and in total.

    Raises:
        UserError: no bundle, or no benchmark has a result.
    """
    open_bundle(inputs.bundle)
    folder = out / f"all-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    results = AllResults(folder=folder, page=folder / "report.html")
    suites = _suites(inputs, quick=quick)
    for number, (name, run) in enumerate(suites.items()):
        progress(number, len(suites), stage=name)
        start_s = time.monotonic()
        try:
            report = run().finished()
        except Exception as error:  # even a fault of edgefuse must not lose the other results
            is_known = isinstance(error, EdgefuseError)
            results.failed[name] = str(error) if is_known else f"{type(error).__name__}: {error}"
            continue
        path = save(report, folder)
        results.seconds[name] = time.monotonic() - start_s
        try:
            save_plot(report, path.with_suffix(".png"))
        except Exception as error:
            results.failed[f"plot of {name}"] = str(error)
    progress(len(suites), len(suites), stage="report")
    if not results.seconds:
        raise UserError(
            f"no benchmark has a result: {'; '.join(f'{name}: {why}' for name, why in results.failed.items())}"
        )
    write_page(folder, results.page)
    return results


def _suites(inputs: Inputs, *, quick: bool) -> dict[str, Callable[[], Report]]:
    suites = {
        "core": _core,
        "engine": _engine,
        "preprocess": _preprocess,
        "live": _live,
        "train": _train,
        "peers": _peers,
    }
    if not quick and find_sources().sources:
        suites["energy"] = _energy
    return {name: partial(run, inputs, quick) for name, run in suites.items()}


def _core(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.suites.core import PLAN, WIDTHS, bench_core

    if not quick:
        return bench_core(plan=PLAN, widths=WIDTHS)
    return bench_core(
        plan=Plan(warmup_s=0.05, min_warmup_calls=10, measure_s=1.0, min_rounds=10, max_rounds=100), widths=(128, 512)
    )


def _engine(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.suites.engine import NUM_STARTS, PLAN, bench_engine

    if not quick:
        return bench_engine(inputs.bundle, camera=inputs.camera, plan=PLAN, num_starts=NUM_STARTS, num_pauses=1)
    plan = Plan(warmup_s=0.2, min_warmup_calls=10, measure_s=2.0, min_rounds=30, max_rounds=300)
    return bench_engine(inputs.bundle, camera=inputs.camera, plan=plan, num_starts=2)


def _preprocess(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.suites.preprocess import PLAN, QUICK_PLAN, bench_preprocess

    return bench_preprocess(inputs.bundle, camera=inputs.camera, plan=QUICK_PLAN if quick else PLAN)


def _live(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.suites.live import bench_live
    from edgefuse_benchmarks.suites.live_passes import PLAN, LivePlan

    quick_plan = LivePlan(num_results=60, measure_s=8.0, frames_of_pass=35, num_starts=1, num_memory_frames=200)
    plan = quick_plan if quick else PLAN
    return bench_live(inputs.bundle, camera=inputs.camera, roi=inputs.roi, plan=plan)


def _train(inputs: Inputs, quick: bool) -> Report:
    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.synth.rendered_set import write_dataset
    from edgefuse.training.recipe import recipe_with_options
    from edgefuse_benchmarks.suites.train import PLAN, QUICK_PLAN, bench_train

    config = recipe_with_options("small_rgbd", size=open_bundle(inputs.bundle).manifest.contract.size)
    if not quick and inputs.data is not None:
        return bench_train([inputs.data], config=config, plan=PLAN)
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "rendered"
        write_dataset(data, num_pairs=NUM_QUICK_PAIRS, size=config.size, seed=0, num_workers=1)
        return bench_train([data], config=config, plan=QUICK_PLAN if quick else PLAN)


def _peers(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.peers.bench import bench_peers

    measure_s, min_rounds = (1.0, 20) if quick else (30.0, 60)
    plan = Plan(warmup_s=0.1, min_warmup_calls=5, measure_s=measure_s, min_rounds=min_rounds, max_rounds=500)
    return bench_peers(inputs.bundle, camera=inputs.camera, with_slow=not quick, plan=plan)


def _energy(inputs: Inputs, quick: bool) -> Report:
    from edgefuse_benchmarks.suites.energy import QUICK_PLAN, bench_energy

    return bench_energy(inputs.bundle, camera=inputs.camera, plan=QUICK_PLAN)
