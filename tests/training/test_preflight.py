"""Messages before a training, and messages about its metrics afterwards."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgefuse.data.dataset import load, scan, write_description, write_pair
from edgefuse.data.splits import Split
from edgefuse.errors import UserError
from edgefuse.model.choices import FusionKind
from edgefuse.training.background_check import background_line
from edgefuse.training.callbacks import NullCallback
from edgefuse.training.commands import calibration_line, summary_lines
from edgefuse.training.preflight import mirroring, sensing_notes, warnings_before
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train
from logs import logged

QUICK = TrainConfig(size=32, epochs=1, batch_size=8, num_features=16, num_hidden=16, fusion="rgb", num_threads=1)


def make_data(root: Path, sequences: dict[str, int], *, depth_codes: int = 900, unit_m: float = 0.001) -> Path:
    rng = np.random.default_rng(0)
    for label, num_sequences in sequences.items():
        for sequence in range(num_sequences):
            for frame in range(2):
                rgb = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                depth = np.full((32, 32), depth_codes, np.uint16)
                depth[:4] = 0
                write_pair(root / label / f"{label}{sequence}", f"f{frame}", rgb, depth)
    write_description(root, depth_unit_m=unit_m)
    return root


def opening(root: Path, out: Path, **changes: object) -> list[str]:
    with logged() as lines:
        train([root], out, config=replace(QUICK, **changes))  # type: ignore[arg-type]
    return lines


@pytest.mark.parametrize(
    ("labels", "asked", "words"),
    [
        (
            ("cup", "bright"),
            None,
            "half of the images are mirrored: no class name contains a side (--no-flip turns it off)",
        ),
        (("glove_L", "glove_R"), None, "images are not mirrored: glove_L, glove_R contain a side (--flip mirrors"),
        (("cup", "turn_left"), None, "images are not mirrored: turn_left contains a side"),
        (("glove_L", "glove_R"), True, "images are mirrored, as requested"),
        (("cup", "ball"), False, "images are not mirrored, as requested"),
    ],
)
def test_mirroring_is_always_reported_with_its_reason(labels: tuple[str, ...], asked: bool | None, words: str) -> None:
    assert mirroring(labels, asked=asked).startswith(words)


@pytest.mark.parametrize(
    ("fusion", "words"),
    [("gated", "gated fusion of small (RGB) and scratch (depth), "), ("rgb", "RGB only (small), ")],
)
def test_the_log_names_the_backbones_that_are_trained(
    colour_and_range: Path, tmp_path: Path, fusion: FusionKind, words: str
) -> None:
    config = TrainConfig(fusion=fusion, size=32, epochs=1, batch_size=8, validation_fraction=0.0)
    with logged() as lines:
        train([colour_and_range], tmp_path / "run", config=config)
    assert sum(line.startswith(words) for line in lines) == 1


@pytest.mark.parametrize(("asked", "stored", "warned"), [(None, False, 0), (True, True, 1), (False, False, 0)])
def test_the_option_overrides_the_class_names_with_a_warning(
    asked: bool | None, stored: bool, warned: int, tmp_path: Path
) -> None:
    root = make_data(tmp_path / "d", {"glove_L": 3, "glove_R": 3})
    lines = opening(root, tmp_path / "run", augmentation=replace(QUICK.augmentation, flip=asked))
    assert "mirrored" in lines[0] and open_run(tmp_path / "run").info["training"]["augmentation"]["flip"] is stored
    assert sum("although glove_L, glove_R contain a side" in line for line in lines) == warned


def test_classes_without_test_or_validation_pairs_are_named_everywhere(tmp_path: Path) -> None:
    root = make_data(tmp_path / "d", {"often": 6, "once": 1, "twice": 2})
    with logged() as lines:
        summary = train([root], tmp_path / "run", config=replace(QUICK, test_fraction=0.25))
    warnings = [line for line in lines if line.startswith("warning: ")]
    assert warnings[0].startswith("warning: no test pair of once (1 of 3 classes)")
    assert warnings[1].startswith("warning: no validation pair of once, twice (2 of 3 classes)") and len(warnings) == 2
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["untested_classes"] == ["once"] and metrics["unvalidated_classes"] == ["once", "twice"]
    validation, test, *_ = summary_lines(summary.metrics)
    assert validation.endswith("pairs; no pair of once, twice)") and test.endswith("pairs; no pair of once)")


@pytest.mark.parametrize(("without_depth", "warned"), [(0.70, True), (0.64, False), (0.3, False)])
def test_a_sensor_that_makes_it_worse_is_a_warning(without_depth: float, warned: bool) -> None:
    scores = {"both": {"accuracy": 0.6, "num_samples": 80}}
    scores |= {"no_rgb": {"accuracy": 0.4}, "no_depth": {"accuracy": without_depth}}
    metrics = {"validation": scores, "calibration": {"fitted_on_validation_pairs": False}}
    _, *warnings = summary_lines(metrics)
    assert bool(warnings) == warned
    if warned:
        assert "depth makes the validation pairs worse: accuracy 70.0% without it, 60.0% with both" in warnings[0]


def test_the_confusion_plot_names_them_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    monkeypatch.setattr(
        "edgefuse.training.final_scores.plot_confusion", lambda *arguments, title, **more: titles.append(title)
    )
    train(
        [make_data(tmp_path / "d", {"often": 6, "once": 1})],
        tmp_path / "run",
        config=replace(QUICK, test_fraction=0.25),
    )
    assert titles[0].startswith("RGB only (small); run run\ntest: ") and titles[0].endswith("no pair of once")


@pytest.mark.parametrize(
    ("codes", "unit_m", "words"),
    [(3000, 0.001, "beyond 2 m"), (100, 0.001, "nearer than 0.2 m"), (900, 0.001, None), (3000, 0.0001, None)],
)
def test_depth_out_of_range_is_one_line(codes: int, unit_m: float, words: str | None, tmp_path: Path) -> None:
    rgbd = load(scan([make_data(tmp_path / "d", {"a": 2, "b": 2}, depth_codes=codes, unit_m=unit_m)]))
    found = sensing_notes(rgbd, (0, 1, 2), QUICK)
    if words is None:
        assert found == []
    else:
        (text,) = found
        assert text.startswith(f"in 3 of 3 training pairs: 100% of the measured depth is {words}")
        assert ("--far" if "beyond" in words else "--near") in text


def test_depth_out_of_range_in_few_pairs_gives_no_warning(tmp_path: Path) -> None:
    near = make_data(tmp_path / "near", {"a": 10})
    far = make_data(tmp_path / "far", {"b": 1}, depth_codes=3000)
    rgbd = load(scan([near, far]))
    everything = tuple(range(len(rgbd.dataset.samples)))
    (text,) = sensing_notes(rgbd, everything, QUICK)
    assert text.startswith("in 2 of 22 training pairs: 9%")
    assert sensing_notes(rgbd, everything[:-2], QUICK) == []


def test_a_single_class_out_of_range_is_named(tmp_path: Path) -> None:
    near, far = make_data(tmp_path / "near", {"a": 30}), make_data(tmp_path / "far", {"b": 1}, depth_codes=3000)
    rgbd = load(scan([near, far]))
    (text,) = sensing_notes(rgbd, range(62), QUICK)
    assert text.startswith("1 class(es) are out of the depth range, first b: 100% of the measured depth is beyond 2 m")
    (text,) = sensing_notes(rgbd, range(62), replace(QUICK, near_m=1.0, far_m=4.0))
    assert text.startswith("in 60 of 62 training pairs: 97% of the measured depth is nearer")


def test_a_missing_sensor_gives_a_warning_if_the_model_uses_it(tmp_path: Path) -> None:
    root = make_data(tmp_path / "d", {"a": 3, "b": 3}, depth_codes=0)
    assert not any("missing" in line for line in opening(root, tmp_path / "rgb"))
    (text,) = [line for line in opening(root, tmp_path / "gated", fusion="gated") if "missing" in line]
    assert text.startswith("warning: depth is missing") and "(a, b)" in text and "a/a" in text


def test_strict_makes_warnings_errors_before_anything_is_written(tmp_path: Path) -> None:
    root = make_data(tmp_path / "d", {"a": 3, "b": 3}, depth_codes=3000)
    with pytest.raises(UserError, match=r"1 warning\(s\), which --strict makes errors: in 8 of 8 training pairs"):
        train([root], tmp_path / "run", config=QUICK, strict=True)
    assert not (tmp_path / "run").exists()
    fine = make_data(tmp_path / "fine", {"a": 3, "b": 3})
    train([fine], tmp_path / "run", config=QUICK, strict=True)


def test_warnings_about_the_data_are_warnings_of_the_training(tmp_path: Path) -> None:
    """The same image with two labels."""
    root = make_data(tmp_path / "d", {"a": 3, "b": 3})
    for kind in ("rgb", "depth"):
        shutil.copy(root / f"a/a0/f0_{kind}.png", root / f"b/b0/f0_{kind}.png")
    lines = opening(root, tmp_path / "run")
    assert any(line.startswith("warning: ") and "a/a0" in line and "b/b0" in line for line in lines)
    with pytest.raises(UserError, match="which --strict makes errors"):
        train([root], tmp_path / "other", config=QUICK, strict=True)


def test_a_missing_validation_part_gives_a_warning(tmp_path: Path) -> None:
    rgbd = load(scan([make_data(tmp_path / "d", {"a": 2, "b": 2})]))
    parts = Split(train=(0, 1, 4, 5), validation=(), test=(2, 3, 6, 7))
    (warning,) = warnings_before(rgbd, parts, config=QUICK)
    assert warning.startswith("no validation pairs: each class needs its last sequence")
    assert warnings_before(rgbd, parts, config=replace(QUICK, validation_fraction=0.0)) == []


def test_the_calibration_line_names_the_data() -> None:
    figures = {
        "before": {"expected_calibration_error": 0.181, "negative_log_likelihood": 0.9},
        "after": {"expected_calibration_error": 0.124, "negative_log_likelihood": 0.8},
    }
    fitted = {"temperature": 0.647, "fitted_on_validation_pairs": 20, "validation": figures}
    assert calibration_line({**fitted, "test": figures}) == (
        "Calibrated on validation data (T = 0.647): test ECE 0.181 -> 0.124, NLL 0.900 -> 0.800"
    )
    assert "on the same data (optimistic): ECE 0.181 -> 0.124" in calibration_line(fitted)
    assert calibration_line({"temperature": 1.0, "fitted_on_validation_pairs": 0, "test": figures}) == ""


def test_two_trainings_of_one_run_do_not_mix(tmp_path: Path) -> None:
    """The second is refused while the first writes; a run that another process created meanwhile is kept."""
    root = make_data(tmp_path / "d", {"a": 3, "b": 3})
    refused = list[str]()

    class Second(NullCallback):
        def on_epoch_end(self, *_: object) -> None:
            with pytest.raises(UserError, match="another process is writing .*run: wait") as caught:
                train([root], tmp_path / "run", config=replace(QUICK, seed=2), force=True)
            refused.append(str(caught.value))

    train([root], tmp_path / "run", config=replace(QUICK, epochs=2), callback=Second())
    assert len(refused) == 2 and open_run(tmp_path / "run").info["epochs_done"] == 2

    class Overtaken(NullCallback):
        def on_train_start(self, num_epochs: int) -> None:
            with pytest.raises(UserError, match="another process is writing .*late: wait"):
                train([root], tmp_path / "late", config=replace(QUICK, seed=2))
            shutil.copytree(tmp_path / "run", tmp_path / "late")  # bypasses the lock

    with pytest.raises(UserError, match="written by another process and is not replaced"):
        train([root], tmp_path / "late", config=QUICK, callback=Overtaken())
    assert open_run(tmp_path / "late").info["epochs_done"] == 2
    open_run(tmp_path / "late").build_model()


def test_a_run_that_another_process_replaced_is_not_modified(tmp_path: Path) -> None:
    root = make_data(tmp_path / "d", {"a": 3, "b": 3})

    class Replaced(NullCallback):
        def on_epoch_end(self, *_: object) -> None:
            shutil.rmtree(tmp_path / "run")
            (tmp_path / "run").mkdir()

    with pytest.raises(UserError, match="another process"):
        train([root], tmp_path / "run", config=replace(QUICK, epochs=2), callback=Replaced())
    assert list((tmp_path / "run").iterdir()) == []


@pytest.mark.parametrize(
    ("behind_mm", "background", "words"),
    [
        (
            1500,
            0.5,
            "50% of the backgrounds are replaced: depth separates object and background in 100% of the sampled pairs",
        ),
        (
            0,
            0.5,
            "backgrounds are kept: depth separates object and background in 0% of the sampled pairs; the nearest surface",
        ),
        (1500, 0.0, "backgrounds are kept, as requested"),
    ],
)
def test_the_output_says_whether_backgrounds_are_replaced_and_why(
    tmp_path: Path, behind_mm: int, background: float, words: str
) -> None:
    rng = np.random.default_rng(0)
    for label in ("cup", "ball"):
        for sequence in range(2):
            depth = np.full((32, 32), behind_mm, np.uint16)
            depth[8:24, 8:24] = 600
            rgb = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            write_pair(tmp_path / "data" / label / f"{label}{sequence}", "f0", rgb, depth)
    write_description(tmp_path / "data", depth_unit_m=0.001)
    config = replace(QUICK, augmentation=replace(QUICK.augmentation, background=background))
    rgbd = load(scan([tmp_path / "data"]))
    assert background_line(rgbd, range(4), config=config).startswith(words)
    assert (
        sum(
            line.startswith(words)
            for line in opening(tmp_path / "data", tmp_path / "run", augmentation=config.augmentation)
        )
        == 1
    )


def test_the_fraction_of_replaced_backgrounds_counts_only_separable_pairs(tmp_path: Path) -> None:
    for number in range(4):
        depth = np.full((32, 32), 1500 if number else 0, np.uint16)
        depth[8:24, 8:24] = 600
        write_pair(tmp_path / "cup" / "s", f"f{number}", np.zeros((32, 32, 3), np.uint8), depth)
    write_description(tmp_path, depth_unit_m=0.001)
    config = replace(QUICK, augmentation=replace(QUICK.augmentation, background=0.8))
    line = background_line(load(scan([tmp_path])), range(4), config=config)
    assert line.startswith("60% of the backgrounds are replaced: depth separates object and background in 75%")
