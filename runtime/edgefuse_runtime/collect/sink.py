"""`CollectSink`: the output of `edgefuse live --collect`, and what the page's button "This was wrong" calls."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import threading
import time
from collections import Counter, deque
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from edgefuse.answers import BACKGROUND, NONE, UNKNOWN
from edgefuse.data.collection import SCHEMA
from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE
from edgefuse.io.text import check_name
from edgefuse_runtime.collect.folder import MAX_MB, MIN_FREE_MB, CollectionFolder, NoRoomError, Place
from edgefuse_runtime.collect.reasons import VALUES, Alone, Changes, Reason, group_of, reasons_of, suggested
from edgefuse_runtime.collect.seen import Before, Seen, Shown, copied
from edgefuse_runtime.collect.sensors_alone import SensorsAlone
from edgefuse_runtime.frame_times import utc
from edgefuse_runtime.recording.record import check_label
from edgefuse_runtime.results import Event, LiveSummary, Result
from edgefuse_runtime.sensor_health import ALL_OK
from edgefuse_runtime.sinks.sink import SinkInfo

if TYPE_CHECKING:
    from edgefuse.bundle import Bundle
    from edgefuse_runtime.camera import Frame

PER_HOUR = 30
"""Frames of one answer that are kept in an hour."""
PAUSE_S = 2.0
"""Between two frames that are kept for the same reason."""
HOUR_S = 3600.0
NICENESS = 10
"""Of the thread that compresses and writes, so that it does not take time from the engine."""
_FIELDS = (
    "probability", "top", "gate_mean", "nearest_m", "valid_depth", "sensors", "warning", "expected", "object", "decided", "frame",
    "index", "region", "time",
)  # fmt: skip
_REGION = re.compile(r"whole|center|nearest|-?\d+,-?\d+,\d+,\d+")

_log = logging.getLogger(__name__)


class CollectSink:
    """Keeps frames that are worth labelling. If it is busy, results are left out and counted.

    `mark_wrong`, `shown` and `hold` are called by other threads (`edgefuse_runtime.web.collector.Collector`).
    """

    def __init__(
        self,
        root: Path,
        bundle: Bundle,
        *,
        max_mb: int = MAX_MB,
        per_hour: int = PER_HOUR,
        min_free_mb: int = MIN_FREE_MB,
    ) -> None:
        """Choose the folder.

        Args:
            bundle: of the run.
            max_mb, min_free_mb: see `CollectionFolder`.
            per_hour: frames of each answer in an hour; 0 = only those that are marked as wrong.
        """
        self.info = SinkInfo(name=f"collection {root}", queue_size=2, wants_images=True)
        labels = bundle.manifest.labels
        self._folder = CollectionFolder(root, labels=labels, max_mb=max_mb, min_free_mb=min_free_mb)
        self._model, self._per_hour = bundle.folder.resolve().name, per_hour
        self._alone = SensorsAlone(bundle)
        self._changes, self._before, self._shown = Changes(), Before(), Shown()
        self._differing: dict[int, Frame] = {}
        self._region = ANY_CROP
        self._lock = threading.Lock()  # of what follows, and of the folder
        self._is_open = False
        self._kept_at: dict[str, deque[float]] = {}
        self._last_s: dict[str, float] = {}
        self._counts: Counter[str] = Counter()
        self._has_warned = False

    def __enter__(self) -> CollectSink:
        with contextlib.suppress(OSError):  # not on every system
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        with self._lock:
            self._folder.__enter__()
            self._is_open = True
            self._kept_at.clear()
            now_s = time.time()
            for kept in self._folder.entries():
                at_s = _unix_s(kept["time"])
                if VALUES["before"] < kept["value"] < VALUES["wrong"] and now_s - HOUR_S < at_s <= now_s:
                    self._kept_at.setdefault(kept.get("group") or "", deque()).append(at_s)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._is_open = False
            self._folder.__exit__(kind, error, trace)
        self._alone.close()

    def event(self, event: Event) -> None:
        if event.event == "started":
            word = str((event.detail.get("region") or {}).get("roi", WHOLE)).partition(":")[0]
            self._region = word if _REGION.fullmatch(word) else ANY_CROP

    def summary(self, summary: LiveSummary) -> None:
        counts = ", ".join(f"{count} {reason}" for reason, count in self._counts.most_common())
        _log.info("collected in %s: %s", self._folder.root, counts or "nothing")

    def result(self, result: Result, frame: Frame | None) -> None:
        if frame is None or result.roi is None:
            return
        differs, slip = self._changes.update(result)
        region = result.region if result.region is not None else -1
        if differs:
            self._differing[region] = copied(frame)
        if slip is not None:
            self._consider(Seen(slip, self._differing.pop(region)), ["changed"])
        reasons = reasons_of(result)
        alone = self._alone(frame, result.roi) if result.sensors == ALL_OK else None
        if alone is not None and alone.rgb != alone.depth:
            reasons.insert(0, "sensors disagree")
        if reasons:
            self._consider(Seen(result, frame), reasons, alone)
        else:
            self._before.add(result, frame)

    def _consider(self, seen: Seen, reasons: list[Reason], alone: Alone | None = None) -> None:
        """Keep a frame and those before it, if quotas and space allow it."""
        at_s = seen.result.times.published_ns / 1e9
        new = [reason for reason in reasons if at_s - self._last_s.get(reason, -PAUSE_S) >= PAUSE_S]
        if not new:
            return
        self._last_s |= dict.fromkeys(reasons, at_s)
        with self._lock:
            if not self._is_within_quota(group_of(seen.result)):
                self._counts["over the quota"] += 1
                return
            place = self._keep(seen, reasons, label=None, alone=alone)
            if place is None:
                return
            for one in self._before.take(seen.result):
                self._keep(one, ["before"], label=None, kept_for=place.name)

    def _is_within_quota(self, group: str) -> bool:
        kept = self._kept_at.setdefault(group, deque())
        now_s = time.time()
        while kept and not now_s - HOUR_S < kept[0] <= now_s:
            kept.popleft()
        return len(kept) < self._per_hour

    def _keep(
        self,
        seen: Seen,
        reasons: list[Reason],
        *,
        label: str | None,
        alone: Alone | None = None,
        kept_for: str | None = None,
    ) -> Place | None:
        """Write a pair. `label`: the true class; None = to be checked. Returns None if there is no room."""
        result = seen.result
        if result.roi is None:
            return None
        value = max(VALUES[reason] for reason in reasons)
        shown = result.to_json()
        kept: dict[str, Any] = {
            "kind": "collected",
            "schema": SCHEMA,
            "label": label if label is not None else suggested(result),
            "labelled_by": None if label is None else "page",
            "reasons": reasons,
            "value": value,
            "kept_for": kept_for,
            "answer": result.label,
            "group": group_of(result),
            "alone": None if alone is None else alone._asdict(),
            "model": self._model,
            **{name: shown[name] for name in _FIELDS},
        }
        try:
            place = self._folder.add(_place(result, label), seen.frame, result.roi, region=self._region, kept=kept)
        except NoRoomError:
            self._counts["without room"] += 1
            if not self._has_warned:
                self._has_warned = True
                _log.warning("%s is full (--collect-mb): label or remove frames", self._folder.root)
            return None
        if place is None:
            return None
        self._counts[reasons[0]] += 1
        if VALUES["before"] < value < VALUES["wrong"]:
            self._kept_at.setdefault(group_of(result), deque()).append(time.time())
        return place

    # Called by the page, in threads of its own

    def shown(self, result: Result, frame: Frame) -> None:
        """A frame was sent to viewers, who may mark it."""
        self._shown.add(result, frame)

    def hold(self, index: int) -> None:
        """A viewer looks at a frame for longer."""
        self._shown.hold(index)

    def mark_wrong(self, index: int, label: str) -> str:
        """See `Collector.mark_wrong`."""
        label = BACKGROUND if label == NONE else label
        check_name(label, what="class")
        if label == UNKNOWN or (label.startswith("_") and label != BACKGROUND):
            raise UserError(f"{label} is not the name of a class: choose another one")
        check_label(self._folder.root, label)
        seen = self._shown.get(index)
        if seen is None:
            raise UserError("that frame is not kept any more: press Pause when you see one")
        if seen.result.roi is None:
            raise UserError("no object was found in that frame, so it has no region to train with")
        with self._lock:
            if not self._is_open:
                raise UserError("the collection is not open: see the messages of live")
            try:
                place = self._keep(seen, ["wrong"], label=label)
            except OSError as error:
                raise UserError(f"it cannot be written: {error.strerror}") from error
        if place is None:
            raise UserError("the collection is full of labelled frames (--collect-mb)")
        return f"Frame {seen.result.frame} is kept as {label}."


def _place(result: Result, label: str | None) -> Place:
    """Class, sequence (a minute in UTC) and name (second and region) of a pair."""
    at = utc(result.times.published_unix_ms)  # 2026-11-26T07:23:48.123Z
    sequence = f"live_{at[:10].replace('-', '')}_{at[11:16].replace(':', '')}"
    region = result.region if result.region is not None else 0
    name = f"{at[17:19]}_{at[20:23]}_r{region}"
    return Place(label if label is not None else suggested(result), sequence, name, is_labelled=label is not None)


def _unix_s(time_text: str) -> float:
    with contextlib.suppress(ValueError):
        return datetime.fromisoformat(time_text.replace("Z", "+00:00")).timestamp()
    return 0.0
