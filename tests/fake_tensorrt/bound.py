"""What pybind11's objects insist on: no new attributes, and arguments of the declared types."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fake_tensorrt import FakeTensorRT


class Bound:
    """An object of the bindings: only declared properties can be set. Names with an underscore are the stand-in's own."""

    _fake: FakeTensorRT

    def __setattr__(self, name: str, value: object) -> None:
        if not name.startswith("_"):
            declared = getattr(type(self), name, None)
            # Classes that the code under test derives get a __dict__, as they do from pybind11.
            if not hasattr(declared, "__set__") and type(self).__module__ == "tensorrt":
                raise AttributeError(f"'tensorrt.{type(self).__name__}' object has no attribute '{name}'")
        object.__setattr__(self, name, value)


class Setting:
    """A property that can be set, of one type, starting at `default`."""

    def __init__(self, default: Any, kind: str) -> None:
        self.default, self.kind = default, kind

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    def __get__(self, owner: Any, _kind: type | None = None) -> Any:
        if owner is None:
            return self
        value = owner.__dict__.get(f"_{self.name}", self.default)
        if isinstance(value, str) and self.kind in owner._fake.enums:  # an enum's default, named
            return owner._fake.enums[self.kind][value]
        return value

    def __set__(self, owner: Any, value: Any) -> None:
        check(owner._fake, value, self.kind)
        object.__setattr__(owner, f"_{self.name}", value)


def check(fake: FakeTensorRT, value: Any, kind: str) -> None:
    """Refuse what pybind11 refuses: a Path where a str is due, a flag of another enum, a float where an int is due.

    Args:
        kind: "str", "int", "bool", "buffer", "dims" or a class of the module.

    Raises:
        TypeError: `value` is something else.
    """
    if kind == "buffer":
        fits = isinstance(value, bytes | bytearray | memoryview)
    elif kind == "dims":
        fits = isinstance(value, Dims) or (isinstance(value, Sequence) and all(isinstance(n, int) for n in value))
    elif kind == "int":
        fits = hasattr(value, "__index__")
    elif kind in ("str", "bool"):
        fits = isinstance(value, {"str": str, "bool": bool}[kind])
    else:
        fits = value is None or isinstance(value, fake.enums.get(kind) or getattr(fake.module, kind))
    if kind in ("ILogger", "IProgressMonitor") and value is not None and fits and not hasattr(value, "_made"):
        raise TypeError(f"tensorrt.{kind}.__init__() must be called when overriding __init__")
    if not fits:
        raise TypeError(f"incompatible function arguments: {kind} expected. Invoked with: {value!r}")


class Dims:
    """Looks like a tuple, is none."""

    MAX_DIMS = 8

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(int(size) for size in shape)

    def __len__(self) -> int:
        return len(self._shape)

    def __getitem__(self, index: Any) -> Any:
        return self._shape[index]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence | Dims) and tuple(other) == self._shape

    def __hash__(self) -> int:
        return hash(self._shape)

    def __repr__(self) -> str:
        return repr(self._shape)


class IHostMemory(bytearray):
    """Memory that TensorRT owns: a buffer, for `bytes(memory)` and `file.write(memory)`."""

    _fake: FakeTensorRT

    @property
    def nbytes(self) -> int:
        return len(self)

    @property
    def dtype(self) -> Any:
        return self._fake.enums["DataType"]["INT8"]
