"""Packages that tests fetch from the package index, pinned in pyproject.toml: their cache, and what happens if they are unavailable."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[1]


def groups() -> dict[str, list[str]]:
    """The dependency groups: name -> requirements."""
    found: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))[
        "dependency-groups"
    ]
    return found


def cache_folder(name: str) -> Path:
    """A cache folder for one kind of files, created if necessary."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefuse" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cannot(reason: str) -> Any:
    """Skip the test with the reason; fail in CI, where everything must be available."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
