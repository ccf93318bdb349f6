"""Atomic replacement of files and folders: write under a temporary name, flush to the disk, then rename.

A killed command leaves the old file or folder unchanged and a hidden temporary next to it (`edgefuse.io.temporaries`). The next
command that writes there removes the temporary. Links are followed: the target is replaced (not with `follow_links=False`). New
files and folders get their mode from the umask, replaced ones keep theirs.

Owns replacing of files and folders, and the checks whether they may be replaced. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import os
import secrets
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.new_files import claimed
from edgefuse.io.temporaries import is_temporary, remove, temporary_beside, temporary_name
from edgefuse.io.text import printable

_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
_CANNOT_FLUSH = (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS, errno.EROFS)  # any other error means lost data
_NOT_ALLOWED = stat.S_IWGRP | stat.S_IWOTH


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def real_path(path: Path) -> Path:
    """The target of a path through all links. A cycle of links resolves to itself (`Path.resolve` raises RuntimeError)."""
    return Path(os.path.realpath(path))


def path_or_bytes(path: Path) -> str | bytes:
    """An existing file for a library that takes a path as UTF-8 or the content: its bytes, if its path is not UTF-8."""
    try:
        os.fspath(path).encode()
    except UnicodeEncodeError:
        return path.read_bytes()
    return os.fspath(path)


@contextmanager
def _named(path: Path) -> Iterator[None]:
    """Add the target's name to errors that have none, such as a full disk."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def file_replaced(
    path: Path, *, durable: bool = True, private: bool = False, follow_links: bool = True
) -> Iterator[Path]:
    """Yield a temporary path next to `path`. If the block ends without an error, the temporary replaces `path`.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it.

    Args:
        durable: flush to the disk before the rename, so that a power failure leaves either the old or the new file. Skipped
            inside a temporary folder, because `folder_replaced` flushes the complete folder.
        private: make a new file writable by its owner only, regardless of the umask.
        follow_links: False = replace a link itself, and keep its target.

    Raises:
        UserError: `path` is a folder, a device or a pipe.
        OSError: it cannot be written, or the disk is full or fails.
    """
    if follow_links or not path.is_symlink():
        path = _target(path, is_folder=False)
    durable = durable and not is_temporary(path)
    with _named(path), temporary_beside(path, is_folder=False) as temporary:
        yield temporary
        _set_mode(temporary, path, private=private)
        if durable:
            flush(temporary)
        temporary.replace(path)
        if durable:
            flush(path.parent)


@contextmanager
def folder_replaced(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder next to `folder`. If the block ends without an error, the temporary replaces `folder`.

    The old folder stays until the new one is complete and on the disk; then the two are exchanged in one step.

    Args:
        private: make a new folder writable by its owner only, regardless of the umask.

    Raises:
        UserError: `folder` is a file or a mount point, or another process is writing it.
        OSError: it cannot be written, or the disk is full or fails.
    """
    folder = _target(folder, is_folder=True)
    with _only_writer_of(folder), _named(folder), temporary_beside(folder, is_folder=True) as temporary:
        _set_mode(temporary, folder, private=private)
        yield temporary
        _commit(temporary, folder)


class NewFolder:
    """A folder that is usable before it is complete, such as a run after its first epoch.

    Attributes:
        path: its current path: a temporary folder until `keep`, then its own name.
    """

    def __init__(self, temporary: Path, folder: Path) -> None:
        self.path = temporary
        self._folder = folder
        self._found = _identity(folder)

    @property
    def is_kept(self) -> bool:
        return self.path == self._folder

    def keep(self) -> None:
        """Rename it to its own name, replacing the folder that was there at the start. Later calls check that it still exists.

        Raises:
            UserError: another process has written there since.
        """
        if _identity(self._folder) != self._found:
            raise UserError(f"{self._folder} was written by another process and is not replaced: choose another name")
        if not self.is_kept:
            own = _identity(self.path)
            _commit(self.path, self._folder)
            self.path, self._found = self._folder, own


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def folder_begun(folder: Path, *, private: bool = False) -> Iterator[NewFolder]:
    """Yield a `NewFolder`: write below its `path`, and call `keep()` as soon as it is usable.

    Until `keep()`, the existing `folder` is unchanged, even if the process is killed. Without `keep()`, nothing is left.
    Arguments and errors: see `folder_replaced`.
    """
    folder = _target(folder, is_folder=True)
    with _only_writer_of(folder), temporary_beside(folder, is_folder=True) as temporary:
        _set_mode(temporary, folder, private=private)
        yield NewFolder(temporary, folder)


@contextmanager
def _only_writer_of(folder: Path) -> Iterator[None]:
    """Refuse to write a folder that another process is writing, before any work is done."""
    with claimed(folder.parent, f"{folder.name}, as a whole") as is_ours:
        if not is_ours:
            raise UserError(f"another process is writing {folder}: wait until it has ended, or choose another name")
        yield


def refuse_existing(
    path: Path,
    *,
    force: bool,
    marker: str | None = None,
    contents: Sequence[str] = (),
    is_ours: Callable[[Path], bool] | None = None,
) -> None:
    """Check before the work that the output can be written.

    Args:
        path: the folder or file to write. An empty folder counts as missing.
        force: replace an existing one.
        marker: the output is a folder with this file in it. With `force`, only such a folder is replaced, so that a mistyped
            path loses no data.
        contents: other names (fnmatch patterns) in such a folder. A folder with any other name in it is not replaced.
        is_ours: returns whether this command made the existing folder or file. If not, it is not replaced.

    Raises:
        UserError: the existing one must not be replaced, or nothing can be written there.
    """
    if real_path(path) in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"{path} is the current folder or one above it: give the name of a new one")
    if path.is_dir() and path.is_mount():
        raise UserError(_is_mount(path))
    is_empty_folder = path.is_dir() and not any(path.iterdir())
    if os.path.lexists(path) and not is_empty_folder:
        if not force:
            raise UserError(f"{path} exists already: choose another name, or add --force to replace it")
        if marker is not None and not (path / marker).exists():
            raise UserError(
                f"{path} is not replaced although --force was given: it has no {marker}, so edgefuse did not make it"
            )
        foreign = sorted(os.listdir(path)) if marker is not None and contents else []  # noqa: PTH208 (names of any bytes)
        foreign = [name for name in foreign if not _is_of(name, (marker or "", *contents))]
        if foreign:
            raise UserError(
                f"{path} is not replaced although --force was given: it also contains {printable(foreign[0])}, which this command "
                "does not write: move it, or choose another name"
            )
        if is_ours is not None and not is_ours(path):
            raise UserError(f"{path} is not replaced although --force was given: this command did not make it")
    check_writable(path)


def _is_of(name: str, patterns: Sequence[str]) -> bool:
    return name == ".DS_Store" or is_temporary(Path(name)) or any(fnmatchcase(name, pattern) for pattern in patterns)


def check_writable(path: Path) -> None:
    """Check that a file or folder can be created at `path`, by creating a hidden one next to it.

    Raises:
        UserError: it cannot; the message has the system's reason.
    """
    above = next(folder for folder in real_path(path).parents if folder.exists())
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # raises if the name is too long
        probe = above / temporary_name("", "")
        probe.mkdir()
        with contextlib.suppress(FileNotFoundError):  # removed by another process as a leftover
            probe.rmdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {above}: {error.strerror}. Choose another name") from error


def _target(path: Path, *, is_folder: bool) -> Path:
    """The path to replace, `path` or the target of its link; creates its parent folders.

    Raises:
        UserError: what exists there cannot be replaced by a file (or folder).
    """
    path = real_path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        found = path.lstat()
    except FileNotFoundError:
        return path
    if is_folder and not stat.S_ISDIR(found.st_mode):
        raise UserError(f"{path} is a file, the name of a folder was expected: choose another name")
    if is_folder and path.is_mount():
        raise UserError(_is_mount(path))
    if not is_folder and not stat.S_ISREG(found.st_mode):
        kind = "a folder" if stat.S_ISDIR(found.st_mode) else "a device or pipe"
        raise UserError(f"{path} is {kind}, the name of a file was expected: choose another name")
    return path


def _is_mount(path: Path) -> str:
    return f"{path} is a mount point, so it cannot be replaced: give a folder in it, such as {path / 'out'}"


def _set_mode(temporary: Path, path: Path, *, private: bool) -> None:
    """Copy the mode of the file or folder that is replaced."""
    replaced = path.lstat().st_mode if os.path.lexists(path) else None
    new = stat.S_IMODE(temporary.stat().st_mode)
    if replaced is not None and not stat.S_ISLNK(replaced):  # a link has no mode of its own
        temporary.chmod(stat.S_IMODE(replaced) & 0o777)
    elif private and new & _NOT_ALLOWED:
        temporary.chmod(new & ~_NOT_ALLOWED)


def _commit(temporary: Path, folder: Path) -> None:
    """Move a complete folder to its place. An existing folder is exchanged with it and then removed as a temporary."""
    flush_below(temporary)
    while True:
        try:
            if not os.path.lexists(folder):
                temporary.rename(folder)
            elif _exchange(temporary, folder):
                remove(temporary)
            else:
                _move_aside(temporary, folder)
            break
        except OSError as error:  # another process created or removed one in between
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOENT) or not temporary.is_dir():
                raise
    flush(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Exchange two paths in one step (renameat2, RENAME_EXCHANGE). Returns False if the file system cannot."""
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
    """Replace on file systems that cannot exchange. A kill in between leaves the old folder under a visible name."""
    aside = folder.with_name(f"{folder.name[:60]}.old-{secrets.token_hex(4)}")
    folder.rename(aside)
    try:
        temporary.rename(folder)
    except BaseException:
        aside.rename(folder)
        raise
    remove(aside)


def flush(path: Path) -> None:
    """Flush a file's bytes, or a folder's names, to the disk.

    Raises:
        OSError: the disk is full or fails.
    """
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except PermissionError:  # a folder with write but no read permission
        return
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _CANNOT_FLUSH:
            raise OSError(error.errno, error.strerror, str(path)) from error
    finally:
        os.close(handle)


def flush_below(folder: Path) -> None:
    """Flush everything below `folder` to the disk: in one call if the system has it, else file by file.

    Raises:
        OSError: the disk is full or fails.
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


def bytes_below(folder: Path) -> int:
    """The size of all files below `folder`, links not followed. Files may vanish meanwhile."""
    total = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):
            found = path.lstat()
            total += 0 if stat.S_ISDIR(found.st_mode) else found.st_size
    return total
