"""A sink that shows a live view on a terminal: the newest prediction, timings, and the last results in a table."""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING

import numpy as np

from edgefuse.answers import NONE, UNKNOWN
from edgefuse.io.text import new_console, new_table, printable
from edgefuse_runtime.results import Event, LiveSummary, Result, Score
from edgefuse_runtime.sinks.lines import gate_of, label_of, nearest_of, probability_of, summary_lines
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.live import Live

    from edgefuse_runtime.camera import Frame

NUM_ROWS = 8
QUEUE_SIZE = 64
NUM_TIMINGS = 300
BAR_WIDTH = 32
REFRESH_PER_S = 8
"""Drawing holds the GIL for a few milliseconds."""


class TableSink:
    """A live view, redrawn by a separate thread at a fixed rate, independent of the rate of results."""

    def __init__(self, *, title: str = "edgefuse live", console: Console | None = None, stats: bool = False) -> None:
        """Set the title, the terminal (None = standard output), and whether the summary has percentiles of each stage."""
        self.info = SinkInfo(name="terminal", queue_size=QUEUE_SIZE)
        self._stats = stats
        self._title = title
        self._console = console
        self._live: Live | None = None
        self._lock = threading.Lock()
        self._results: deque[Result] = deque(maxlen=NUM_ROWS)
        self._latencies_ms: deque[float] = deque(maxlen=NUM_TIMINGS)
        self._score = Score()
        self._camera: Event | None = None

    def __enter__(self) -> TableSink:
        from rich.live import Live

        self._console = self._console if self._console is not None else new_console()
        self._live = Live(get_renderable=self._draw, console=self._console, refresh_per_second=REFRESH_PER_S)
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            live, self._live = self._live, None
            with contextlib.suppress(OSError):  # the terminal was closed
                live.stop()

    def result(self, result: Result, frame: Frame | None) -> None:
        with self._lock:
            self._results.append(result)
            if result.roi is not None:
                self._latencies_ms.append(result.latency_ms)
                self._score.add(result)

    def event(self, event: Event) -> None:
        if event.event == "camera":
            self._camera = event

    def summary(self, summary: LiveSummary) -> None:
        self.__exit__(None, None, None)
        if self._console is not None:
            for line in summary_lines(summary, stats=self._stats):
                self._console.print(printable(line))

    def _draw(self) -> RenderableType:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        camera = _camera(self._camera)
        with self._lock:
            results, latencies_ms = list(self._results), np.array(self._latencies_ms)
            accuracy = self._score.accuracy()
        if not results:
            waiting = Text("waiting for the first frame")
            return Panel(Group(camera, waiting) if camera is not None else waiting, title=self._title, width=80)
        newest = results[-1]
        now = Group(
            *([camera, Text()] if camera is not None else []),
            *(_prediction(newest), Text(), _bars(newest), Text(), _sensors(newest), Text()),
            _timings(newest, latencies_ms),
        )
        seen = f"frame {newest.frame}   dropped {newest.dropped}   stale {newest.stale}"
        right = ""
        if accuracy is not None and accuracy.fraction is not None:
            right = f"   accuracy {accuracy.fraction:.3f} ({accuracy.correct} of {accuracy.scored})"
        return Group(Panel(now, title=self._title, subtitle=seen + right, width=80, padding=(1, 2)), _table(results))


def _colour(result: Result) -> str:
    if result.label in (None, UNKNOWN):
        return "yellow"
    if result.label == NONE:
        return "white"
    return {None: "cyan", True: "green", False: "red"}[result.correct]


def _camera(event: Event | None) -> RenderableType | None:
    """A camera that does not send both images, or None."""
    from rich.text import Text

    if event is None or event.detail["state"] in ("running", "ended"):
        return None
    is_lost = event.detail["state"] in ("reconnecting", "failed")
    return Text(printable(event.message), "bold red" if is_lost else "yellow")


def _prediction(result: Result) -> RenderableType:
    from rich.text import Text

    text = Text.assemble(
        (f" {printable(label_of(result))} ", f"bold reverse {_colour(result)}"), f"  {probability_of(result)}"
    )
    if result.adaptive == "depth":
        text.append("   from depth alone", "dim")
    if result.correct is False:
        text.append(f"   it is {printable(result.expected or '')}", "red")
    if result.object is not None:
        decided = "no decision yet" if result.decided is None else printable(result.decided)
        text.append(f"\nobject {result.object}: {decided}", "bold")
    if result.warning:
        text.append(f"\nWARNING {printable(result.warning)}", "bold yellow")
    return text


def _bars(result: Result) -> RenderableType:
    from rich.bar import Bar
    from rich.table import Table

    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=16, no_wrap=True)
    for rank, (label, probability) in enumerate(result.top):
        color = _colour(result) if rank == 0 else "bright_black"
        grid.add_row(printable(label), Bar(1.0, 0.0, probability, width=BAR_WIDTH, color=color), f"{probability:.2f}")
    return grid


def _sensors(result: Result) -> RenderableType:
    """What the sensors contribute to this answer: the gate between RGB and depth, and how much depth there is."""
    from rich.text import Text

    valid = "" if result.valid_depth is None else f"{result.valid_depth:4.0%} of the region measured   "
    depth = f"\ndepth   {valid}nearest {nearest_of(result).strip()}"
    if result.gate_mean is None:
        return Text(f"gate    not a finite number{depth}")
    position = min(int(result.gate_mean * BAR_WIDTH), BAR_WIDTH - 1)
    line = "─" * position + "●" + "─" * (BAR_WIDTH - 1 - position)
    return Text.assemble(
        *("gate    ", ("RGB ", "magenta"), (line, "yellow"), (" depth", "blue")), f"  {result.gate_mean:.2f}{depth}"
    )


def _timings(result: Result, latencies_ms: np.ndarray) -> RenderableType:
    from rich.text import Text

    if not len(latencies_ms):
        return Text("no object so far")
    p50, p99 = np.percentile(latencies_ms, [50, 99])
    wait, *parts = (f"{stage} {value:.1f}" for stage, value in result.stages.by_stage().items())
    age = "" if result.age_ms is None else f"   frame age {result.age_ms:.1f}"
    return Text(
        f"latency {result.latency_ms:6.2f} ms   p50 {p50:.2f}   p99 {p99:.2f}   before: {wait}{age}\nof this  {'  '.join(parts)}"
    )


def _table(results: list[Result]) -> RenderableType:
    table = new_table(width=80, box=None, header_style="bold")
    for name in ("frame", "class", "probability", "gate", "nearest", "latency ms", "expected"):
        table.add_column(name, justify="left" if name in ("class", "expected") else "right", no_wrap=True)
    for result in reversed(results):
        table.add_row(
            str(result.frame) + (f" #{result.region}" if result.region else ""),
            label_of(result),
            probability_of(result),
            gate_of(result),
            nearest_of(result),
            f"{result.latency_ms:.2f}",
            result.expected or "",
            style=_colour(result) if result is results[-1] else "dim",
        )
    return table
