"""Steps on the disk that hold through a power cut or a full disk: flush, put into place in one step, remove.

Owns the system calls; `edgefuse.io.files` owns what they are used for. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import secrets
import shutil
from pathlib import Path

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)  # anything else is lost data


def commit(temporary: Path, folder: Path) -> None:
    """Put a complete folder in its place: at once where something stands there, which then has the temporary name and goes."""
    _flush_below(temporary)
    while True:
        try:
            if not os.path.lexists(folder):
                temporary.rename(folder)
            elif _exchange(temporary, folder):
                remove(temporary)
            else:
                _move_aside(temporary, folder)
            break
        except OSError as error:  # another process put one there, or took it away, in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not temporary.is_dir():
                raise
    flush(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step (renameat2, RENAME_EXCHANGE); False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    if renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0:
        return True
    if ctypes.get_errno() == errno.ENOENT:
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(second))
    return False


def _move_aside(temporary: Path, folder: Path) -> None:
    """Replace without exchanging, on file systems that cannot: a kill in between leaves the old folder under a name that is seen."""
    aside = folder.with_name(f"{folder.name[:60]}.old-{secrets.token_hex(4)}")
    folder.rename(aside)
    try:
        temporary.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    remove(aside)


def flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk.

    Raises:
        OSError: they are not there, because the disk is full or fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:  # a folder that may be written and not read
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def _flush_below(folder: Path) -> None:
    """Have everything below `folder` on the disk: by one call where the system has it, else file by file.

    Raises:
        OSError: it is not there, because the disk is full or fails.
    """
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) == 0:
            return
    except (OSError, AttributeError):
        pass
    finally:
        os.close(handle)
    for path in folder.rglob("*"):
        if not path.is_symlink() and (path.is_file() or path.is_dir()):
            flush(path)


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
