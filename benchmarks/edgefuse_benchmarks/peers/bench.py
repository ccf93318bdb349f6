"""Scope "raw frame" for edgefuse and for other ways to serve the same network, in one process, with one thread each.

Every way must have the model's outputs on framed pairs and edge cases before anything is timed; one that differs, is not installed or
fails is named with the reason. Ultralytics runs another network, so only what its program takes around the network is compared.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import check_parity
from edgefuse.evaluation.metrics import Predictor
from edgefuse.framing import centre_square, codes_of_one_mm, fit
from edgefuse.measure import Plan, Series, Variant, measure, ratio, timer_overhead_ns
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.peers.edgefuse_peer import WORDS, classifier, name_of, word_of_auto
from edgefuse_benchmarks.peers.peer import NUM_THREADS, Classify, Peer, Source
from edgefuse_benchmarks.peers.ways import SERVED, SLOW_TO_OPEN, ULTRALYTICS, WAYS, Opener
from edgefuse_benchmarks.report import Group, Report, bundle_facts
from edgefuse_benchmarks.suites.preprocess import read_pairs
from edgefuse_runtime.engines import GPU_WORDS
from edgefuse_runtime.engines.auto_engine import NOT_AVAILABLE

PLAN = Plan(warmup_s=0.5, min_warmup_calls=10, measure_s=90.0, min_rounds=100, max_rounds=1000)
QUICK_PLAN = Plan(warmup_s=0.1, min_warmup_calls=5, measure_s=5.0, min_rounds=20, max_rounds=200)
CALLS_PER_TURN, SETTLE_CALLS = 2, 1
"""One call first, so that each way finds its own weights in the caches, as in a program of its own."""
ALONE = ": network alone"

SLOW_START_MS = 1000.0

Frame = tuple[NDArray[np.uint8], NDArray[np.uint16]]


@dataclass(kw_only=True)
class _Opened:
    """The ways that are measured, by name, and why others are not.

    Attributes:
        ready_ms: opening, compiling and the first frame, without imports of what was imported before.
    """

    peers: dict[str, Peer] = field(default_factory=dict)
    ready_ms: dict[str, float] = field(default_factory=dict)
    not_measured: dict[str, str] = field(default_factory=dict)
    parity: list[dict[str, Any]] = field(default_factory=list)


def bench_peers(
    bundle_folder: Path,
    *,
    camera: str = "synthetic",
    run_folder: Path | None = None,
    with_slow: bool = True,
    plan: Plan = PLAN,
    progress: Progress = no_progress,
) -> Report:
    """Measure edgefuse and its peers on complete frames.

    Args:
        camera: source of the frames; see `edgefuse_runtime.cameras.open_camera`.
        run_folder: the run that the bundle was exported from, for the ways that run PyTorch.
        with_slow: also those that take seconds to open.
        progress: called with the number of ways that are opened, and in total.

    Raises:
        UserError: no bundle, run or camera, or a camera without frames.
    """
    described, bundle = machine.describe(), open_bundle(bundle_folder)
    pairs = read_pairs(camera, contract=bundle.manifest.contract)
    frames = [(one.rgb, codes_of_one_mm(one.depth, depth_unit_m=one.depth_unit_m)) for one in pairs.frames]
    source = _source(bundle, run_folder, frames)
    opened = _Opened()
    with ExitStack() as stack:
        stack.callback(cv2.setNumThreads, cv2.getNumThreads())
        cv2.setNumThreads(NUM_THREADS)
        ours = _open_all(opened, stack, source, frames[0], with_slow=with_slow, progress=progress)
        cv2.setNumThreads(NUM_THREADS)  # Ultralytics sets its own
        answers = _answers(opened.peers, frames)
        series = _measure(opened.peers, frames, plan=plan)
    groups = _groups(opened, series, ours=ours, shape=frames[0][1].shape)
    return Report(
        benchmark="peers",
        machine=described,
        parameters={
            **bundle_facts(bundle),
            "camera": pairs.description,
            "num_pairs": len(frames),
            "threads": NUM_THREADS,
            "with_run": run_folder is not None,
            "plan": asdict(plan),
            "timer_overhead_ns": timer_overhead_ns(),
        },
        parity=(*opened.parity, *answers),
        groups=groups,
        notes=_notes(groups, answers, ours=ours),
    )


def _source(bundle: Bundle, run_folder: Path | None, frames: Sequence[Frame]) -> Source:
    if run_folder is not None:
        from edgefuse.training.run import open_run

        open_run(run_folder)  # a wrong folder is refused before minutes of measuring
    size = bundle.manifest.contract.size
    framed = [fit(*frame, size=size, roi=centre_square(*frame[1].shape)) for frame in frames]
    rgb, depth = (np.stack(arrays) for arrays in zip(*framed, strict=True))
    return Source(bundle=bundle, run_folder=run_folder, rgb=rgb, depth=depth)


def _open_all(
    opened: _Opened,
    stack: ExitStack,
    source: Source,
    frame: Frame,
    *,
    with_slow: bool,
    progress: Progress,
) -> str:
    """Open and compare every way. Returns the name of edgefuse with the engine that `--engine auto` runs."""
    ours = name_of(word_of_auto(source))
    openers: dict[str, Opener] = {name_of(word): partial(classifier, word=word) for word in WORDS}
    openers |= {name: way.open for name, way in WAYS.items()}
    of_gpus = {name_of(word) for word in GPU_WORDS}  # not named where there is none
    reference: tuple[str, Predictor] | None = None
    for number, (name, opener) in enumerate(openers.items()):
        progress(number, len(openers), stage=name)
        if name in SLOW_TO_OPEN and not with_slow:
            opened.not_measured[name] = "left out by --quick"
            continue
        with ExitStack() as attempt:
            try:
                start_s = time.perf_counter()
                peer = attempt.enter_context(opener(source))
                peer.classify(*frame)
                ready_ms = (time.perf_counter() - start_s) * 1e3
                if peer.outputs is not None:
                    reference = reference or (name, peer.predictor())
                    _compare(reference, (name, peer), source, opened.parity)
            except Exception as error:  # another library may raise anything; the rest must still be measured
                known = isinstance(error, UserError)
                if name not in of_gpus or not isinstance(error, NOT_AVAILABLE):
                    opened.not_measured[name] = str(error) if known else f"{type(error).__name__}: {error}"
                continue
            stack.push(attempt.pop_all())
        opened.peers[name], opened.ready_ms[name] = peer, ready_ms
    progress(len(openers), len(openers), stage="measuring")
    return ours


def _compare(
    reference: tuple[str, Predictor], candidate: tuple[str, Peer], source: Source, parity: list[dict[str, Any]]
) -> None:
    """Compare the outputs on framed pairs and edge cases.

    Raises:
        UserError: they differ.
    """
    name, peer = candidate
    if name == reference[0]:
        return
    report = check_parity(
        reference=reference[1],
        candidate=peer.predictor(),
        reference_name=reference[0],
        candidate_name=name,
        rgb=source.rgb,
        depth=source.depth,
        contract=source.bundle.manifest.contract,
        tolerance=peer.tolerance,
    )
    if failures := report.failures():
        raise UserError(f"its outputs differ from those of {reference[0]}: {'; '.join(failures)}")
    parity.append(report.to_json())


def _answers(peers: Mapping[str, Peer], frames: Sequence[Frame]) -> list[dict[str, Any]]:
    """The probabilities on complete frames against those of the first way: the ways resize differently."""
    found = {
        name: np.concatenate([peer.outputs(peer.classify(*frame)).probabilities for frame in frames])
        for name, peer in peers.items()
        if peer.outputs is not None
    }
    first, *others = found
    return [
        {
            "reference": first,
            "candidate": name,
            "complete_frames": len(frames),
            "same_class": int((found[name].argmax(axis=1) == found[first].argmax(axis=1)).sum()),
            "max_probability_difference": float(np.abs(found[name] - found[first]).max()),
        }
        for name in others
    ]


def _measure(peers: Mapping[str, Peer], frames: Sequence[Frame], *, plan: Plan) -> dict[str, Series]:
    """Every way on complete frames, and its network alone, by name."""
    calls: dict[str, Callable[[], object]] = {}
    for name, peer in peers.items():
        calls[name] = partial(_next, peer.classify, itertools.cycle(frames))
        if peer.network is not None:
            calls[f"{name}{ALONE}"] = peer.network
    variants = [
        Variant(name=name, call=call, calls_per_turn=CALLS_PER_TURN, settle_calls=SETTLE_CALLS)
        for name, call in calls.items()
    ]
    found = measure(variants, plan=plan, check=lambda: ())  # compared when they were opened
    return {one.name: replace(one, first_call_ns=None) for one in found}  # the first calls were those of the comparison


def _next(classify: Classify, frames: Iterator[Frame]) -> object:
    return classify(*next(frames))


def _groups(opened: _Opened, series: Mapping[str, Series], *, ours: str, shape: tuple[int, int]) -> tuple[Group, ...]:
    whole = [series[name] for name, peer in opened.peers.items() if peer.outputs is not None]
    frame_size = f"{shape[1]}x{shape[0]}"
    others = [one for one in whole if one.name != ours]
    groups = [
        Group(
            scope="raw frame",
            name=f"{frame_size}, the same network",
            series=tuple(whole),
            ratios=tuple(ratio(one, series[ours]) for one in others) if ours in series else (),
            facts={
                "ours": ours,
                "not_measured": opened.not_measured,
                "ready_ms": {name: round(value, 1) for name, value in opened.ready_ms.items()},
            },
        )
    ]
    around = {name: name + ALONE for name in opened.peers if name + ALONE in series}
    other_networks = [name for name, peer in opened.peers.items() if peer.outputs is None]
    if around:
        names = (*other_networks, *around.values())
        facts = {"around_ms": {name: _around_ms(series[name], series[alone]) for name, alone in around.items()}}
        shown = tuple(series[name] for name in names)
        groups.append(Group(scope="around the network", name=frame_size, series=shown, facts=facts))
    return tuple(groups)


def _around_ms(whole: Series, network: Series) -> dict[str, float]:
    """Complete frame less the network alone, in milliseconds: median and 5th to 95th percentile of the rounds."""
    differences = (np.median(whole.turns_ns, axis=1) - np.median(network.turns_ns, axis=1)) / 1e6
    p5, p50, p95 = (round(float(value), 4) for value in np.percentile(differences, (5, 50, 95)))
    return {"median": p50, "p5": p5, "p95": p95}


def _notes(groups: Sequence[Group], answers: Sequence[Mapping[str, Any]], *, ours: str) -> tuple[str, ...]:
    whole, *others = groups
    notes = [f"ratios are to {ours}, which --engine auto runs here"] if whole.ratios else []
    if answers:
        same = ", ".join(f"{one['candidate']} {one['same_class']}" for one in answers)
        num_frames, reference = answers[0]["complete_frames"], answers[0]["reference"]
        notes.append(
            f"same class as {reference} on {num_frames} complete frames, which each resizes its own way: {same}"
        )
    slow = {name: value for name, value in whole.facts["ready_ms"].items() if value >= SLOW_START_MS}
    if slow:
        text = ", ".join(f"{name} {value / 1e3:.1f} s" for name, value in slow.items())
        notes.append(f"opened and compiled, with the first frame, in over a second: {text}")
    for group in others:
        around = ", ".join(f"{name} {one['median']:.2f}" for name, one in group.facts["around_ms"].items())
        notes.append(f"around the network (complete frame less the network alone), median in ms: {around}")
    if ULTRALYTICS in whole.facts["ready_ms"]:
        notes.append(
            f"{ULTRALYTICS} runs another network, for RGB alone: only its time around the network can be compared"
        )
    if SERVED in whole.facts["ready_ms"]:
        notes.append(
            f"{SERVED} has processes of its own, which count as other processes in what is said of the machine"
        )
    return tuple(notes)
