"""The refusal of an exported file whose outputs differ from those of the PyTorch model."""

from __future__ import annotations

from collections.abc import Callable

from edgefuse.errors import UserError
from edgefuse.evaluation.compare_outputs import ParityReport

MAX_SHOWN = 12
TORCH_FP32 = "torch fp32 on the CPU"
"""What reports call the PyTorch model."""

NEXT_STEP = {
    "fp32": "Export again with another torch or onnxruntime version, or report this with the run folder",
    "fp16": "Keep sensitive layers in FP32 with --keep-fp32 PATTERN, or export without FP16: --precision fp32",
    "int8": "Or calibrate on more frames with --calibration-frames N, or export without INT8: --precision fp32,fp16",
}
"""Precision of the file -> what to do."""
NOT_OPTIMISED = "Without optimisation the same file passes, so TensorRT may run it correctly; but `live` and `evaluate` use the optimised session, whose 8-bit kernels saturate on CPUs without VNNI\n"


class ParityError(UserError):
    """The outputs of an exported file differ from those of the PyTorch model; no bundle was written."""


def refuse_differences(precision: str, report: ParityReport, *, hint: Callable[[], str] = lambda: "") -> None:
    """Check a report.

    Args:
        hint: what to do about a difference; empty = `NEXT_STEP`.

    Raises:
        ParityError: a difference is above its limit.
    """
    failures = report.failures()
    if not failures:
        return
    more = [f"... and {len(failures) - MAX_SHOWN} more"] if len(failures) > MAX_SHOWN else []
    raise ParityError(
        f"the outputs of {report.candidate} differ from those of the model, so no bundle was written:\n  "
        + "\n  ".join([*failures[:MAX_SHOWN], *more])
        + f"\n{hint() or NEXT_STEP[precision]}"
    )
