"""Numeric limits of dataclass fields, declared next to their defaults. NaN, infinity and values out of range are refused.

Owns `limited`, `one_of` and `check_limits`, for frozen dataclasses with values from users. Standard library only.

Example:
    >>> @dataclass(frozen=True)
    ... class Recipe:
    ...     dropout: float = limited(0.2, 0, 1, below=True)
    ...     def __post_init__(self) -> None:
    ...         check_limits(self)
    >>> Recipe(dropout=float("nan"))
    Traceback (most recent call last):
    ...
    edgefuse.errors.UserError: dropout is nan: a number with 0 <= dropout < 1 was expected
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from edgefuse.errors import UserError

_KEY = "edgefuse.limits"


@dataclass(frozen=True)
class _Range:
    least: float
    most: float
    whole: bool
    above: bool
    below: bool
    optional: bool

    def expected(self, name: str) -> str:
        low = f"{self.least:g} {'<' if self.above else '<='} "
        high = "" if math.isinf(self.most) else f" {'<' if self.below else '<='} {self.most:.10g}"
        none = ", or None," if self.optional else ""
        return f"a {'whole ' if self.whole else 'finite ' if math.isinf(self.most) else ''}number with {low}{name}{high}{none} was expected"

    def has(self, value: object) -> bool:
        if value is None:
            return self.optional
        kind = numbers.Integral if self.whole else numbers.Real
        if isinstance(value, bool) or not isinstance(value, kind):
            return False
        try:
            number = float(value)
        except OverflowError:
            return False
        above = number > self.least if self.above else number >= self.least
        below = number < self.most if self.below else number <= self.most
        return math.isfinite(number) and above and below


def limited(
    default: float | None,
    least: float,
    most: float = math.inf,
    *,
    whole: bool = False,
    above: bool = False,
    below: bool = False,
    optional: bool = False,
) -> Any:
    """A dataclass field for a finite number from `least` to `most`.

    Args:
        whole: integers only.
        above, below: exclude `least` or `most`.
        optional: allow None.
    """
    return field(default=default, metadata={_KEY: _Range(least, most, whole, above, below, optional)})


def one_of(values: Sequence[object]) -> dict[str, Any]:
    """Metadata of a dataclass field that must be one of `values`."""
    return {_KEY: tuple(values)}


def check_limits(instance: Any, *, prefix: str = "") -> None:
    """Check every field of a dataclass against its limits.

    Raises:
        UserError: for the first field out of range; the field's name follows `prefix`.
    """
    for each in fields(instance):
        limits, value, name = each.metadata.get(_KEY), getattr(instance, each.name), prefix + each.name
        if isinstance(limits, _Range) and not limits.has(value):
            raise UserError(f"{name} is {value!r}: {limits.expected(name)}")
        if isinstance(limits, tuple) and not any(
            value is known or (value == known and type(value) is type(known)) for known in limits
        ):
            raise UserError(f"{name} is {value!r}: one of {', '.join(map(str, limits))} was expected")
