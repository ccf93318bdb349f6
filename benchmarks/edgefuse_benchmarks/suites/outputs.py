"""What outputs of `edgefuse live` cost: latency without one, with `--collect`, with `--web`, and with five viewers of its page.

The ways take turns in one process, with one engine and the same frames: 24 rendered scenes of 640x480, a third of a second each, at 30 a
second as from a camera. Each turn is a run of its own; its first three seconds, in which outputs and viewers start, are left out. Viewers
run on the same machine, in another process.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import socket
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from edgefuse.bundle import Bundle
from edgefuse.contract import Align
from edgefuse.io.json_files import dumps, parse_json
from edgefuse.measure import ParityError, Series, ratio
from edgefuse.progress import Progress, no_progress
from edgefuse_benchmarks import machine
from edgefuse_benchmarks.report import Group, Report, bundle_facts
from edgefuse_benchmarks.suites.live_passes import Collect
from edgefuse_runtime.camera import Counters, Frame
from edgefuse_runtime.cameras.synthetic import FRAMES_PER_SCENE, NUM_SCENES, Synthetic
from edgefuse_runtime.engines import open_engine
from edgefuse_runtime.engines.engine import Engine
from edgefuse_runtime.live.loop import run_live
from edgefuse_runtime.live.options import OutputOptions
from edgefuse_runtime.results import Result
from edgefuse_runtime.sinks.sink import Sink

NONE, COLLECT, WEB, VIEWERS = "no output", "--collect", "--web", "--web, 5 viewers"
WAYS = (NONE, COLLECT, WEB, VIEWERS)
NUM_VIEWERS = 5
SHOWN_PER_SCENE, KEPT_PER_SCENE = 10, 3


@dataclass(frozen=True, kw_only=True)
class OutputsPlan:
    """How long to measure: `num_frames` of each turn count, after `num_first` that do not."""

    num_rounds: int = 7
    num_frames: int = SHOWN_PER_SCENE * NUM_SCENES
    num_first: int = 90
    rate_hz: float = 30.0


class Paced:
    """Frames in memory as a camera: at a rate, and with new numbers."""

    align: Align = "color"

    def __init__(self, shown: Sequence[Frame], *, rate_hz: float) -> None:
        self._shown, self._rate_hz, self._start_s = shown, rate_hz, 0.0
        self.counters = Counters()

    @property
    def description(self) -> dict[str, Any]:
        return {"kind": "paced", "name": "built-in scenes", "rate_hz": self._rate_hz}

    def __enter__(self) -> Paced:
        self._start_s = time.monotonic()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def read(self, timeout_ms: int) -> Frame:
        """See `Camera.read`; waits for the time of the next frame."""
        number = self.counters.delivered
        time.sleep(max(self._start_s + number / self._rate_hz - time.monotonic(), 0.0))
        self.counters.received = self.counters.delivered = number + 1
        scene, place = divmod(number, SHOWN_PER_SCENE)
        frame = self._shown[scene % NUM_SCENES * KEPT_PER_SCENE + place % KEPT_PER_SCENE]
        now_ns = time.perf_counter_ns()
        return replace(
            frame, color_number=number + 1, depth_number=number + 1, name=str(number + 1), arrival_ns=now_ns, ready_ns=now_ns
        )  # fmt: skip


def rendered() -> list[Frame]:
    """The first frames of each scene."""
    found: list[Frame] = []
    with Synthetic() as camera:
        for number in range(NUM_SCENES * FRAMES_PER_SCENE):
            frame = camera.read(0)
            assert frame is not None
            if number % FRAMES_PER_SCENE < KEPT_PER_SCENE:
                found.append(frame)
    return found


def bench_outputs(
    bundle: Bundle,
    *,
    ways: Sequence[str] = WAYS,
    plan: OutputsPlan | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
    progress: Progress = no_progress,
) -> Report:
    """Measure the latency of each of `ways`, the first of which is compared with the others.

    Raises:
        ParityError: the answers of two turns differ.
    """
    plan = plan if plan is not None else OutputsPlan()
    described, shown = machine.describe(), rendered()
    turns: dict[str, list[list[Result]]] = {way: [] for way in ways}
    done: dict[str, list[int]] = {way: [] for way in ways if way in (COLLECT, VIEWERS)}
    rng, num_turns = np.random.default_rng(0), 0
    with open_engine(bundle, engine=engine, num_threads=num_threads) as opened:
        for _ in range(plan.num_rounds):
            for way in rng.permutation(ways):
                progress(num_turns, plan.num_rounds * len(ways))
                num_turns += 1
                results, num_done = _turn(str(way), bundle, opened, shown, plan)
                turns[str(way)].append(results)
                if way in done:
                    done[str(way)].append(num_done)
        facts = opened.description
    answers = {tuple(result.label for result in turn) for way in ways for turn in turns[way]}
    if len(answers) > 1:
        raise ParityError("the answers differ between turns, so the times cannot be compared")
    series = tuple(_series(way, turns[way]) for way in ways)
    return Report(
        benchmark="outputs",
        machine=described,
        parameters={**bundle_facts(bundle), "engine": facts, "plan": asdict(plan), "done": done},
        parity=(),
        groups=(
            Group(
                scope="frame to result",
                name=f"{plan.rate_hz:g} frames/s, with outputs",
                series=series,
                ratios=tuple(ratio(one, series[0]) for one in series[1:]),
                facts={"p99_ratio": {one.name: _p99_ratio(one, series[0]) for one in series[1:]}},
            ),
        ),
        notes=tuple(_p99_note(one, series[0]) for one in series[1:]),
    ).finished()


def _turn(
    way: str, bundle: Bundle, engine: Engine, shown: Sequence[Frame], plan: OutputsPlan
) -> tuple[list[Result], int]:
    """One run: the results that count, and the number of pairs that were collected, or of frames that viewers got."""
    port = _free_port()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "collected"
        options = OutputOptions(
            bundle=bundle,
            collect=folder if way == COLLECT else None,
            web=str(port) if way in (WEB, VIEWERS) else None,
        )
        results = Collect()
        _, *outputs = options.sinks()  # the first one prints
        sinks: list[Sink] = [results, *outputs]
        if way == VIEWERS:
            num_seen = stack.enter_context(_watching(port))
        with Paced(shown, rate_hz=plan.rate_hz) as camera:
            run_live(engine=engine, camera=camera, sinks=sinks, num_frames=plan.num_first + plan.num_frames)
        num_done = num_seen.value if way == VIEWERS else len(list(folder.glob("_review/*/*/*.json")))
    return results.results[plan.num_first :], num_done


def _series(way: str, turns: Sequence[Sequence[Result]]) -> Series:
    return Series(
        name=way,
        turns_ns=np.array([[round(result.latency_ms * 1e6) for result in turn] for turn in turns], np.int64),
    )


def _p99_ratio(one: Series, other: Series) -> dict[str, float]:
    by_round = np.percentile(one.turns_ns, 99, axis=1) / np.percentile(other.turns_ns, 99, axis=1)
    whole = one.summary().p99_ns / other.summary().p99_ns
    found = {"all": whole, "median": np.median(by_round), "lowest": by_round.min(), "highest": by_round.max()}
    return {name: round(float(value), 3) for name, value in found.items()}


def _p99_note(one: Series, other: Series) -> str:
    found = _p99_ratio(one, other)
    return f"p99 {one.name} / {other.name}: {found['all']:.2f}; in single rounds {found['lowest']:.2f} to {found['highest']:.2f}"


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def _watching(port: int) -> Iterator[Any]:
    """Viewers in another process; the value counts their frames."""
    context = multiprocessing.get_context("spawn")
    num_seen = context.Value("i", 0)
    process = context.Process(target=_watch, args=(port, num_seen), daemon=True)
    process.start()
    try:
        yield num_seen
    finally:
        process.kill()
        process.join()


def _watch(port: int, num_seen: Any) -> None:
    """Confirm every frame of the page, as a browser does."""
    import asyncio
    import struct

    from websockets.asyncio.client import connect
    from websockets.exceptions import WebSocketException

    async def view() -> None:
        while True:
            with contextlib.suppress(OSError, WebSocketException):  # until it is served
                async with connect(f"ws://127.0.0.1:{port}/live", max_size=None, compression=None) as page:
                    async for message in page:
                        if isinstance(message, bytes):
                            (length,) = struct.unpack("<I", message[:4])
                            number = parse_json(message[4 : 4 + length], what="a message")["id"]
                            await page.send(dumps({"kind": "ack", "id": number}))
                            num_seen.value += 1
            await asyncio.sleep(0.1)

    async def all_of_them() -> None:
        await asyncio.gather(*(view() for _ in range(NUM_VIEWERS)))

    asyncio.run(all_of_them())
