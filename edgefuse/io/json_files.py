"""Read and write JSON that users may have edited: strict parsing, checks of every field, atomic writes.

Owns reading and writing of JSON. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced
from edgefuse.io.text import printable

MAX_JSON_BYTES = 256 << 20


def dumps(value: Any, *, indent: int | None = None) -> str:
    """JSON text. NaN and infinity, which JSON does not have, become null."""
    return json.dumps(_without_nan(value), indent=indent, allow_nan=False)


def write_json(path: Path, value: Any, *, private: bool = False, follow_links: bool = True) -> None:
    """Write `value` as indented JSON atomically. NaN and infinity become null.

    Args:
        private, follow_links: see `edgefuse.io.files.file_replaced`.
    """
    with file_replaced(path, private=private, follow_links=follow_links) as temporary:
        temporary.write_text(dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, *, what: str, spec: Any = dict) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        what: a description of the file for messages, such as "the bundle's manifest".
        spec: the required fields; see `check_fields`. Other fields are allowed.

    Raises:
        UserError: the file is missing, unreadable, too large, not JSON (a BOM is allowed; NaN, infinity and duplicate keys
            are not), not an object, or a field does not match `spec`.
    """
    try:
        num_bytes = path.stat().st_size
        if num_bytes > MAX_JSON_BYTES:
            raise UserError(f"{what} has {num_bytes} bytes, at most {MAX_JSON_BYTES} were expected: {path}")
        data = path.read_bytes()
    except UserError:
        raise
    except FileNotFoundError:
        raise UserError(f"{what} is missing: {path}") from None
    except OSError as error:
        raise UserError(f"{what} cannot be read: {path} ({error.strerror})") from error
    except ValueError as error:  # a path that is not valid, such as one with a null character
        raise UserError(f"{what} cannot be read: {printable(str(path))} ({error})") from error
    value: dict[str, Any] = parse_json(data, what=f"{what} ({path})", spec=spec)
    return value


def parse_json(data: bytes | str, *, what: str, spec: Any = dict) -> Any:
    """Parse JSON by the rules of `read_json`.

    Args:
        what: start of every error message.
        spec: the required value; an object by default.
    """
    try:
        text = data.decode("utf-8-sig") if isinstance(data, bytes) else data
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_object)
    except UserError as error:
        raise UserError(f"{what} is not valid JSON: {error}") from None
    except RecursionError:
        raise UserError(f"{what} is not valid JSON: it is nested too deeply") from None
    except ValueError as error:  # also for bytes that are not UTF-8 and for numbers of thousands of digits
        raise UserError(f"{what} is not valid JSON: {printable(str(error))}") from error
    check_fields(value, spec, what=what)
    return value


def with_new_names(value: Mapping[str, Any], names: Mapping[str, str]) -> dict[str, Any]:
    """`value` with fields of older versions renamed. A field that already has its new name is unchanged.

    Example:
        >>> with_new_names({"votes": True, "size": 64}, {"votes": "auxiliary_heads"})
        {'auxiliary_heads': True, 'size': 64}
    """
    return {names[name] if name in names and names[name] not in value else name: field for name, field in value.items()}


class Optional:
    """In a spec: a field that may be missing or null."""

    def __init__(self, spec: Any) -> None:
        self.spec = spec


_KINDS = {
    str: "a string",
    int: "an integer",
    float: "a number",
    bool: "true or false",
    dict: "an object",
    list: "a list",
}


def check_fields(value: Any, spec: Any, *, what: str, where: str = "") -> None:
    """Check a JSON value against a spec.

    Args:
        spec: `str`, `int`, `float` (finite; integers too), `bool`, `dict` or `list` for a value of that type; `object`
            for any value; `[spec]` for a list of such values; `{"name": spec}` for an object with at least these fields;
            `{str: spec}` for an object whose values all match; `Optional(spec)` for a field that may be missing or null.
        what: a description of the file for messages.

    Raises:
        UserError: for the first difference, such as "has framing.sha256 = 1.5, a string was expected".

    Example:
        >>> check_fields({"labels": ["mug", 3]}, {"labels": [str]}, what="the run")
        Traceback (most recent call last):
        ...
        edgefuse.errors.UserError: the run has labels[1] = 3, a string was expected
    """
    if isinstance(spec, Optional):
        if value is not None:
            check_fields(value, spec.spec, what=what, where=where)
    elif isinstance(spec, type):
        if not _is(value, spec):
            found = f"has {where} = {_shown(value)}" if where else f"is {_shown(value)}"
            raise UserError(f"{what} {found}, {_KINDS[spec]} was expected")
    elif isinstance(spec, list):
        check_fields(value, list, what=what, where=where)
        for number, item in enumerate(value):
            check_fields(item, spec[0], what=what, where=f"{where}[{number}]")
    elif str in spec:
        check_fields(value, dict, what=what, where=where)
        for name, item in value.items():
            check_fields(item, spec[str], what=what, where=_joined(where, name))
    else:
        check_fields(value, dict, what=what, where=where)
        for name, item_spec in spec.items():
            if name not in value and not isinstance(item_spec, Optional):
                raise UserError(f"{what} lacks the field {_joined(where, name)}")
            check_fields(value.get(name), item_spec, what=what, where=_joined(where, name))


def _is(value: Any, kind: type) -> bool:
    if kind is object:
        return True
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and _is_finite(value)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, kind)


def _is_finite(value: float) -> bool:
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def _shown(value: Any) -> str:
    text = printable(repr(value))
    return text if len(text) <= 80 else f"{text[:77]}..."


def _joined(where: str, name: str) -> str:
    return f"{where}.{printable(name)}" if where else printable(name)


def _refuse_constant(name: str) -> NoReturn:
    raise UserError(f"it contains {name}, a finite number was expected")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError(f"the key {printable(twice)!r} occurs twice in one object")
    return value


def _without_nan(value: Any) -> Any:
    """A copy with None for every NaN and infinity. NumPy scalars are not converted and raise an error later."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _without_nan(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    return value
