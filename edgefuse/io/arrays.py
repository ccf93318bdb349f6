"""Read and write .npy and .npz files from untrusted sources: without pickle, with one kind of error.

Owns reading and writing of NumPy files.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced

MAX_ARRAY_BYTES = 4 << 30
"""Largest size that a header may declare, checked before anything is allocated."""


def read_array(path: Path) -> NDArray[Any]:
    """Read the array of a .npy file into memory.

    Raises:
        UserError: missing, unreadable, damaged, not a .npy file, pickled, or larger than `MAX_ARRAY_BYTES`.
    """
    _refuse_devices(path)
    try:
        mapped = np.lib.format.open_memmap(
            path, mode="r"
        )  # checks the header against the file's size, and reads no pickle
        if mapped.nbytes > MAX_ARRAY_BYTES:
            raise ValueError(f"{mapped.nbytes} bytes, at most {MAX_ARRAY_BYTES} were expected")
        return np.array(mapped)
    except MemoryError:
        raise
    except Exception as error:  # NumPy raises many types for a damaged file
        raise UserError(f"{path} is not a readable .npy file: {_reason(error)}") from error


def read_arrays(path: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Read the named arrays of an .npz file.

    Raises:
        UserError: missing, unreadable or damaged, an array is missing, or the arrays are larger than `MAX_ARRAY_BYTES`.
    """
    _refuse_devices(path)
    try:
        with zipfile.ZipFile(path) as archive:
            claimed = sum(entry.file_size for entry in archive.infolist())
        if claimed > MAX_ARRAY_BYTES:
            raise ValueError(f"it unpacks to {claimed} bytes, at most {MAX_ARRAY_BYTES} were expected")
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in names}
    except MemoryError:
        raise
    except Exception as error:  # NumPy, zipfile and zlib raise many types for a damaged file
        raise UserError(f"{path} is not a readable .npz file with {', '.join(names)}: {_reason(error)}") from error


def write_arrays(path: Path, **arrays: NDArray[Any]) -> None:
    """Write a compressed .npz file atomically."""
    with file_replaced(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def npy_bytes(array: NDArray[Any]) -> bytes:
    """The bytes of a .npy file of the array."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _refuse_devices(path: Path) -> None:
    """Refuse pipes and devices, because reading them may never end."""
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is not a regular file: a NumPy file was expected")


def _reason(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return str(error).splitlines()[0] if str(error) else type(error).__name__
