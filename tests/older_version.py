"""A run, a bundle and a data set that an older version wrote."""

from __future__ import annotations

import tarfile
from pathlib import Path

ARCHIVE = Path(__file__).with_name("data_of_older_versions") / "3d904e4.tar.xz"


def unpacked(folder: Path) -> Path:
    """`folder`, with the archive's run/, bundle/ and dataset/."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(folder)
    return folder
