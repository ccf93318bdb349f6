"""Checks the outputs of a plan when a GPU loads it for the first time, if the build did not compare them on this kind of GPU.

A plan for TensorRT-RTX is built for several GPUs, often on a machine without one. The outputs for the bundle's sample frames are
compared with the stored ones, with the limits of a build. That they are right is kept in a file beside the plan, for this GPU and
version of the library; a difference is found again by every load.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import SAMPLES_NAME, Bundle, Samples
from edgefuse.contract import Outputs
from edgefuse.errors import UserError
from edgefuse.io.json_files import Optional, parse_json, write_json
from edgefuse_runtime.engines.build_command import build_command_of
from edgefuse_runtime.engines.engine import Decision
from edgefuse_runtime.engines.engine_cache import (
    ANY_DEVICE,
    PlanError,
    PlanRecord,
    read_private,
)

_DIFFERENCES = {"failures": Optional([str])}

_log = logging.getLogger(__name__)

Run = Callable[[NDArray[np.uint8], NDArray[np.uint8]], Decision]
"""Runs one pair."""


class OutputsDifferError(PlanError):
    """The plan runs, but its outputs are not those of the bundle."""


def check_first_load(bundle: Bundle, record: PlanRecord, run: Run, *, library: str, checked: Path) -> dict[str, Any]:
    """Compare the outputs with the bundle's samples, unless they were compared by an earlier load or at the build for this GPU.

    Args:
        run: runs the loaded plan.
        library: name and version of the library that runs it.
        checked: the file that keeps the result.

    Returns:
        JSON values: when they were compared, and the differences.

    Raises:
        OutputsDifferError: they differ by more than a build allows.
        UserError: the bundle has no samples.
    """
    if record.key.device_name != ANY_DEVICE and record.details.get("parity") is not None:
        return {"compared": "at the build"}
    samples = bundle.manifest.files.get(SAMPLES_NAME)
    of = {"library": library, "plan_sha256": record.plan_sha256, "samples_sha256": samples.sha256 if samples else ""}
    found = remembered(checked, of)
    if found is not None:
        return {"compared": "at an earlier load", **found}
    _log.info("%s is new on this GPU: comparing its outputs with those of the bundle", record.name)
    found = _compare(bundle, record, run, samples=bundle.samples())
    remember(checked, of, found)
    return {"compared": "at this load", **found}


def _compare(bundle: Bundle, record: PlanRecord, run: Run, *, samples: Samples) -> dict[str, Any]:
    from edgefuse.evaluation.compare_outputs import ENGINE_TOLERANCES, joined, report_of

    num_frames = len(samples.rgb)
    found = joined([run(samples.rgb[i : i + 1], samples.depth[i : i + 1]).outputs for i in range(num_frames)])
    tolerance = ENGINE_TOLERANCES[record.key.precision]
    if tolerance.flips_fraction:  # 3 % of 16 frames would be none
        tolerance = replace(tolerance, flips_fraction=max(tolerance.flips_fraction, 1 / num_frames))
    stored = {"stored outputs": (Outputs(samples.probabilities, samples.gate, samples.nearest_m), found)}
    report = report_of(stored, reference="the bundle's samples", candidate=record.name, tolerance=tolerance)
    if failures := report.failures():
        again = build_command_of(bundle, record.key)
        raise OutputsDifferError(
            f"{bundle.folder}/{record.name} has other outputs on this GPU than the bundle: {'; '.join(failures)}. Build it on "
            f"this machine, or with --precision fp32: {again} --force; or use another engine: --engine cuda, or cpu"
        )
    together = report.together
    return {
        "num_frames": num_frames,
        "max_probability_difference": together.max_probability_difference,
        "max_gate_difference": together.max_gate_difference,
        "top1_flips": together.top1_flips,
    }


def remember(path: Path, of: Mapping[str, str], differences: Mapping[str, Any]) -> None:
    """Keep the differences that were found, if the file can be written.

    Args:
        of: what was compared: a later `remembered` with other values finds nothing.
    """
    try:
        path.parent.mkdir(exist_ok=True)
        write_json(path, {**of, "differences": differences}, private=True, follow_links=False)
    except (UserError, OSError) as error:
        _log.info("each start compares the outputs again: %s cannot be written (%s)", path, error)


def remembered(path: Path, of: Mapping[str, str]) -> dict[str, Any] | None:
    """The differences that `remember` kept; None if there are none for `of`, or the file is damaged or not trusted."""
    try:
        content, _ = read_private(path)
        value = parse_json(content, what=str(path), spec={**dict.fromkeys(of, str), "differences": _DIFFERENCES})
    except FileNotFoundError:
        return None
    except (UserError, OSError) as error:
        _log.info("the outputs are compared again: %s", error)
        return None
    same = all(value[name] == wanted for name, wanted in of.items())
    return dict(value["differences"]) if same else None
