"""Read lists and meshes from text files of any source, with size limits and one kind of error. Owns reading of such files."""

from __future__ import annotations

import stat
from pathlib import Path

from edgefuse.errors import UserError

MAX_TEXT_BYTES = 64 << 20
MAX_LINES = 2_000_000


def read_lines(path: Path, *, what: str) -> list[str]:
    """The lines of a text file without line ends. Invalid UTF-8 becomes U+FFFD.

    Args:
        what: a description of the expected file, for messages.

    Raises:
        UserError: missing, unreadable, not a regular file, more than `MAX_TEXT_BYTES` or `MAX_LINES`, or binary.
    """
    data = read_text_bytes(path, what=what)
    if b"\0" in data:
        raise UserError(f"{path} is binary, {what} was expected")
    lines = data.decode("utf-8-sig", errors="replace").splitlines()
    if len(lines) > MAX_LINES:
        raise UserError(f"{path} has {len(lines)} lines, {what} of at most {MAX_LINES} was expected")
    return lines


def read_text_bytes(path: Path, *, what: str, max_bytes: int = MAX_TEXT_BYTES) -> bytes:
    """The bytes of a text file of at most `max_bytes`. Errors: see `read_lines`."""
    try:
        state = path.stat()
        if not stat.S_ISREG(state.st_mode):
            raise UserError(f"{path} is not a regular file, {what} was expected")
        if state.st_size > max_bytes:
            raise UserError(f"{path} has {state.st_size} bytes, {what} of at most {max_bytes} was expected")
        return path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing: {what} was expected") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from error
