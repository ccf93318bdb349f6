"""Run in a process of its own, over stand-in libraries: prints every name of the real TensorRT bindings as JSON.

pybind11 puts the signatures into docstrings; they are taken apart here:

    {"version", "functions": {name: [overload]}, "values": {name: class}, "classes": {name: {"mro", "enum", "members"}}}
    overload = {"args": [[name, type, has default]], "returns": type}
    member   = {"kind": "method", "overloads"} | {"kind": "property", "type", "settable"} | {"kind": "value" or "class", "type"}

A type is a class of the bindings ("ICudaEngine"), "list[ITensor]", or whatever the docstring says ("int", "str", "buffer").
"""

from __future__ import annotations

import inspect
import json
import re
import sys
from typing import Any

import tensorrt_bindings as trt

_SKIPPED = {"__class__", "__doc__", "__module__", "__dict__", "__weakref__", "__entries"}
_OBJECT = set(dir(object)) - {"__init__"}
_CLASSES = {
    found.__qualname__: found
    for found in vars(trt).values()
    if isinstance(found, type) and "tensorrt" in found.__module__
}
_CLASSES.update(
    {
        inner.__qualname__: inner
        for found in list(_CLASSES.values())
        for inner in vars(found).values()
        if isinstance(inner, type)
    }
)


def split(text: str, separator: str = ",") -> list[str]:
    """Split where no bracket is open: defaults such as <Severity.WARNING: 2> hold anything."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter in "([{<") - (letter in ")]}")
        depth -= letter == ">" and not parts[-1].endswith("-")
        if letter == separator and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def type_name(text: str) -> str:
    """nvinfer1::v_1_0::IErrorRecorder and tensorrt_bindings.tensorrt.IErrorRecorder are one; the C++ IBuilder is Builder."""
    text = text.strip()
    inner = re.fullmatch(r"(?:\w+\.)*([Ll]ist|[Ss]equence)\[(.*)\]", text)
    if inner:
        return f"list[{type_name(inner[2])}]"
    name = text.split("::")[-1].removeprefix("tensorrt_bindings.tensorrt.")
    return name if name in _CLASSES or name[1:] not in _CLASSES else name[1:]


def overloads(name: str, doc: str) -> list[dict[str, Any]]:
    found = []
    for args, returns in re.findall(rf"^(?:\d+\. )?{re.escape(name)}\((.*)\) -> (.+)$", doc, re.MULTILINE):
        parsed = []
        for part in split(args):
            if part in ("/", "*"):  # where positional or named arguments end, no argument itself
                continue
            arg, _, rest = part.partition(":")
            kind, equals, _ = rest.partition(" = ")
            parsed.append([arg.strip(), type_name(kind), bool(equals)])
        found.append({"args": parsed, "returns": type_name(returns)})
    return found


def python_overload(function: Any) -> list[dict[str, Any]]:
    parameters = inspect.signature(function).parameters.values()
    args = [[one.name, "object", one.default is not inspect.Parameter.empty] for one in parameters]
    return [{"args": args, "returns": "object"}]


def member(name: str, value: Any) -> dict[str, Any]:
    if isinstance(value, property):
        returned = re.search(r"\) -> (.+)$", value.fget.__doc__ or "", re.MULTILINE) if value.fget else None
        # Setters without a documented getter tell no type.
        kind = type_name(returned[1]) if returned else "object"
        return {"kind": "property", "type": kind, "settable": value.fset is not None}
    if isinstance(value, type):
        return {"kind": "class", "type": value.__qualname__}
    if type(value).__qualname__ in _CLASSES:
        return {"kind": "value", "type": type(value).__qualname__, "number": int(value)}
    if callable(value):
        documented = overloads(name, value.__doc__ or "")
        if not documented and inspect.isfunction(value):
            documented = python_overload(value)
        return {"kind": "method", "overloads": documented}
    return {"kind": "value", "type": type(value).__name__}


def class_entry(found: type) -> dict[str, Any]:
    names = [name for name in dir(found) if name not in _SKIPPED | _OBJECT and "pybind11" not in name]
    return {
        "mro": [one.__qualname__ for one in found.__mro__ if one.__qualname__ in _CLASSES],
        "enum": {name: int(value) for name, value in getattr(found, "__members__", {}).items()},
        "members": {name: member(name, inspect.getattr_static(found, name)) for name in names if name != "__members__"},
    }


def main() -> None:
    dump: dict[str, Any] = {"version": trt.__version__, "functions": {}, "values": {}, "classes": {}}
    for name, found in _CLASSES.items():
        dump["classes"][name] = class_entry(found)
    for name, value in vars(trt).items():
        if isinstance(value, type) or name.startswith("__") or inspect.ismodule(value):
            continue
        if type(value).__qualname__ in _CLASSES:
            dump["values"][name] = type(value).__qualname__
        elif callable(value):
            documented = overloads(name, value.__doc__ or "") or python_overload(value)
            dump["functions"][name] = documented
    json.dump(dump, sys.stdout)


if __name__ == "__main__":
    main()
