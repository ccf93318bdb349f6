"""A goal of a benchmark: what was wanted, what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Goal:
    """A goal and what was measured."""

    what: str
    measured: float
    limit: float
    is_most: bool
    unit: str = ""

    @property
    def is_met(self) -> bool:
        return self.measured <= self.limit if self.is_most else self.measured >= self.limit

    def line(self) -> str:
        """One line of text."""
        relation = "at most" if self.is_most else "at least"
        verdict = "met" if self.is_met else "MISSED"
        return f"goal {verdict}: {self.what} {self.measured:.3g}{self.unit}, {relation} {self.limit:g}{self.unit} was wanted"

    def to_json(self) -> dict[str, Any]:
        """A JSON object."""
        return {**asdict(self), "is_met": self.is_met}
