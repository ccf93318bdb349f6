"""A data set folder as a camera: its pairs in order, with their classes as labels."""

from __future__ import annotations

import time
from pathlib import Path
from types import TracebackType
from typing import Any

from edgefuse.contract import Align
from edgefuse.data.dataset import Dataset, read_pair, scan
from edgefuse.errors import UserError
from edgefuse_runtime.camera import Counters, EndOfStream, Frame


class Folder:
    """The pairs of `root/<class>/<sequence>/`, sorted by path, each once, as fast as the consumer reads."""

    def __init__(self, root: Path, *, align: Align = "color") -> None:
        """Choose the folder; `with` scans it.

        Args:
            align: the required alignment. A folder with the other one is refused, because stored pairs cannot be aligned again.
        """
        self._root = root
        self._align: Align = align
        self._dataset: Dataset | None = None
        self._counters = Counters()
        self._description: dict[str, Any] = {"kind": "folder", "path": str(root)}

    @property
    def align(self) -> Align:
        return self._align

    @property
    def description(self) -> dict[str, Any]:
        return self._description

    @property
    def counters(self) -> Counters:
        return self._counters

    def __enter__(self) -> Folder:
        dataset = scan([self._root], may_be_unchecked=True)
        if dataset.align != self._align:
            raise UserError(
                f"{self._root} is aligned to {dataset.align}, but the model needs pairs aligned to {self._align}: "
                f"record it again with --align {self._align}, or use a model trained on such pairs"
            )
        self._dataset, self._counters = dataset, Counters()
        self._description |= {
            "num_pairs": len(dataset.samples),
            "labels": list(dataset.labels),
            "align": dataset.align,
            "region": dataset.region,
        }
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._dataset = None

    def read(self, timeout_ms: int) -> Frame | None:
        """See `Camera.read`."""
        if self._dataset is None:
            raise RuntimeError("read outside of `with`")
        index = self._counters.delivered
        if index >= len(self._dataset.samples):
            raise EndOfStream
        sample = self._dataset.samples[index]
        arrival_ns = time.perf_counter_ns()
        rgb, depth = read_pair(sample.rgb_path, sample.depth_path)
        self._counters.received += 1
        self._counters.delivered += 1
        label = self._dataset.labels[sample.label]
        return Frame(
            rgb=rgb,
            depth=depth,
            depth_unit_m=sample.depth_unit_m,
            align=self._align,
            color_number=index + 1,
            depth_number=index + 1,
            timestamp_ms=0.0,
            timestamp_domain="none",
            arrival_ns=arrival_ns,
            ready_ns=time.perf_counter_ns(),
            name=f"{label}/{sample.sequence}/{sample.name}",
            label=label,
        )
