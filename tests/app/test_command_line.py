"""The command line in another process: exit code and output."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from toy_bundle import make_toy_bundle

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")


def edgefuse(*arguments: object, timeout_s: float = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*EDGEFUSE, *map(str, arguments)], capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL
    )


def fails(*arguments: object, code: int = 1) -> str:
    result = edgefuse(*arguments)
    assert result.returncode == code, (result.stdout, result.stderr)
    assert "Traceback" not in result.stderr
    return " ".join(result.stderr.replace("│", " ").split())


@pytest.fixture(scope="module")
def run(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("cli") / "run"
    result = edgefuse(
        "train",
        colour_and_range,
        "--out",
        out,
        "--epochs",
        14,
        "--size",
        32,
        "--batch-size",
        8,
        "--exclude",
        "take3",
        "--validation-fraction",
        0,
    )
    assert result.returncode == 0, result.stderr
    assert "test: accuracy with both" in result.stderr and "epoch 14 of 14" in result.stderr
    return out


def test_train_reports_the_effect_of_the_temperature(colour_and_range: Path, tmp_path: Path) -> None:
    quick = ("--epochs", 1, "--size", 32, "--batch-size", 8, "--exclude", "take3")
    result = edgefuse("train", colour_and_range, "--out", tmp_path / "run", *quick)
    calibration = json.loads((tmp_path / "run/metrics.json").read_text())["calibration"]
    before, after = (calibration["test"][when]["expected_calibration_error"] for when in ("before", "after"))
    line = f"Calibrated on validation data (T = {calibration['temperature']:.3f}): test ECE {before:.3f} -> {after:.3f}, NLL "
    assert result.returncode == 0 and line in result.stderr


@pytest.fixture(scope="module")
def bundle(run: Path) -> Path:
    result = edgefuse("export", run, "--out", run.parent / "bundle")
    assert result.returncode == 0, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("model.onnx ") and "MB" in line]
    size_mb = (run.parent / "bundle/model.onnx").stat().st_size / 1e6
    assert f" {size_mb:.1f} MB  0 of " in line and line.endswith(" predictions changed  pass")
    assert "black RGB" not in result.stderr
    assert "writing model.fp16.onnx" in result.stderr and (run.parent / "bundle/model.fp16.onnx").is_file()
    verbose = edgefuse("export", run, "--out", run.parent / "bundle", "--force", "--verbose")
    assert "real samples" in verbose.stderr and "black RGB" in verbose.stderr
    return run.parent / "bundle"


def test_train_export_evaluate_live_agree(run: Path, bundle: Path, colour_and_range: Path, tmp_path: Path) -> None:
    reports = []
    for model in (run, bundle):
        result = edgefuse("evaluate", model, colour_and_range, "--only", "take3", "--json")
        assert result.returncode == 0, result.stderr
        reports.append(json.loads(result.stdout))
    by_torch, by_onnx = (report["conditions"] for report in reports)
    assert by_torch["both"]["confusion"] == by_onnx["both"]["confusion"] and by_onnx["both"]["accuracy"] >= 0.8
    assert set(by_onnx) == {"both", "no_rgb", "no_depth"} and set(by_onnx["both"]["recall"]) == {
        "blue_near",
        "red_far",
        "red_near",
    }
    assert 0 <= by_onnx["both"]["expected_calibration_error"] <= 1

    log = tmp_path / "live.jsonl"
    result = edgefuse("live", bundle, "--camera", colour_and_range, "--jsonl", log, "--json")
    assert result.returncode == 0, result.stderr
    summary = json.loads(result.stdout)
    assert summary["processed"] == 60 and summary["accuracy"]["scored"] == 60
    assert summary["received"] == 60 + summary["dropped"] + summary["stale"]
    everything = json.loads(edgefuse("evaluate", bundle, colour_and_range, "--json").stdout)["conditions"]["both"]
    assert summary["accuracy"]["fraction"] == pytest.approx(everything["accuracy"])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert len([line for line in lines if "probability" in line]) == 60


def test_evaluate_prints_a_table_and_warns_about_training_data(bundle: Path, colour_and_range: Path) -> None:
    result = edgefuse("evaluate", bundle, colour_and_range)
    assert result.returncode == 0 and "recall of red_far" in result.stdout and "no depth" in result.stdout
    assert "was trained on 9 of these sequences" in result.stderr
    assert "trained on" not in edgefuse("evaluate", bundle, colour_and_range, "--only", "take3").stderr


def test_live_prints_one_line_per_result(colour_and_range: Path, tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy").folder
    result = edgefuse("live", bundle, "--camera", colour_and_range, "--frames", 3, "--roi", "5,5,20,20")
    assert result.returncode == 0, result.stderr
    results = [line for line in result.stdout.splitlines() if "gate" in line and "ms" in line]
    assert len(results) >= 3


def test_record_writes_a_sequence_that_train_accepts(colour_and_range: Path, tmp_path: Path) -> None:
    for label in ("red_far", "red_near"):
        result = edgefuse(
            "record",
            tmp_path / "set",
            "--label",
            label,
            "--sequence",
            "t0",
            "--camera",
            colour_and_range / "..",
            "--frames",
            4,
        )
        assert result.returncode == 1  # the folder above is no data set
        result = edgefuse(
            "record",
            tmp_path / "set",
            "--label",
            label,
            "--sequence",
            "t0",
            "--camera",
            colour_and_range,
            "--frames",
            4,
        )
        assert result.returncode == 0, result.stderr
    assert len(list((tmp_path / "set").glob("*/t0/*_depth.png"))) == 8
    assert "exists" in fails(
        "record", tmp_path / "set", "--label", "red_far", "--sequence", "t0", "--camera", colour_and_range
    )
    result = edgefuse(
        "train", tmp_path / "set", "--out", tmp_path / "run", "--epochs", 1, "--size", 32, "--validation-fraction", 0
    )
    assert result.returncode == 0, result.stderr


def test_synth_makes_a_set_and_refuses_to_overwrite(tmp_path: Path) -> None:
    out = tmp_path / "set"
    result = edgefuse("data", "synth", out, "--pairs", 12, "--size", 32, "--workers", 1)
    assert result.returncode == 0 and len(list(out.glob("*/*/*_rgb.png"))) == 12, result.stderr
    assert "--force" in fails("data", "synth", out, "--pairs", 12)
    assert edgefuse("data", "synth", out, "--pairs", 12, "--size", 32, "--workers", 1, "--force").returncode == 0


def test_ctrl_c_leaves_a_usable_run(colour_and_range: Path, tmp_path: Path) -> None:
    command = [
        *EDGEFUSE,
        "train",
        str(colour_and_range),
        "--out",
        str(tmp_path / "run"),
        "--epochs",
        "100000",
        "--size",
        "32",
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        said = ""
        while "epoch 2 of" not in said and process.poll() is None:
            said += process.stderr.readline()
        process.send_signal(signal.SIGINT)
        said += process.stderr.read()
    assert process.returncode == 130 and "Traceback" not in said and "can be exported" in said
    assert edgefuse("export", tmp_path / "run", "--out", tmp_path / "bundle").returncode == 0


def test_ctrl_c_ends_live_with_its_summary(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy").folder
    with subprocess.Popen(
        [*EDGEFUSE, "live", str(bundle), "--camera", "synthetic"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert "Traceback" not in err and "interrupted" in out + err
    assert process.returncode == 0


def test_a_reader_that_leaves_is_no_error(colour_and_range: Path, tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy").folder
    command = f"{sys.executable} -c 'from edgefuse.app.main import main; main()' live {bundle} --camera synthetic --frames 40 | head -n 1"
    result = subprocess.run(command, shell=True, capture_output=True, text=True, timeout=60)
    assert "frame" in result.stdout and "Error" not in result.stderr and "Traceback" not in result.stderr


# Errors and their messages


def test_a_missing_camera_is_reported_within_a_second(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy").folder
    started_s = time.monotonic()
    message = fails("live", bundle, "--camera", "realsense:123456")
    assert "123456" in message
    idle_s = time.monotonic()
    edgefuse("live", "--help")
    start_up_s = time.monotonic() - idle_s
    assert idle_s - started_s < 1.5 + 2 * start_up_s  # in addition to starting Python and loading the libraries


def bad_data_set(root: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("0", "1", "2", "3", "4"):
        for label in ("cup", "ball"):
            folder = root / label / "t0"
            folder.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(folder / f"{name}_rgb.png"), rng.integers(0, 255, (32, 32, 3), dtype=np.uint8))
            cv2.imwrite(str(folder / f"{name}_depth.png"), rng.integers(1, 2000, (32, 32)).astype(np.uint16))
    cv2.imwrite(str(root / "cup/t0/0_depth.png"), np.zeros((32, 32), np.uint8))
    cv2.imwrite(str(root / "cup/t0/1_depth.png"), np.zeros((16, 32), np.uint16))
    (root / "ball/t0/2_rgb.png").write_bytes(b"not an image")
    return root


def test_bad_data_is_named_before_training_and_can_be_skipped(tmp_path: Path) -> None:
    root = bad_data_set(tmp_path / "set")
    quick = ("--epochs", 1, "--size", 32, "--validation-fraction", 0)
    message = fails("train", root, "--out", tmp_path / "run", *quick)
    for words in ("3 bad pair(s)", "8-bit", "its depth is 32x16", "2_rgb.png", "--skip-bad"):
        assert words in message
    assert not (tmp_path / "run").exists()
    (root / "ball/t0/4_depth.png").unlink()
    assert "no 4_depth.png" in fails("train", root, "--out", tmp_path / "run", *quick)
    result = edgefuse("train", root, "--out", tmp_path / "run", *quick, "--skip-bad")
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["train", "{data}"], 2, "--out"),
        (["train", "{data}", "--out", "{tmp}/r", "--epochs", "0"], 2, "epochs"),
        (["train", "{data}", "--out", "{tmp}/r", "--fusion", "sum"], 2, "sum"),
        (["train", "{data}", "--out", "{tmp}/r", "--rgb", "alexnet"], 2, "alexnet"),
        (["train", "{data}", "--out", "{tmp}/r", "--exclude", "nothing*"], 1, "no sequence matches"),
        (
            ["train", "{data}", "--out", "{tmp}/r", "--rgb", "resnet18", "--rgb-weights", "{tmp}/w.pth"],
            1,
            "does not exist",
        ),
        (["train", "{tmp}", "--out", "{tmp}/r"], 1, "no pairs"),
        (["train", "{tmp}/absent", "--out", "{tmp}/r"], 1, "not a folder"),
        (["train", "{data}/red_far/..", "--out", "{data}"], 1, "exists already"),
        (["export", "{tmp}/absent", "--out", "{tmp}/b"], 1, "not a run"),
        (["export", "{data}", "--out", "{tmp}/b"], 1, "edgefuse train"),
        (["live", "{tmp}/absent"], 1, "not a bundle"),
        (["live", "{toy}", "--camera", "{tmp}/absent.db3"], 1, "absent.db3"),
        (["live", "{toy}", "--camera", "webcam"], 1, "realsense"),
        (["live", "{toy}", "--camera", "{data}", "--roi", "1,2,3"], 2, "--roi"),
        (["live", "{toy}", "--camera", "{data}", "--frames", "0"], 2, "frames"),
        (["live", "{toy}", "--camera", "{data}", "--roi", "900,900,20,20"], 1, "does not overlap"),
        (["evaluate", "{toy}", "{data}"], 1, "classes that the model does not know"),
        (["record", "{tmp}/set", "--label", "../up", "--camera", "{data}"], 1, "label"),
        (["record", "{tmp}/set", "--label", "a", "--camera", "{data}", "--align", "up"], 2, "align"),
        (["data", "synth", "{tmp}/s", "--pairs", "-1"], 2, "pairs"),
        (["data", "check", "{data}", "--montage", "{tmp}/m.txt"], 2, "ends in .png was expected"),
        (["crossval", "{data}", "--out", "{tmp}/c", "--seed", "-1"], 2, "seed"),
        (["crossval", "{data}", "--out", "{tmp}/c", "--folds", "6"], 1, "4 group(s) (take0, take1, take2, take3)"),
        (["crossval", "{data}", "--out", "{tmp}/c", "--by", "^(s[0-9]+)_"], 1, "finds no group in 4 sequence name(s)"),
        (["crossval", "{data}/red_far", "--out", "{tmp}/c"], 1, "has no pairs"),
        (
            ["reproduce", "washington", "{data}", "--out", "{tmp}/w", "--rgb-weights", "none"],
            1,
            "apple_1_1_1_crop.png",
        ),
        (["reproduce", "bu3dfe", "{data}", "--out", "{tmp}/w", "--by", "trials"], 1, "for washington, trials"),
        (["frobnicate"], 2, "frobnicate"),
    ],
)
def test_wrong_input_is_refused_with_the_right_exit_code(
    arguments: list[str], code: int, words: str, colour_and_range: Path, tmp_path: Path
) -> None:
    toy = make_toy_bundle(tmp_path / "toy").folder if "{toy}" in arguments else tmp_path
    (tmp_path / "absent").parent.mkdir(exist_ok=True)
    filled = [a.format(data=colour_and_range, tmp=tmp_path, toy=toy) for a in arguments]
    assert words in fails(*filled, code=code)


def test_one_class_only_is_refused(tmp_path: Path) -> None:
    root = bad_data_set(tmp_path / "set")
    shutil.rmtree(root / "cup")
    (root / "ball/t0/2_rgb.png").unlink()
    (root / "ball/t0/2_depth.png").unlink()
    assert "only one class (ball)" in fails("train", root, "--out", tmp_path / "run")


def test_a_bundle_of_a_newer_format_or_with_a_flipped_byte_is_refused(tmp_path: Path, colour_and_range: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "toy").folder
    manifest = json.loads((bundle / "manifest.json").read_text())
    (bundle / "manifest.json").write_text(json.dumps({**manifest, "format": manifest["format"] + 1}))
    assert "install a newer edgefuse" in fails("live", bundle, "--camera", colour_and_range)
    (bundle / "manifest.json").write_text(json.dumps(manifest))
    data = bytearray((bundle / "model.onnx").read_bytes())
    data[-1] ^= 1
    (bundle / "model.onnx").write_bytes(data)
    assert "sha256" in fails("live", bundle, "--camera", colour_and_range)


def test_debug_shows_the_traceback(tmp_path: Path) -> None:
    result = edgefuse("export", tmp_path / "absent", "--out", tmp_path / "b", "--debug")
    assert result.returncode == 1 and "Traceback" in result.stderr and "not a run" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_command_is_imported_is_no_traceback(number: signal.Signals) -> None:
    program = f"""
import os, edgefuse.app.main as main
main.importlib.import_module = lambda name: os.kill(os.getpid(), {number.value})
main.main()
"""
    done = subprocess.run([sys.executable, "-c", program, "train"], capture_output=True, text=True, timeout=60)
    word = "interrupted" if number == signal.SIGINT else "ended by SIGTERM"
    assert (done.returncode, done.stderr.split("\n")) == (128 + number, [word, ""])


def test_a_missing_library_names_the_fix(tmp_path: Path, colour_and_range: Path) -> None:
    """A package of that name that does not load replaces a broken or missing one."""
    bundle = make_toy_bundle(tmp_path / "toy").folder
    for module, words in (
        ("pyrealsense2", "apt-get install libusb-1.0-0"),
        ("onnxruntime", "edgefuse[runtime]"),
    ):
        shadow = tmp_path / f"shadow_{module}"
        shadow.mkdir()
        cause = (
            "libusb-1.0.so.0: cannot open shared object file"
            if module == "pyrealsense2"
            else f"No module named '{module}'"
        )
        error = "ImportError" if module == "pyrealsense2" else "ModuleNotFoundError"
        extra = "" if module == "pyrealsense2" else f", name={module!r}"
        (shadow / f"{module}.py").write_text(f"raise {error}({cause!r}{extra})")
        environment = {**os.environ, "PYTHONPATH": str(shadow)}
        camera = "realsense" if module == "pyrealsense2" else str(colour_and_range)
        result = subprocess.run(
            [*EDGEFUSE, "live", str(bundle), "--camera", camera], capture_output=True, text=True, env=environment
        )
        assert result.returncode == 1 and words in result.stderr, result.stderr
