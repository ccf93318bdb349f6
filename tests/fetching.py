"""What tests fetch from the package index, as pyproject.toml pins it: where it is kept, and what happens when it cannot be had."""

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
    """A folder for one kind of fetched things, made if need be."""
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "edgefuse" / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def cannot(reason: str) -> Any:
    """Skip with the reason; in CI, where everything must be there, fail."""
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
