"""Read the metadata of an ONNX file without the onnx package, which devices do not have.

Owns reading of `metadata_props` from untrusted files. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.errors import UserError

# onnx.proto: field numbers of ModelProto.metadata_props and of StringStringEntryProto.
_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2

# Wire types of protobuf.
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def read_metadata(path: Path) -> dict[str, str]:
    """Key -> value; empty if the file has no metadata. Invalid UTF-8 is replaced by U+FFFD.

    Raises:
        UserError: unreadable, or not in ONNX format.
    """
    try:
        data = memoryview(path.read_bytes())
        found = {}
        for entry in (payload for number, payload in _fields(data) if number == _METADATA_PROPS):
            pair = {number: bytes(text).decode("utf-8", "replace") for number, text in _fields(entry)}
            found[pair.get(_KEY, "")] = pair.get(_VALUE, "")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error
    except (ValueError, IndexError) as error:
        raise UserError(f"{path} is not an ONNX file: it is not a protobuf message") from error
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each length-delimited field of a message; other fields are skipped.

    Raises:
        ValueError, IndexError: not a message.
    """
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        number, kind = tag >> 3, tag & 7
        if kind == _VARINT:
            _, position = _varint(data, position)
            continue
        if kind == _BYTES:
            size, position = _varint(data, position)
        elif kind in (_FIXED_32, _FIXED_64):
            size = 4 if kind == _FIXED_32 else 8
        else:
            raise ValueError(f"wire type {kind}")
        if position + size > len(data):
            raise ValueError("truncated")
        if kind == _BYTES:
            yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A varint, and the position after it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
