"""What TensorRT's bindings answer to an attribute, a call or an assignment: what comes out of it, or what is wrong with it."""

from __future__ import annotations

import re

from kinds import (
    FOREIGN,
    NOTHING,
    Many,
    ProjectObject,
    Text,
    TrtCallable,
    TrtClass,
    TrtModule,
    TrtObject,
    Value,
    one,
)
from signatures import Api


class RefusedError(Exception):
    """The bindings of this version would refuse it; the message says why."""


def value_of(api: Api, type_name: str) -> Value:
    """What a type in a signature stands for."""
    inner = re.fullmatch(r"list\[(.*)\]", type_name)
    if inner:
        return one(Many(value_of(api, inner[1])))
    if type_name == "None":
        return NOTHING
    return one(TrtObject(type_name)) if api.has_class(type_name) else FOREIGN


def attribute(api: Api, kind: TrtModule | TrtClass | TrtObject | TrtCallable, name: str) -> Value:
    """Ask for `kind.name`.

    Raises:
        RefusedError: this version has no such name.
    """
    if isinstance(kind, TrtModule):
        return _of_module(api, name)
    if isinstance(kind, TrtCallable):
        raise RefusedError(f"{kind.owner}.{kind.name} is a method: it has no {name}")
    if not api.has_class(kind.name):
        raise RefusedError(f"there is no class {kind.name}")
    if name == "__members__" and isinstance(kind, TrtClass) and api.enum(kind.name):
        return one(Many(one(TrtObject(kind.name)), FOREIGN))
    if name in ("__name__", "__class__", "__qualname__", "__dict__"):
        return FOREIGN
    member = api.member(kind.name, name)
    if member is None:
        raise RefusedError(f"{kind.name} has no {name}")
    if member.kind == "method":
        return one(TrtCallable(kind.name, name, bound=isinstance(kind, TrtObject)))
    if member.kind == "class":
        return one(TrtClass(member.type))
    if member.kind == "property" and isinstance(kind, TrtClass):
        raise RefusedError(f"{kind.name}.{name} is a property: it belongs to an object")
    return value_of(api, member.type)


def _of_module(api: Api, name: str) -> Value:
    if api.has_class(name):
        return one(TrtClass(name))
    if name in api.values:
        return one(TrtObject(api.values[name]))
    if name in api.functions:
        return one(TrtCallable("", name, bound=False))
    if name == "__version__":
        return FOREIGN
    raise RefusedError(f"there is no tensorrt.{name}")


def assign(api: Api, kind: TrtModule | TrtClass | TrtObject | TrtCallable, name: str, value: Value) -> None:
    """`kind.name = value`.

    Raises:
        RefusedError: there is no such property, it cannot be set, or not to this.
    """
    member = api.member(kind.name, name) if isinstance(kind, TrtObject) else None
    if member is None:
        raise RefusedError(f"{getattr(kind, 'name', 'tensorrt')} has no property {name}")
    if member.kind != "property" or not member.settable:
        raise RefusedError(f"{kind.name}.{name} cannot be set")
    _check_value(api, value, member.type, f"{kind.name}.{name}")


def call(
    api: Api, kind: TrtClass | TrtCallable, args: list[Value], named: dict[str, Value], *, open_ended: bool
) -> Value:
    """Call a class, method or function.

    Args:
        open_ended: there is a *args or **kwargs, which nothing is known of.

    Raises:
        RefusedError: no overload takes these arguments.
    """
    if isinstance(kind, TrtClass):
        shown, member = kind.name, api.member(kind.name, "__init__")
        overloads = list(member.overloads) if member is not None else []
        if not overloads:
            raise RefusedError(f"{shown} cannot be made: its objects come from other calls")
        skip = 1
    else:
        shown = f"{kind.owner}.{kind.name}".lstrip(".")
        found = api.member(kind.owner, kind.name) if kind.owner else None
        overloads = list(found.overloads) if found is not None else api.functions.get(kind.name, [])
        skip = 1 if kind.bound else 0
    if not overloads:
        return FOREIGN
    reasons = []
    for overload in overloads:
        try:
            _check_call(api, overload["args"][skip:], args, named, shown=shown, open_ended=open_ended)
        except RefusedError as error:
            reasons.append(str(error))
            continue
        return one(TrtObject(kind.name)) if isinstance(kind, TrtClass) else value_of(api, overload["returns"])
    raise RefusedError("; ".join(dict.fromkeys(reasons)))


def _check_call(
    api: Api, wanted: list[list[object]], args: list[Value], named: dict[str, Value], *, shown: str, open_ended: bool
) -> None:
    names = [str(name) for name, _, _ in wanted]
    if any(name.startswith("*") for name in names):
        return
    if len(args) > len(names):
        raise RefusedError(f"{shown} takes {len(names)} arguments ({', '.join(names)}), not {len(args)}")
    given = dict(zip(names, args, strict=False))
    for name, value in named.items():
        if name not in names or name.startswith("arg") or name in given:
            raise RefusedError(f"{shown} takes no argument {name} here (it takes {', '.join(names) or 'none'})")
        given[name] = value
    missing = [str(name) for name, _, has_default in wanted if not has_default and name not in given]
    if missing and not open_ended:
        raise RefusedError(f"{shown} lacks the argument {missing[0]}")
    for name, type_name, _ in wanted:
        if name in given:
            _check_value(api, given[str(name)], str(type_name), f"{shown}({name})")


def _check_value(api: Api, value: Value, wanted: str, where: str) -> None:
    for kind in value:
        if isinstance(kind, Text):
            fits, shown = api.accepts("str", wanted), repr(kind.text)
        elif isinstance(kind, TrtObject):
            fits, shown = not api.has_class(kind.name) or api.accepts(kind.name, wanted), kind.name
        elif isinstance(kind, ProjectObject) and kind.of.trt_bases():
            bases = [base for base in kind.of.trt_bases() if api.has_class(base)]
            fits, shown = any(api.accepts(base, wanted) for base in bases), kind.of.name
        elif isinstance(kind, TrtClass | TrtModule):
            fits, shown = wanted == "object", f"the class {getattr(kind, 'name', 'tensorrt')} itself"
        else:
            continue
        if not fits:
            raise RefusedError(f"{where} takes {wanted}, not {shown}")
