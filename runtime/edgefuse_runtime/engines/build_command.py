"""The `edgefuse build` command that a message names as the next step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from edgefuse.bundle import Bundle
from edgefuse.io.text import quoted

if TYPE_CHECKING:
    from edgefuse_runtime.engines.engine_cache import PlanKey


def build_command(
    bundle: Bundle,
    precision: str,
    *,
    engine: str = "tensorrt",
    targets: Sequence[str] = (),
    batch_size: int | None = None,
) -> str:
    """The command that builds a plan.

    Args:
        targets: compute capabilities, such as "8.9", for TensorRT-RTX, which builds for GPUs of other machines too; none = for the
            GPU of this machine.
        batch_size: N of the plan; None = the one without `--batch`.
    """
    options = ["--engine rtx"] if engine == "rtx" else []
    if options and targets:
        options.append(f"--for {','.join(map(sm_name, targets))}")
    options.append(f"--precision {precision}")
    if batch_size and batch_size != (bundle.manifest.batch_size or 1):
        options.append(f"--batch {batch_size}")
    return " ".join(["edgefuse build", quoted(bundle.folder), *options])


def build_command_of(bundle: Bundle, key: PlanKey) -> str:
    """The command that builds the plan of a key."""
    targets, num = key.compute_capabilities, key.batch_size
    return build_command(bundle, key.precision, engine=key.engine, targets=targets, batch_size=num)


def sm_name(compute_capability: str) -> str:
    """A compute capability as `edgefuse build --for` takes it: "sm89" for "8.9"."""
    return f"sm{compute_capability.replace('.', '')}"
