"""Runs a function of `libraries` in a child process with a time limit. Owns the processes; the doctor, `find-cameras` and `info` use it.

The child imports what the caller would import: it gets the same `sys.path`. Each fact that it reports is kept, so that a crash or a
hang afterwards loses only the rest.
"""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import tempfile
from typing import IO, Any

from edgefuse.errors import UserError
from edgefuse.io.json_files import parse_json
from edgefuse_runtime.doctor.check import brief

Facts = dict[str, Any]
"""What a probe reported. "problem" and "step": why it does not load, and what to do."""

_CODE = (
    "import sys; sys.path[:] = sys.argv[3:]; from edgefuse_runtime.doctor.libraries import main; main(*sys.argv[1:3])"
)


def probe(name: str, argument: str = "", *, limit_s: float) -> Facts:
    """The facts that `libraries.PROBES[name]` reports in a child process. Never raises for what happens in the child.

    Args:
        argument: of that function, if it has one.
        limit_s: the child is ended after this time, and "problem" says so.
    """
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            [sys.executable, "-c", _CODE, name, argument, *sys.path],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=errors,
        )
        try:
            ending = _ending(child.wait(limit_s), errors)
        except subprocess.TimeoutExpired:
            ending = f"no answer within {limit_s:g} s"
        finally:
            child.kill()
            # A child that waits in a driver of the kernel does not end. It is left behind.
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(1.0)
        facts = _reported(output)
    if ending and "problem" not in facts:
        facts["problem"] = ending
    return facts


def _reported(output: IO[bytes]) -> Facts:
    """All facts in the output, the last of each name. A line that was not completed is ignored."""
    output.seek(0)
    facts: Facts = {}
    for line in output:
        with contextlib.suppress(UserError):
            facts |= parse_json(line, what="a fact")
    return facts


def _ending(code: int, errors: IO[bytes]) -> str:
    """How a child failed; empty for success."""
    if code == 0:
        return ""
    if code < 0:
        return f"it crashed ({signal.Signals(-code).name})"
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines() or [f"exit code {code}"]
    return brief(lines[-1])
