"""`Analysis`: model answers, near-duplicates and label issues of the pairs of an index, computed in a thread of its own."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefuse.data.check import closest_twins, thumbnail
from edgefuse.errors import EdgefuseError
from edgefuse_runtime.browse.index import Entry, Index
from edgefuse_runtime.browse.label_issues import label_issues
from edgefuse_runtime.browse.sources import Stamp
from edgefuse_runtime.classifier import Classifier

NICE = 10
"""Pages come first."""
IDLE_S = 0.5
STEP = 50
"""Pages see new answers after so many pairs."""
MIN_PROBABILITY = 1e-6

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, eq=False)
class Facts:
    """What was computed from the images of a pair.

    Attributes:
        answer: of the model; None = no decision, or without a model.
        scores: [C], the model's probabilities.
        problem: why the images cannot be used; empty if they can.
    """

    stamp: Stamp
    thumbnail: NDArray[np.float32] | None = None
    answer: str | None = None
    probability: float | None = None
    scores: NDArray[np.float32] | None = None
    problem: str = ""


@dataclass(frozen=True)
class Twin:
    """The most similar other pair, and the correlation of the two."""

    id: int
    likeness: float


class Analysis:
    """Reads every pair once, in the background. `with` starts and ends the thread."""

    def __init__(self, index: Index, classifier: Classifier | None = None) -> None:
        """Choose the model; without one, pairs are read when `want` is called."""
        self._index, self._classifier = index, classifier
        self.facts: dict[int, Facts] = {}
        self.twins: dict[int, Twin] = {}
        self.twins_elsewhere: dict[int, Twin] = {}
        self.issues: dict[int, float] = {}
        self.message = ""
        self.revision = self.num_done = 0
        self.ready: set[str] = set()
        """What is complete: "answers", "twins", "issues"."""
        self._wanted = {"answers"} if classifier is not None else set[str]()
        self._changed, self._is_ending = threading.Event(), False
        self._done_for: dict[str, object] = {}
        self._thread = threading.Thread(target=self._run, name="analysis", daemon=True)

    @property
    def labels(self) -> tuple[str, ...]:
        """The classes of the model."""
        return () if self._classifier is None else self._classifier.labels

    @property
    def is_wanted(self) -> bool:
        return bool(self._wanted)

    def want(self, what: str) -> None:
        """Compute "twins" or "issues" too."""
        if what not in self._wanted:
            self._wanted.add(what)
            self._changed.set()

    def loss(self, entry: Entry) -> float | None:
        """Cross-entropy of the model's answer with the label; None without one, or for a class that the model does not have."""
        facts = self.facts.get(entry.id)
        if facts is None or facts.scores is None or facts.stamp != entry.stamp or entry.label not in self.labels:
            return None
        return float(-np.log(max(float(facts.scores[self.labels.index(entry.label)]), MIN_PROBABILITY)))

    def __enter__(self) -> Analysis:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending = True
        self._changed.set()
        self._thread.join(10)

    def _run(self) -> None:
        with suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICE)
        try:
            with ExitStack() as stack:
                if self._classifier is not None:
                    stack.enter_context(self._classifier)
                while not self._is_ending:
                    if self._wanted:
                        self._step()
                    self._changed.wait(IDLE_S)
                    self._changed.clear()
        except Exception as error:
            _log.exception("the analysis has ended")
            self.message = f"There are no more answers: {error}"

    def _step(self) -> None:
        with self._index.lock:
            entries, revision = self._index.shown(), self._index.revision
        todo = [entry for entry in entries if self._is_new(entry)]
        self.num_done = len(entries) - len(todo)
        for number, entry in enumerate(todo, start=1):
            if self._is_ending:
                return
            self.facts[entry.id] = self._facts(entry)
            self.num_done += 1
            if number % STEP == 0:
                self.revision += 1
        self.ready.add("answers")
        pairs = [(entry.id, entry.stamp) for entry in entries]
        for what, compute, of in (("twins", self._find_twins, pairs), ("issues", self._find_issues, revision)):
            if what in self._wanted and self._done_for.get(what) != of:
                compute(entries)
                self.ready.add(what)
                self._done_for[what] = of
                self.revision += 1
        if todo:
            self.revision += 1

    def _is_new(self, entry: Entry) -> bool:
        facts = self.facts.get(entry.id)
        return facts is None or facts.stamp != entry.stamp

    def _facts(self, entry: Entry) -> Facts:
        stamp = entry.stamp
        try:
            rgb, depth = entry.read()
            if self._classifier is None:
                return Facts(stamp=stamp, thumbnail=thumbnail(rgb))
            found = self._classifier(rgb, depth, depth_unit_m=entry.source.depth_unit_m, roi="whole")
        except (EdgefuseError, OSError) as error:
            return Facts(stamp=stamp, problem=str(error))
        return Facts(
            stamp=stamp,
            thumbnail=thumbnail(rgb),
            answer=found.label,
            probability=found.probability,
            scores=found.scores,
        )

    def _find_twins(self, entries: Sequence[Entry]) -> None:
        usable = [entry for entry in entries if self.facts[entry.id].thumbnail is not None]
        if not usable:
            return
        thumbnails = np.stack([self.facts[entry.id].thumbnail for entry in usable])  # type: ignore[misc]
        groups = [f"{entry.label}/{entry.sequence}" for entry in usable]

        def found(names: Sequence[str]) -> dict[int, Twin]:
            twins = closest_twins(thumbnails, names)
            return {usable[i].id: Twin(usable[j].id, likeness) for i, j, likeness in twins}

        self.twins, self.twins_elsewhere = found([str(entry.id) for entry in usable]), found(groups)

    def _find_issues(self, entries: Sequence[Entry]) -> None:
        usable = [
            e for e in entries if e.label in self.labels and self.facts[e.id].scores is not None and not e.is_review
        ]
        try:
            scores = [self.facts[entry.id].scores for entry in usable]
            found = label_issues([self.labels.index(entry.label) for entry in usable], scores)  # type: ignore[arg-type]
        except EdgefuseError as error:
            self.message = f"No label issues: {error}"
            return
        self.issues = {usable[place].id: score for place, score in found.items()}
