"""Files and folders that are whole or not there: written under a temporary name, flushed to the disk, then renamed.

A command that is killed leaves the old file or folder as it was, and a hidden temporary beside it; the next command that writes
there removes it. Temporaries are named `.NAME-edgefuse-` and 16 hex digits, and locked while their writer lives (flock, which the
kernel gives up with the process), so that nobody removes what another process is writing; where there are no locks, nothing is
removed. A link is followed: what it points to is replaced. New files and folders get the mode that the umask says, others keep theirs.

Owns replacing of files and folders, and what may be replaced. Standard library only.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefuse.errors import UserError
from edgefuse.io.disk import commit, flush, remove

_MARK = "-edgefuse-"
_TEMPORARY = re.compile(rf"\..*{_MARK}[0-9a-f]{{16}}(\.[^.]*)?", re.DOTALL)
_MAX_STEM_BYTES = 150
_MAX_SUFFIX_BYTES = 20
_NOT_ALLOWED = stat.S_IWGRP | stat.S_IWOTH
_cleaned: set[Path] = set()  # folders that this process has swept: once is enough, a folder of frames is long


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def file_replaced(path: Path, *, durable: bool = True, private: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, it takes the place of `path`.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it.

    Args:
        durable: flush to the disk before the rename, so that a power cut leaves the old file or the new one. Not needed, and
            left out, inside a temporary folder: `folder_replaced` flushes it as a whole.
        private: a new file is not for group and others to write, whatever the umask.

    Raises:
        UserError: `path` is a folder, a device or a pipe.
        OSError: it cannot be written, or the disk is full or fails.
    """
    path = _target(path, is_folder=False)
    durable = durable and not is_temporary(path)
    with _temporary(path, is_folder=False) as temporary:
        yield temporary
        _set_mode(temporary, path, private=private)
        if durable:
            flush(temporary)
        temporary.replace(path)
        if durable:
            flush(path.parent)


@contextmanager
def folder_replaced(folder: Path, *, private: bool = False) -> Iterator[Path]:
    """Yield a new temporary folder beside `folder`; when the block ends without an error, it takes the place of `folder`.

    What stood there before stays until the new folder is complete and on the disk; the two change places in one step.

    Args:
        private: a new folder is not for group and others to write, whatever the umask.

    Raises:
        UserError: a file stands at `folder`, or another file system is mounted there.
        OSError: it cannot be written, or the disk is full or fails.
    """
    folder = _target(folder, is_folder=True)
    with _temporary(folder, is_folder=True) as temporary:
        _set_mode(temporary, folder, private=private)
        yield temporary
        commit(temporary, folder)


class NewFolder:
    """A folder that is of use before it is complete, such as a run after its first epoch.

    Attributes:
        path: where it is now: a temporary folder until `keep`, its own name from then on.
    """

    def __init__(self, temporary: Path, folder: Path) -> None:
        self.path = temporary
        self._folder = folder
        self._found = _identity(folder)

    @property
    def is_kept(self) -> bool:
        return self.path == self._folder

    def keep(self) -> None:
        """Give it its name; what stood there when it was begun goes. Further calls look whether it is still there.

        Raises:
            UserError: another process put something there meanwhile.
        """
        if _identity(self._folder) != self._found:
            raise UserError(
                f"{self._folder} was written by another process meanwhile, and is left to it: choose another name, and start again"
            )
        if not self.is_kept:
            own = _identity(self.path)
            commit(self.path, self._folder)
            self.path, self._found = self._folder, own


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino


@contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Be the only process that writes into `folder`, which is made where it is missing, while the block runs.

    What `folder_begun` keeps is held likewise until its block ends.

    Raises:
        UserError: another process writes there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"another process is writing {folder}: wait until it has ended, or choose another name"
            ) from None
        except OSError:  # a file system without locks
            pass
        yield
    finally:
        os.close(handle)


@contextmanager
def folder_begun(folder: Path, *, private: bool = False) -> Iterator[NewFolder]:
    """Yield a `NewFolder`: write below its `path`, and call `keep()` as soon as it is of use.

    Until `keep()` what stands at `folder` is not touched, also where the process is killed; without it nothing is left.
    Arguments and errors: see `folder_replaced`.
    """
    folder = _target(folder, is_folder=True)
    with _temporary(folder, is_folder=True) as temporary:
        _set_mode(temporary, folder, private=private)
        yield NewFolder(temporary, folder)


def is_temporary(path: Path) -> bool:
    """Does `path` lie in, or is it, something that is still being written?"""
    return any(_TEMPORARY.fullmatch(part) for part in path.parts)


def refuse_existing(
    path: Path, *, force: bool, marker: str | None = None, is_ours: Callable[[Path], bool] | None = None
) -> None:
    """Refuse, before the work, what could not be written after it.

    Args:
        path: the folder or file to be written. An empty folder does not count as something.
        force: replace what is there.
        marker: what is to be written is a folder with this file in it. With `force`, nothing but such a folder is
            replaced, so that a slip of the pen costs no data.
        is_ours: likewise for a file: tells whether what is there was made by this command.

    Raises:
        UserError: something is there that must not be replaced, or nothing can be written there.
    """
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
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
        if is_ours is not None and not is_ours(path):
            raise UserError(f"{path} is not replaced although --force was given: this command did not make it")
    check_writable(path)


def check_writable(path: Path) -> None:
    """See that a file or folder can be made at `path`, by making a hidden one beside it.

    Raises:
        UserError: it cannot; the message has the system's reason.
    """
    above = next(folder for folder in Path(os.path.realpath(path)).parents if folder.exists())
    try:
        with contextlib.suppress(FileNotFoundError):
            path.lstat()  # a name that is too long
        probe = above / _temporary_name("", "")
        probe.mkdir()
        with contextlib.suppress(FileNotFoundError):  # another process took it for left over
            probe.rmdir()
    except OSError as error:
        raise UserError(f"{path} cannot be written: {above}: {error.strerror}. Choose another name") from error


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Wait until nobody else holds this file, and hold it while the block runs; nothing is held where there are no locks.

    What is replaced by those alone who hold it, is replaced before or after the block.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporaries in `folder` whose writer is gone; their paths. A writer that lives keeps its own."""
    removed = []
    with contextlib.suppress(OSError):
        for path in [path for path in folder.iterdir() if is_temporary(Path(path.name))]:
            with contextlib.suppress(OSError):
                handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
                try:
                    fcntl.flock(
                        handle, fcntl.LOCK_EX | fcntl.LOCK_NB
                    )  # raises where it lives, and where there are no locks
                    remove(path)
                    removed.append(path)
                finally:
                    os.close(handle)
    return removed


def _target(path: Path, *, is_folder: bool) -> Path:
    """Where the file or folder goes, with the folders above it made: `path`, or what it points to.

    Raises:
        UserError: what is there cannot be replaced by one of this kind.
    """
    path = Path(os.path.realpath(path))
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
    return f"{path} is where another file system is mounted, so it cannot be replaced: give a folder in it, such as {path / 'out'}"


@contextmanager
def _temporary(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A new, locked temporary beside `path`; removed at the end where it still stands."""
    parent = path.parent
    if parent not in _cleaned:
        _cleaned.add(parent)
        remove_leftovers(parent)
    temporary, handle = _new_temporary(path, is_folder=is_folder)
    try:
        yield temporary
    finally:
        remove(temporary)
        os.close(handle)


def _new_temporary(path: Path, *, is_folder: bool) -> tuple[Path, int]:
    """A new temporary and the handle that holds its lock."""
    stem, suffix = (path.name, "") if is_folder else (path.stem, path.suffix)
    while True:
        temporary = path.with_name(_temporary_name(stem, suffix))
        try:
            if is_folder:
                temporary.mkdir()
                handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
            else:
                handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        except (FileExistsError, FileNotFoundError) as error:
            if not path.parent.is_dir():
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(path)) from error
            continue  # FileNotFoundError: see below
        except OSError as error:
            raise type(error)(error.errno, error.strerror, str(path)) from error
        if _is_ours(temporary, handle):
            return temporary, handle
        # Between its making and its lock another process took it for left over.
        os.close(handle)


def _is_ours(temporary: Path, handle: int) -> bool:
    """Lock it; is it still there, and nobody else's?"""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks, where nobody removes leftovers
        return True
    try:
        return os.path.samestat(os.fstat(handle), temporary.stat())
    except FileNotFoundError:
        return False


def _temporary_name(stem: str, suffix: str) -> str:
    if len(os.fsencode(stem)) > _MAX_STEM_BYTES:
        stem = os.fsencode(stem)[:_MAX_STEM_BYTES].decode("utf-8", "ignore")
    suffix = suffix if len(os.fsencode(suffix)) <= _MAX_SUFFIX_BYTES else ""
    return f".{stem}{_MARK}{secrets.token_hex(8)}{suffix}"


def _set_mode(temporary: Path, path: Path, *, private: bool) -> None:
    """Give it the mode of what it replaces."""
    try:
        mode = stat.S_IMODE(path.stat().st_mode) & 0o777
    except FileNotFoundError:
        mode = stat.S_IMODE(temporary.stat().st_mode)
        if not private or not mode & _NOT_ALLOWED:
            return
        mode &= ~_NOT_ALLOWED
    temporary.chmod(mode)
