"""What an ONNX file says about itself, read without the package onnx, which devices do not have.

Owns reading of `metadata_props` out of a file that anybody may have made. Standard library only.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgefuse.errors import UserError

# onnx.proto: ModelProto.metadata_props, and StringStringEntryProto's fields.
_METADATA_PROPS = 14
_KEY, _VALUE = 1, 2

# Wire types of protobuf.
_VARINT, _FIXED_64, _BYTES, _FIXED_32 = 0, 1, 2, 5


def read_metadata(path: Path) -> dict[str, str]:
    """Key -> value; empty where the file has none. What is no UTF-8 has replacement characters.

    Raises:
        UserError: unreadable, or not in the form of an ONNX file.
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
        raise UserError(f"{path} is not an ONNX file: it is no protobuf message") from error
    return found


def _fields(data: memoryview) -> Iterator[tuple[int, memoryview]]:
    """Number and payload of each field of a message that holds bytes; the others are passed over.

    Raises:
        ValueError, IndexError: this is no message.
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
            raise ValueError("cut short")
        if kind == _BYTES:
            yield number, data[position : position + size]
        position += size


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    """A number, and the place behind it."""
    value = 0
    for shift in range(0, 70, 7):
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
    raise ValueError("a number of more than ten bytes")
