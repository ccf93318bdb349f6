"""Files and folders that are whole or not there: written under a temporary name, then renamed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgefuse.errors import UserError


def sha256_of_file(path: Path) -> str:
    """Hex digest of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


@contextmanager
def file_replaced(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block ends without an error, it takes the place of `path`.

    The temporary name keeps the suffix of `path`, because many writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON, atomically."""
    with file_replaced(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def read_json(path: Path, *, what: str) -> dict[str, Any]:
    """Read a JSON object.

    Args:
        what: what the file is to the user, such as "the bundle's manifest".

    Raises:
        UserError: the file is missing, is not JSON, or is not an object.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{what} is missing: {path}") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{what} is not valid JSON: {path} ({error})") from error
    if not isinstance(value, dict):
        raise UserError(f"{what} is a JSON {type(value).__name__}, an object was expected: {path}")
    return value


def refuse_existing(path: Path, *, force: bool, marker: str | None = None) -> None:
    """Refuse to write where something stands already, unless `force`.

    Args:
        path: the folder or file to be written. An empty folder does not count as something.
        marker: what is to be written is a folder with this file in it. With `force`, nothing but such a folder is
            replaced, so that a slip of the pen costs no data.

    Raises:
        UserError: something is there that must not be replaced.
    """
    if path.resolve() in (Path.cwd(), *Path.cwd().parents):
        raise UserError(f"{path} is the current folder or one above it: give the name of a new one")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    if not force:
        raise UserError(f"{path} exists already: choose another name, or add --force to replace it")
    if marker is not None and not (path / marker).exists():
        raise UserError(
            f"{path} is not replaced although --force was given: it has no {marker}, so edgefuse did not make it"
        )


@contextmanager
def folder_replaced(folder: Path) -> Iterator[Path]:
    """Yield a new temporary folder beside `folder`; when the block ends without an error, it takes the place of `folder`.

    What stood there before is kept until the new folder is complete, then removed.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    temporary.chmod(0o755)
    try:
        yield temporary
        if folder.exists():
            retired = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
            folder.rename(retired / folder.name)
            temporary.rename(folder)
            shutil.rmtree(retired)
        else:
            temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def folder_begun(folder: Path) -> Iterator[Callable[[], None]]:
    """Make an empty `folder` that is of use before it is complete, and yield `keep`.

    What stood there waits beside it. After `keep()` the new folder stays, whatever happens; without it, the new one goes
    and the old one comes back.
    """
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-old-", dir=folder.parent))
    if folder.exists():
        folder.rename(aside / folder.name)
    folder.mkdir()
    kept = False

    def keep() -> None:
        nonlocal kept
        if not kept:
            kept = True
            shutil.rmtree(aside)

    try:
        yield keep
    finally:
        if not kept:
            shutil.rmtree(folder, ignore_errors=True)
            if (aside / folder.name).exists():
                (aside / folder.name).rename(folder)
            aside.rmdir()
