"""Which state of the source made a result: the git commit of the tree that runs.

Owns the question to git and how an answer is worded; what writes figures down imports it. Standard library only.
"""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

COMMAND_TIMEOUT_S = 10.0
NO_CHECKOUT = "not a checkout"


def commit(source: Path = Path(__file__).with_name("__init__.py")) -> str | None:
    """Git commit of the tree that `source` belongs to, with "-dirty" when tracked files differ; None when git does not track it.

    An installed package may lie inside somebody else's repository, so the file itself is asked for.
    """
    git = ["git", "-C", str(source.resolve().parent)]
    if output_of([*git, "ls-files", "--error-unmatch", source.name]) is None:
        return None
    head = output_of([*git, "rev-parse", "HEAD"])
    if head is None:
        return None
    return head + ("-dirty" if output_of([*git, "status", "--porcelain", "--untracked-files=no"]) else "")


def commit_in_words(found: str | None) -> str:
    """The first twelve digits, with "-dirty" where it was; or that there was no commit to tell."""
    if found is None:
        return NO_CHECKOUT
    digits, dirty, _ = found.partition("-dirty")
    return digits[:12] + dirty


def output_of(command: Sequence[str]) -> str | None:
    """What a command prints; None when it is not there, fails, or takes too long."""
    program = shutil.which(command[0])
    if program is None:
        return None
    try:
        done = subprocess.run(
            [program, *command[1:]], capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
