"""Adds up the energy of rails while it is open: differences of counters, integrals of powers."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from edgefuse_benchmarks.energy.source import Counter, Power, Source

POWER_INTERVAL_S = 0.02
COUNTER_INTERVAL_S = 1.0
"""A counter that restarts is read more often than it restarts: RAPL needs at least a minute."""


class Meter:
    """The energy of all rails of some sources since it was opened. A thread reads them; `joules` may be called from any thread."""

    def __init__(self, sources: Sequence[Source], *, clock: Callable[[], float] = time.monotonic) -> None:
        """Remember the rails; nothing is read before `with meter:`."""
        self._rails = [rail for source in sources for rail in source.rails]
        self._totals = {_total_name(source): source.total for source in sources if len(source.total) > 1}
        self._clock = clock
        self._lock = threading.Lock()
        self._joules = dict.fromkeys((rail.name for rail in self._rails), 0.0)
        self._last: dict[str, tuple[float, float]] = {}
        self._stop = threading.Event()
        has_power = any(isinstance(rail, Power) for rail in self._rails)
        self._interval_s = POWER_INTERVAL_S if has_power else COUNTER_INTERVAL_S
        self._thread = threading.Thread(target=self._run, daemon=True, name="energy")

    def joules(self) -> dict[str, float]:
        """Rail -> joules since the meter was opened, and the total of each source with several rails.

        Raises:
            OSError: a rail cannot be read any more.
        """
        with self._lock:
            for rail in self._rails:
                self._read(rail)
            totals = {name: sum(self._joules[rail] for rail in rails) for name, rails in self._totals.items()}
            return {**self._joules, **totals}

    def _read(self, rail: Counter | Power) -> None:
        now_s = self._clock()
        value = rail.read_j() if isinstance(rail, Counter) else rail.read_w()
        last = self._last.get(rail.name)
        self._last[rail.name] = (now_s, value)
        if last is None:
            return
        last_s, last_value = last
        if isinstance(rail, Power):
            self._joules[rail.name] += (value + last_value) / 2 * (now_s - last_s)
        elif value >= last_value:
            self._joules[rail.name] += value - last_value
        else:  # it restarted at 0; without a known end, at least what it counted since then
            self._joules[rail.name] += value + (0.0 if rail.wraps_at_j is None else rail.wraps_at_j - last_value)

    def _run(self) -> None:
        while not self._stop.wait(self._interval_s):
            try:
                self.joules()
            except (OSError, ValueError):  # `joules` raises it to the caller
                return

    def __enter__(self) -> Meter:
        self.joules()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()


def total_of(source: Source) -> str:
    """The name of a source's total in `Meter.joules`."""
    return source.total[0] if len(source.total) == 1 else _total_name(source)


def _total_name(source: Source) -> str:
    return f"total of {source.name}"
