"""Commands in a Python that has only the packages that edgefuse always needs, and those that a test adds."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks"]
ALWAYS = ("numpy*", "cv2", "opencv*", "rich", "typer", "shellingham", "click", "markdown_it", "mdurl", "pygments")
ALWAYS += ("annotated_doc", "annotated_types", "typing_extensions*", "typing_inspection", "pydantic*")

_CODE = "import sys; sys.path[:] = sys.argv.pop(1).split(':'); from edgefuse.app.main import main; main()"


def bare_edgefuse(
    folder: Path, *arguments: object, extra: Sequence[Path] = (), width: int = 80
) -> subprocess.CompletedProcess[str]:
    """Run edgefuse with `ALWAYS` and the packages in `extra`; nothing else can be imported.

    Args:
        folder: where to link the packages.
    """
    site = folder / "site"
    if not site.exists():
        site.mkdir(parents=True)
        packages = Path(sysconfig.get_path("purelib"))
        for path in {path for pattern in ALWAYS for path in packages.glob(pattern)}:
            (site / path.name).symlink_to(path)
    library = [
        path for path in sys.path if path and not re.search("(site|dist)-packages", path) and Path(path).name != "tests"
    ]
    library = [path for path in library if not Path(path).is_relative_to(ROOT)]
    path = ":".join(map(str, [*extra, *SOURCES, *library, site]))
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", _CODE, path, *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=folder,
        env={**os.environ, "COLUMNS": str(width)},
    )
