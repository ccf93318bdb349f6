"""One version of the bindings: which names it has, of which type they are, and which arguments a call takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

# pybind11 takes these for anything that behaves so; the code's own types are mypy's business.
_TAKES_TEXT = {"str", "object", "buffer", "Buffer", "typing_extensions.Buffer"}


@dataclass(frozen=True)
class Member:
    """A method, property, value or class inside a class.

    Attributes:
        kind: "method", "property", "value" or "class".
        type: what a property gives, what a value is, or the class's full name.
        settable: of a property.
        overloads: of a method; see dump_bindings.py.
    """

    kind: str
    type: str = ""
    settable: bool = False
    overloads: tuple[Any, ...] = ()


class Api:
    """What dump_bindings.py read off one version."""

    def __init__(self, dump: dict[str, Any]) -> None:
        self.version: str = dump["version"]
        self._classes: dict[str, Any] = dump["classes"]
        self.functions: dict[str, list[Any]] = dump["functions"]
        self.values: dict[str, str] = dump["values"]

    def has_class(self, name: str) -> bool:
        return name in self._classes

    def classes(self) -> list[str]:
        return list(self._classes)

    def enum(self, name: str) -> dict[str, int]:
        """Members and values; empty for what is no enum."""
        return self._classes[name]["enum"]  # type: ignore[no-any-return]

    def member(self, owner: str, name: str) -> Member | None:
        if self.enum(owner) and name in ("name", "value"):
            return Member(kind="property", type="str" if name == "name" else "int")
        found = self._classes[owner]["members"].get(name)
        if found is None:
            return None
        settable = found.get("settable", False)
        return Member(found["kind"], found.get("type", ""), settable, tuple(found.get("overloads", ())))

    def members(self, owner: str) -> dict[str, Member]:
        names = self._classes[owner]["members"]
        return {name: found for name in names if (found := self.member(owner, name)) is not None}

    def derives(self, name: str, base: str) -> bool:
        return base in self._classes[name]["mro"]

    def accepts(self, given: str, wanted: str) -> bool:
        """Can a value of the class `given` (or "str") stand where the signature says `wanted`?"""
        if given == "str":
            return wanted in _TAKES_TEXT or not (self.has_class(wanted) or wanted in ("int", "bool", "float"))
        if self.has_class(wanted):
            # An enum's only argument is a number; a tuple of numbers stands for Dims, but no object of the bindings does.
            return self.derives(given, wanted)
        return wanted != "str" and not (wanted in ("int", "typing.SupportsInt") and not self.enum(given))
