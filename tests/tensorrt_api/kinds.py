"""What an expression can be, as far as the check of names can tell. A value is a set of these: branches may differ."""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Foreign:
    """Nothing of TensorRT: numbers, texts, arrays, what other libraries and the standard library give."""


@dataclass(frozen=True)
class Nothing:
    """None; also what `getattr(x, name, None)` gives in a version that lacks the name."""


@dataclass(frozen=True)
class Unknown:
    """Declared Any, or not at all: it could be of TensorRT, so nothing may be asked of it."""


@dataclass(frozen=True)
class Text:
    """A text written in the source."""

    text: str


@dataclass(frozen=True)
class TrtModule:
    pass


@dataclass(frozen=True)
class TrtClass:
    name: str


@dataclass(frozen=True)
class TrtObject:
    name: str


@dataclass(frozen=True)
class TrtCallable:
    """A method of an object (bound), of a class (not bound), or a function of the module (owner "")."""

    owner: str
    name: str
    bound: bool


@dataclass(frozen=True)
class Many:
    """A list, tuple of any length, set, iterator or mapping; of a mapping, `keys` are what iterating gives."""

    values: frozenset[Any]
    keys: frozenset[Any] | None = None


@dataclass(frozen=True)
class Row:
    """A tuple of known length."""

    items: tuple[frozenset[Any], ...]


@dataclass(frozen=True)
class Calls:
    """Something annotated Callable: calling it gives this."""

    returns: frozenset[Any]


@dataclass(eq=False)
class ProjectClass:
    """A class of the project. `attributes` holds what its annotations and assignments say."""

    name: str
    module: Any
    node: ast.ClassDef
    bases: frozenset[Any] = frozenset()
    functions: dict[str, ProjectFunction] = field(default_factory=dict)
    attributes: dict[str, frozenset[Any]] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)

    def trt_bases(self) -> set[str]:
        found = {base.name for base in self.bases if isinstance(base, TrtClass)}
        for base in self.bases:
            if isinstance(base, ProjectClass):
                found |= base.trt_bases()
        return found


@dataclass(frozen=True)
class ProjectObject:
    of: ProjectClass


@dataclass(eq=False)
class ProjectFunction:
    """A function or method of the project. `returned` grows with what its body is seen to return."""

    name: str
    module: Any
    node: Any
    owner: ProjectClass | None = None
    scope: dict[str, frozenset[Any]] = field(default_factory=dict)
    returned: frozenset[Any] = frozenset()


TRT = (TrtModule, TrtClass, TrtObject, TrtCallable)

Value = frozenset[Any]

FOREIGN: Value = frozenset({Foreign()})
UNKNOWN: Value = frozenset({Unknown()})
NOTHING: Value = frozenset({Nothing()})


def one(kind: Any) -> Value:
    return frozenset({kind})


def element(value: Value) -> Value:
    """What iterating gives, of containers; empty for other kinds."""
    found: Value = frozenset()
    for kind in value:
        if isinstance(kind, Many):
            found |= kind.keys if kind.keys is not None else kind.values
        elif isinstance(kind, Row):
            found |= frozenset().union(*kind.items)
    return found


def of_trt(value: Value) -> bool:
    """Is anything of TensorRT in it?"""
    for kind in value:
        if isinstance(kind, TRT):
            return True
        if isinstance(kind, Many) and (of_trt(kind.values) or (kind.keys is not None and of_trt(kind.keys))):
            return True
        if isinstance(kind, Row) and any(of_trt(item) for item in kind.items):
            return True
        if isinstance(kind, ProjectObject) and kind.of.trt_bases():
            return True
    return False


def told(kind: Any) -> str:
    """For messages."""
    if isinstance(kind, TrtModule):
        return "tensorrt"
    if isinstance(kind, TrtClass | TrtObject):
        return kind.name
    if isinstance(kind, ProjectObject):
        return kind.of.name
    return type(kind).__name__.lower()
