"""What pages show: the pairs that match a filter, in an order, and the state of the data sets. Owns the messages to the pages."""

from __future__ import annotations

import hashlib
import math
import secrets
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from edgefuse.answers import shown_label
from edgefuse.errors import UserError
from edgefuse.io.text import by_number, some_of
from edgefuse_runtime.browse.analysis import Analysis, Twin
from edgefuse_runtime.browse.changes import Changes
from edgefuse_runtime.browse.index import SHOWN, Entry, Index

SCHEMA = 1
MAX_ROWS = 200
NO_ANSWER = "no decision"
SHOW = ("all", "review", "wrong", "twins", "elsewhere", "issues")
ORDERS = ("name", "loss", "new")


@dataclass(frozen=True, kw_only=True)
class Query:
    """A filter and an order. Empty = any.

    Attributes:
        show: "all"; "review": nobody has checked the label; "wrong": the model gives another answer; "twins": near-duplicates;
            "elsewhere": those in different sequences or classes; "issues": labels that cleanlab doubts.
        order: "name"; "loss", the largest first; "new": the newest files first.
    """

    label: str = ""
    sequence: str = ""
    answer: str = ""
    reason: str = ""
    show: str = "all"
    order: str = "name"


@dataclass(frozen=True, kw_only=True)
class Row:
    """A pair in a list.

    Attributes:
        id, version, state: see `Entry`.
        stamp: part of the addresses of its images; changes with them.
        suggestion: the label that nobody has checked.
        answer, probability: of the model, or of live for a pair of a collection.
        loss: cross-entropy of the model's probabilities with the label.
        reasons: why live kept it.
        twin, likeness: the most similar other pair and their correlation.
        issue: cleanlab's score of the label, if it doubts it; 0 = certainly wrong.
        problem: why its images cannot be shown.
        has_whole: whether there are whole images of which it is a region.
    """

    id: int
    version: int
    state: str
    stamp: str
    label: str
    sequence: str
    name: str
    source: int
    is_review: bool
    suggestion: str | None
    answer: str | None
    probability: float | None
    loss: float | None
    reasons: tuple[str, ...]
    twin: int | None
    likeness: float | None
    issue: float | None
    problem: str
    has_whole: bool


class Page:
    """Answers the requests of pages. Its methods may be called in any thread."""

    def __init__(self, index: Index, analysis: Analysis, *, title: str, version: str) -> None:
        """Choose what to show.

        Args:
            version: of the page's files.
        """
        self.index, self.analysis, self.changes = index, analysis, Changes(index)
        self.run = secrets.token_hex(8)
        self._title, self._version = title, version

    @property
    def revision(self) -> str:
        """Changes whenever pages have to be drawn again."""
        return f"{self.index.revision}.{self.analysis.revision}.{self.analysis.num_done}"

    def state(self, known: str) -> dict[str, Any]:
        """The state of the data sets; only its revision for those who know it."""
        with self.index.lock:
            self.index.refresh()
            if known == self.revision:
                return {"run": self.run, "revision": known}
            entries, last = self.index.shown(), self.changes.last
            sources = self.index.sources
            problems = [problem for source in sources for problem in source.problems]
            return {
                "schema": SCHEMA,
                "run": self.run,
                "version": self._version,
                "revision": self.revision,
                "title": self._title,
                "read_only": [source.read_only for source in sources],
                "labels": self.index.labels,
                "counts": dict(Counter(entry.label for entry in entries if not entry.is_review)),
                "sequences": sorted({entry.sequence for entry in entries}, key=by_number),
                "answers": sorted(
                    {self._answer(entry)[0] or NO_ANSWER for entry in entries if self._has_answer(entry)}
                ),
                "reasons": sorted({reason for entry in entries for reason in entry.noted.get("reasons", ())}),
                "num_pairs": len(entries),
                "num_review": sum(entry.is_review for entry in entries),
                "has_model": bool(self.analysis.labels),
                "progress": [self.analysis.num_done, len(entries)] if self.analysis.is_wanted else None,
                "ready": sorted(self.analysis.ready),
                "message": self.analysis.message,
                "problems": f"{len(problems)} problem(s): {some_of(problems, most=1)}" if problems else "",
                "last": None
                if last is None
                else {"source": sources.index(last[0]), "number": last[1].number, "text": last[1].text},
            }

    def rows(self, query: Query, *, start: int, count: int) -> dict[str, Any]:
        """A part of the pairs that match.

        Raises:
            UserError: an unknown filter or order.
        """
        if query.show not in SHOW or query.order not in ORDERS:
            raise UserError(f"show is one of {', '.join(SHOW)}, order one of {', '.join(ORDERS)}")
        for word, shows in (("twins", ("twins", "elsewhere")), ("issues", ("issues",))):
            if query.show in shows:
                self.analysis.want(word)
        with self.index.lock:
            found = [entry for entry in self.index.shown() if self._matches(entry, query)]
            found.sort(key=self._order(found, query))
            start = max(0, min(start, len(found) - 1))
            part = found[start : start + min(max(count, 1), MAX_ROWS)]
            rows = [self._row(entry) for entry in part]
        return {"revision": self.revision, "total": len(found), "start": start, "rows": rows}

    def rows_of(self, ids: Sequence[int]) -> dict[str, Any]:
        """Some pairs by their numbers, also those that are not there any more."""
        with self.index.lock:
            entries = [self.index.entries[number] for number in ids[:MAX_ROWS] if number in self.index.entries]
            return {"revision": self.revision, "rows": [self._row(entry) for entry in entries]}

    def done(self, text: str, entries: Sequence[Entry]) -> dict[str, Any]:
        """The answer to a change."""
        return {"message": text, **self.rows_of([entry.id for entry in entries])}

    def _matches(self, entry: Entry, query: Query) -> bool:
        answer = (self._answer(entry)[0] or NO_ANSWER) if self._has_answer(entry) else ""
        return (
            (not query.label or (entry.label == query.label and not entry.is_review))
            and query.sequence in ("", entry.sequence)
            and query.answer in ("", answer)
            and (not query.reason or query.reason in entry.noted.get("reasons", ()))
            and self._is_in(entry, query.show, answer)
        )

    def _is_in(self, entry: Entry, show: str, answer: str) -> bool:
        if show == "review":
            return entry.is_review
        if show == "wrong":
            return bool(answer) and not entry.is_review and answer != shown_label(entry.label)
        if show == "issues":
            return entry.id in self.analysis.issues
        return show == "all" or self._twin(entry, show) is not None

    def _order(self, found: Sequence[Entry], query: Query) -> Callable[[Entry], Any]:
        sources = {id(source): number for number, source in enumerate(self.index.sources)}

        def name(entry: Entry) -> Any:
            return sources[id(entry.source)], entry.label, by_number(entry.sequence), by_number(entry.name)

        if query.show == "issues":
            return lambda entry: (self.analysis.issues[entry.id], name(entry))
        if query.show in ("twins", "elsewhere"):
            groups = self._groups(found, query.show)
            return lambda entry: (groups[entry.id], name(entry))
        if query.order == "loss":
            losses = {entry.id: self.analysis.loss(entry) for entry in found}
            return lambda entry: (-(losses[entry.id] if losses[entry.id] is not None else -math.inf), name(entry))  # type: ignore[operator]
        if query.order == "new":
            return lambda entry: (-max((state[2] for state in entry.stamp if state), default=0), name(entry))
        return name

    def _groups(self, found: Sequence[Entry], show: str) -> dict[int, int]:
        """The smallest number among those that are near-duplicates of each other, so that they follow each other."""
        group = {entry.id: entry.id for entry in found}

        def root(number: int) -> int:
            while group[number] != number:
                group[number] = number = group[group[number]]
            return number

        for entry in found:
            twin = self._twin(entry, show)
            if twin is not None and twin.id in group:
                first, second = sorted((root(entry.id), root(twin.id)))
                group[second] = first
        return {number: root(number) for number in group}

    def _twin(self, entry: Entry, show: str = "twins") -> Twin | None:
        twin = (self.analysis.twins_elsewhere if show == "elsewhere" else self.analysis.twins).get(entry.id)
        return twin if twin is not None and self.index.entries[twin.id].state == SHOWN else None

    def _has_answer(self, entry: Entry) -> bool:
        facts = self.analysis.facts.get(entry.id)
        return (facts is not None and facts.scores is not None) or "answer" in entry.noted

    def _answer(self, entry: Entry) -> tuple[str | None, float | None]:
        facts = self.analysis.facts.get(entry.id)
        if facts is not None and facts.scores is not None:
            return facts.answer, facts.probability
        return entry.noted.get("answer"), entry.noted.get("probability")

    def _row(self, entry: Entry) -> Row:
        facts, loss = self.analysis.facts.get(entry.id), self.analysis.loss(entry)
        answer, probability = self._answer(entry)
        twin = self._twin(entry) or self._twin(entry, "elsewhere")
        return Row(
            id=entry.id,
            version=entry.version,
            state=entry.state,
            stamp=hashlib.sha256(f"{self.run}{entry.stamp}".encode()).hexdigest()[:12],
            label=entry.label,
            sequence=entry.sequence,
            name=entry.name,
            source=next(number for number, source in enumerate(self.index.sources) if source is entry.source),
            is_review=entry.is_review,
            suggestion=entry.suggestion,
            answer=(answer or NO_ANSWER) if self._has_answer(entry) else None,
            probability=probability,
            loss=None if loss is None else round(loss, 3),
            reasons=tuple(entry.noted.get("reasons", ())),
            twin=None if twin is None else twin.id,
            likeness=None if twin is None else round(twin.likeness, 3),
            issue=self.analysis.issues.get(entry.id),
            problem="" if facts is None else facts.problem,
            has_whole=entry.whole is not None,
        )


def plain(value: dict[str, Any]) -> dict[str, Any]:
    """A message with its rows as JSON values."""
    return {name: [asdict(row) for row in item] if name == "rows" else item for name, item in value.items()}
