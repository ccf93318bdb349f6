"""Progress and log of a build, without a build."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgefuse_export.tensorrt.build_log import KEPT_ERRORS, BuildProgress, Journal


def test_nested_phases_are_one_percentage() -> None:
    seen: list[int] = []
    progress = BuildProgress(lambda percent, _total, *, stage: seen.append(percent))
    progress.start("all", None, 4)
    assert progress.step("all", 0)
    progress.start("tactics", "all", 2)
    progress.step("tactics", 0)
    assert progress.status() == "building the engine: tactics, 37 %"
    progress.finish("tactics")
    progress.step("all", 1)
    progress.finish("all")
    assert progress.status() == "building the engine, 50 %"
    progress.complete()
    assert seen == [25, 37, 50, 100]


def test_a_percentage_never_decreases() -> None:
    seen: list[int] = []
    progress = BuildProgress(lambda percent, _total, *, stage: seen.append(percent))
    for root in ("first", "second"):
        progress.start(root, None, 2)
        for step in range(2):
            progress.step(root, step)
        progress.finish(root)
    assert seen == [50, 100]


@pytest.mark.parametrize("num_steps", [0, -1])
def test_a_phase_without_steps_is_no_error(num_steps: int) -> None:
    progress = BuildProgress(lambda _percent, _total, *, stage: None)
    progress.start("empty", "unknown", num_steps)
    assert progress.step("empty", 0)
    progress.finish("empty")
    assert progress.step("empty", 1)  # called late, from another thread


def test_an_interrupt_ends_the_next_step() -> None:
    progress = BuildProgress(lambda _percent, _total, *, stage: None)
    progress.start("all", None, 3)
    assert progress.step("all", 0)
    progress.interrupted = True
    assert not progress.step("all", 1)


def test_the_log_keeps_all_but_the_verbose_and_the_last_errors(tmp_path: Path) -> None:
    with Journal(tmp_path / "log") as journal:
        journal.write("VERBOSE", "a million of these")
        journal.write("INFO", "starting")
        for number in range(KEPT_ERRORS + 2):
            journal.write("ERROR", f"error {number}")
        journal.write("INTERNAL_ERROR", "the last")
    text = (tmp_path / "log").read_text()
    assert "million" not in text and "INFO: starting" in text and "ERROR: error 0" in text
    assert journal.last_errors().startswith(": error 3;") and journal.last_errors().endswith("; the last")


@pytest.mark.parametrize(
    ("severity", "text", "gpu", "workspace"),
    [
        ("ERROR", "Error Code 2: OutOfMemory (no further information)", True, False),
        ("WARNING", "Requested amount of GPU memory (4294967296 bytes) could not be allocated.", True, False),
        ("WARNING", "Skipping tactic 0 due to insufficient memory on requested size of 4096 detected", False, False),
        (
            "ERROR",
            "Error Code 10: Could not find any implementation for node conv due to insufficient workspace.",
            False,
            True,
        ),
        ("INFO", "Some tactics do not have sufficient workspace memory to run.", False, False),
        ("ERROR", "Unsupported operator", False, False),
    ],
)
def test_lack_of_memory_is_recognised_in_the_log(
    tmp_path: Path, severity: str, text: str, gpu: bool, workspace: bool
) -> None:
    with Journal(tmp_path / "log") as journal:
        journal.write(severity, text)
    assert (journal.lacked_gpu_memory(), journal.lacked_workspace()) == (gpu, workspace)


NO_KERNEL = "Error Code 10: Internal Error (Could not find any implementation for node conv.)"


@pytest.mark.parametrize(
    ("lines", "gpu", "workspace", "no_kernel"),
    [
        ([("WARNING", "Requested amount of GPU memory (1 bytes) could not be allocated."), ("ERROR", NO_KERNEL)], False, True, True),
        ([("WARNING", "due to insufficient memory on requested size of 4096"), ("ERROR", NO_KERNEL)], False, True, True),
        ([("ERROR", "Error Code 2: OutOfMemory"), ("ERROR", NO_KERNEL)], True, True, False),
        ([("ERROR", NO_KERNEL.replace(".)", " due to insufficient workspace.)"))], False, True, False),
        ([("ERROR", "No implementation of layer softmax obeys the requested constraints")], False, True, True),
        ([("WARNING", NO_KERNEL)], False, False, False),
    ],
)  # fmt: skip
def test_the_error_counts_and_not_the_warning_before_it(
    tmp_path: Path, lines: list[tuple[str, str]], gpu: bool, workspace: bool, no_kernel: bool
) -> None:
    """A tactic that is skipped for lack of memory is a warning: TensorRT tries others."""
    with Journal(tmp_path / "log") as journal:
        for severity, text in lines:
            journal.write(severity, text)
    found = (journal.lacked_gpu_memory(), journal.lacked_workspace(), journal.lacked_kernel())
    assert found == (gpu, workspace, no_kernel)
    journal.reset_errors()
    assert journal.last_errors() == "" and not journal.lacked_workspace() and not journal.lacked_kernel()
