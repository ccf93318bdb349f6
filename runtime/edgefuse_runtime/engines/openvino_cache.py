"""Compiled OpenVINO models, kept in the user's cache folder so that the next start does not compile again.

    ~/.cache/edgefuse/openvino/0f3a....compiled     one line of JSON (key, digest), then what OpenVINO exported

OpenVINO's own cache checks neither who can write to its files nor whether they are complete. Here a file is used only if it is
the user's own, its digest is right, and its key is the same: the ONNX file, the version of OpenVINO, the CPU and the properties.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from edgefuse.errors import UserError
from edgefuse.io.files import file_replaced
from edgefuse.io.json_files import dumps, parse_json
from edgefuse_runtime.engines.engine_cache import check_private, read_private
from edgefuse_runtime.engines.openvino_compiler import compile_apart, imported, last_line

MAX_FILES = 16
"""The least recently used ones are removed: one is about as large as its ONNX file."""
_SUFFIX = ".compiled"
_SPEC = {"key": {str: str}, "sha256": str}

_log = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of the compiled models. `XDG_CACHE_HOME` replaces ~/.cache.

    Raises:
        RuntimeError: the user has no home folder.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "")
    return (cache if cache.is_absolute() else Path.home() / ".cache") / "edgefuse" / "openvino"


def compiled_model(
    core: Any, path: Path, *, sha256: str, config: Mapping[str, Any], library: str, cpu: str
) -> tuple[Any, bool]:
    """The model of an ONNX file, compiled for the CPU.

    Args:
        sha256: of the file.
        config: OpenVINO's properties.
        library: name and version of OpenVINO.
        cpu: see `cpu_id`.

    Returns:
        The model, and whether it was in the cache.

    Raises:
        UserError: OpenVINO refuses the file, or crashes.
    """
    key = {"library": library, "cpu": cpu, "onnx_sha256": sha256, "config": dumps(dict(config))}
    try:
        file = cache_folder() / f"{hashlib.sha256(dumps(key).encode()).hexdigest()[:32]}{_SUFFIX}"
    except RuntimeError:  # no home folder
        file = None
    model = None if file is None else _load(core, file, config=config, key=key)
    if model is not None:
        return model, True
    blob = compile_apart(path, config=config, library=library)
    if file is not None:
        _save(blob, file, key=key)
    return imported(core, blob, config), False


def _load(core: Any, file: Path, *, config: Mapping[str, Any], key: Mapping[str, str]) -> Any:
    """The model of a file of the cache; None if it is missing, damaged, or cannot be used."""
    try:
        check_private(file.parent)
        content, _ = read_private(file)
        header, _, blob = content.partition(b"\n")
        value = parse_json(header, what=str(file), spec=_SPEC)
        if value["key"] != dict(key) or hashlib.sha256(blob).hexdigest() != value["sha256"]:
            raise UserError(f"{file} is damaged")
        model = imported(core, blob, config)
    except FileNotFoundError:
        return None
    except (UserError, OSError, RuntimeError) as error:
        _log.info("the model is compiled again: %s", last_line(str(error)))
        return None
    with contextlib.suppress(OSError):
        os.utime(file)
    return model


def _save(blob: bytes, file: Path, *, key: Mapping[str, str]) -> None:
    """Write a compiled model to the cache, if that is possible."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        check_private(file.parent)
        header = dumps({"key": dict(key), "sha256": hashlib.sha256(blob).hexdigest()})
        with file_replaced(file, durable=False, private=True, follow_links=False) as temporary:
            temporary.write_bytes(b"\n".join((header.encode(), blob)))
        by_age = sorted(file.parent.glob(f"*{_SUFFIX}"), key=lambda one: one.stat().st_mtime)
        for old in by_age[:-MAX_FILES]:
            old.unlink(missing_ok=True)
    except (UserError, OSError) as error:
        _log.info("the next start compiles the model again: %s", last_line(str(error)))
