"""The layout of a collection: frames that `edgefuse live --collect` kept, some labelled by people, the others to be checked.

Owns its names and the JSON file beside each pair; docs/collect.md describes both. Standard library only.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, read_json
from edgefuse.io.text import printable

REVIEW = "_review"
"""Folder in a collection with the pairs whose class nobody has checked. A data set itself, but never training data."""
NO_ANSWER = "_unknown"
"""Class folder in `REVIEW` of pairs for which the model had no answer."""
WHOLE_IMAGES = ".frames"
"""Folder in a collection with the whole images of pairs that are regions."""
SCHEMA = 1

_WHOLE = re.compile(rf"{re.escape(WHOLE_IMAGES)}/[^/.][^/]*/[^/.][^/]*")
"""Nothing outside of the collection."""

_SPEC = {
    "kind": str,
    "schema": int,
    "label": Optional(str),
    "labelled_by": Optional(str),
    "reasons": [str],
    "value": int,
    "kept_for": Optional(str),
    "time": str,
    "answer": Optional(str),
    "probability": Optional(float),
    "roi": Optional([int]),
    "whole": Optional(str),
}


def read_kept(path: Path) -> dict[str, Any]:
    """The JSON object beside a pair of a collection.

    Raises:
        UserError: it is missing or is no such file.
    """
    found = read_json(path, what="the description of a collected pair", spec=_SPEC)
    whole = found["whole"] = found.get("whole") or None
    if whole is not None and not _WHOLE.fullmatch(whole):
        raise UserError(f"{path} has the whole image {printable(whole)!r}: a name in {WHOLE_IMAGES} was expected")
    return found


def num_to_review(root: Path) -> int:
    """Number of pairs in the collection at `root` that are to be checked; 0 if it is another data set."""
    return sum(1 for _ in (root / REVIEW).glob("*/*/*_rgb.png"))
