"""Files and folders that are whole or not there: written under a temporary name, flushed to the disk, then renamed.

A command that is killed leaves the old file or folder as it was, and a hidden temporary beside it; the next command that writes
there removes it. Temporaries are named `.NAME-edgefuse-XXXXXXXX` and locked while their writer lives (flock, which the kernel
gives up with the process), so that nobody removes what another process is writing.

Owns replacing of files and folders, and what may be replaced. Standard library only.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import itertools
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from edgefuse.errors import UserError

_MARK = "-edgefuse-"
_MAX_STEM_BYTES = 150
_RENAME_EXCHANGE = 2  # linux/fs.h
_AT_FDCWD = -100  # fcntl.h
_CLAIM_ATTEMPTS, _CLAIM_WAIT_S = 10, 0.01
_cleaned: set[Path] = set()
"""Folders in which this process has looked for leftovers: once is enough, a folder of frames is long."""


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def file_replaced(path: Path, *, durable: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, it takes the place of `path`.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it.

    Args:
        durable: flush to the disk before the rename, so that a power cut leaves the old file or the new one. Not needed, and
            left out, inside a temporary folder: `folder_replaced` flushes it as a whole.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    durable = durable and not is_temporary(path)
    with _temporary(path, is_folder=False) as temporary:
        yield temporary
        temporary.chmod(0o644)
        if durable:
            _flush(temporary)
        temporary.replace(path)
        if durable:
            _flush(path.parent)


@contextmanager
def folder_replaced(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `folder`; when the block ends without an error, it takes the place of `folder`.

    What stood there before stays until the new folder is complete and on the disk; the two change places in one step.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, is_folder=True) as temporary:
        temporary.chmod(0o755)
        yield temporary
        _commit(temporary, folder)


class NewFolder:
    """A folder that is of use before it is complete, such as a run after its first epoch.

    Attributes:
        path: where it is now: a temporary folder until `keep`, its own name from then on.
    """

    def __init__(self, temporary: Path, folder: Path) -> None:
        self.path = temporary
        self._folder = folder

    @property
    def is_kept(self) -> bool:
        return self.path == self._folder

    def keep(self) -> None:
        """Give it its name; what stood there goes. Further calls do nothing."""
        if not self.is_kept:
            _commit(self.path, self._folder)
            self.path = self._folder


@contextmanager
def folder_begun(folder: Path) -> Iterator[NewFolder]:
    """Yield a `NewFolder`: write below its `path`, and call `keep()` as soon as it is of use.

    Until `keep()` what stands at `folder` is not touched, also where the process is killed; without it nothing is left.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, is_folder=True) as temporary:
        temporary.chmod(0o755)
        yield NewFolder(temporary, folder)


@contextmanager
def folder_added(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `folder`; when the block ends without an error, it gets that name. Nothing is replaced.

    Raises:
        FileExistsError: something is at `folder` by then.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with _temporary(folder, is_folder=True) as temporary:
        temporary.chmod(0o755)
        yield temporary
        try:
            temporary.rename(folder)
        except OSError as error:
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise FileExistsError(errno.EEXIST, "it exists already", str(folder)) from error
            raise


@contextmanager
def files_added(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder inside `folder`; when the block ends without an error, the files in it move into `folder`: all or none.

    They move in the order of their names, one right after the other. A process that is killed just then leaves the rest in the
    temporary folder, where `left_behind` finds it. Ctrl-C must not come in between: call it in a thread, or with signals held back.
    """
    with _temporary(folder / "files", is_folder=True) as temporary:
        yield temporary
        names = sorted(path.name for path in temporary.iterdir())
        try:
            for name in names:
                (temporary / name).rename(folder / name)
        except BaseException:
            for name in names:
                if not (temporary / name).exists():
                    (folder / name).unlink(missing_ok=True)
            raise


def left_behind(folder: Path) -> list[Path]:
    """Files that `files_added` has not moved into `folder` yet, because it is at work or was killed."""
    with contextlib.suppress(OSError):
        temporaries = [path for path in folder.iterdir() if is_temporary(Path(path.name)) and path.is_dir()]
        return [
            path for folder in temporaries for path in sorted(folder.iterdir()) if not is_temporary(Path(path.name))
        ]
    return []


@contextmanager
def claimed(folder: Path, name: str) -> Iterator[bool]:
    """Hold a name among all processes while the block runs, whether or not something has it yet; yields whether it could be had.

    Args:
        folder: an existing folder, in which a hidden, locked file stands for the name.
    """
    path = folder / f".{hashlib.sha256(os.fsencode(name)).hexdigest()[:16]}{_MARK}claim"
    for attempt in itertools.count(1):
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        is_ours = _try_lock(handle)
        if is_ours and _is_still(handle, path):
            break
        if not is_ours and attempt == _CLAIM_ATTEMPTS:
            break
        os.close(handle)  # given up by another process just now, or being looked at by `remove_leftovers`
        time.sleep(_CLAIM_WAIT_S)
    try:
        yield is_ours
    finally:
        if is_ours:
            path.unlink(missing_ok=True)
        os.close(handle)


def is_temporary(path: Path) -> bool:
    """Does `path` lie in, or is it, something that is still being written?"""
    return any(part.startswith(".") and _MARK in part for part in path.parts)


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
    above = next(folder for folder in path.absolute().parents if folder.exists())
    try:
        with tempfile.TemporaryDirectory(prefix=f".{_MARK}", dir=above):
            pass
    except OSError as error:
        raise UserError(f"{path} cannot be written: {above}: {error.strerror}. Choose another name") from error


@contextmanager
def locked(path: Path) -> Iterator[bool]:
    """Hold the lock of an existing file or folder while the block runs; yields whether it could be had.

    It lasts as long as the process. Where the file system has no locks, it is always had.
    """
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield _try_lock(handle)
    finally:
        os.close(handle)


def remove_leftovers(folder: Path) -> list[Path]:
    """Remove temporaries in `folder` whose writer is gone; their paths. A writer that lives keeps its own."""
    removed = []
    with contextlib.suppress(OSError):
        candidates = [path for path in folder.iterdir() if is_temporary(Path(path.name))]
        for path in candidates:
            with contextlib.suppress(OSError), locked(path) as is_free:
                if is_free:
                    _remove(path)
                    removed.append(path)
    return removed


@contextmanager
def _temporary(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """A new, locked temporary beside `path`; removed at the end where it still stands."""
    parent = path.parent.absolute()
    if parent not in _cleaned:
        _cleaned.add(parent)
        remove_leftovers(parent)
    while True:
        temporary, handle = _new_temporary(path, is_folder=is_folder)
        # Between its making and its lock another process may have taken it for left over.
        if handle is not None:
            break
    try:
        yield temporary
    finally:
        _remove(temporary)
        os.close(handle)


def _new_temporary(path: Path, *, is_folder: bool) -> tuple[Path, int | None]:
    stem = path.name if is_folder else path.stem
    stem = os.fsdecode(os.fsencode(stem)[:_MAX_STEM_BYTES])
    prefix, suffix = f".{stem}{_MARK}", "" if is_folder else path.suffix
    if is_folder:
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=path.parent))
    else:
        made, name = tempfile.mkstemp(prefix=prefix, suffix=suffix, dir=path.parent)
        os.close(made)
        temporary = Path(name)
    try:
        handle = os.open(temporary, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return temporary, None
    if _try_lock(handle) and _is_still(handle, temporary):
        return temporary, handle
    os.close(handle)
    return temporary, None


def _is_still(handle: int, path: Path) -> bool:
    """Is what was opened still what has this name?"""
    try:
        return os.path.samestat(os.fstat(handle), path.stat())
    except FileNotFoundError:
        return False


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return True
    return True


def _commit(temporary: Path, folder: Path) -> None:
    """Put a complete folder in its place: at once where something stands there, which then has the temporary name."""
    flush_below(temporary)
    if os.path.lexists(folder):
        if _exchange(temporary, folder):
            _remove(temporary)
        else:  # not on this file system: for an instant the name is free, and a kill then leaves the old folder hidden
            with _temporary(folder, is_folder=True) as aside:
                folder.rename(aside / folder.name)
                temporary.rename(folder)
    else:
        temporary.rename(folder)
    _flush(folder.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Let two paths change places in one step (renameat2, RENAME_EXCHANGE); False where that cannot be done."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(first), os.fsencode(second))
    return bool(renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], ctypes.c_uint(_RENAME_EXCHANGE)) == 0)


def _flush(path: Path) -> None:
    """Have a file's bytes, or a folder's names, on the disk. Some file systems refuse folders, and some refuse all."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def flush_below(folder: Path) -> None:
    """Have everything below `folder` on the disk: by one call where the system has it, else file by file."""
    handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).syncfs(handle) == 0:
            return
    except (OSError, AttributeError):
        pass
    finally:
        os.close(handle)
    for path in folder.rglob("*"):
        _flush(path)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
