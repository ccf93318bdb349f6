"""CPU threads: their limit, and calls that run with all threads of PyTorch or with one, whichever is faster at the moment.

If other processes use the cores, the threads of an operator wait for each other: on two cores with one other busy process, a batch took
0.58 s with one thread and 2.07 s with two (0.38 s with two on idle cores). The choice is not for training, whose result would depend on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

import cv2
import torch

Result = TypeVar("Result")

PERIOD = 32
"""Both numbers of threads are timed once in this many calls."""


class FasterThreads:
    """Calls its argument; the number of threads of PyTorch is as before afterwards.

    Example:
        >>> FasterThreads()(lambda: 1 + 1)
        2
    """

    def __init__(self) -> None:
        self.num_calls = 0
        self.seconds: dict[int, float] = {}
        self.most = 1

    def __call__(self, call: Callable[[], Result]) -> Result:
        most = torch.get_num_threads()
        if most == 1:
            return call()
        if most != self.most:
            self.most, self.num_calls, self.seconds = most, 0, {}
        timed = {1: most, 2: 1}.get(self.num_calls % PERIOD)  # not the first call, which also prepares the layers
        fastest = min(self.seconds, key=lambda n: self.seconds[n]) if self.seconds else most
        self.num_calls += 1
        chosen = fastest if timed is None else timed
        torch.set_num_threads(chosen)
        start = time.perf_counter()
        try:
            result = call()
        finally:
            torch.set_num_threads(most)
        self.seconds[chosen] = time.perf_counter() - start  # not of a call that failed
        return result


def limit_threads(count: int | None) -> None:
    """Limit the CPU threads of torch and OpenCV; None = no limit.

    With small images a second thread of OpenCV makes nothing faster and waits at full load: 1.14 ms a pair of 128x128 with one or two, and 1.14 or 1.90
    ms of CPU time.
    """
    if count is not None:
        torch.set_num_threads(count)
        cv2.setNumThreads(count)
