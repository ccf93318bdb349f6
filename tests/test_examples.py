"""Each program in `examples/` runs as its first line says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from edgefuse_runtime.recording.write_db3 import write_recording
from toy_bundle import make_toy_bundle

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


def _run(name: str, *arguments: object) -> str:
    done = subprocess.run(
        [sys.executable, EXAMPLES / name, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_two_images_are_classified(tmp_path: Path, colour_and_range: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle").folder
    pair = colour_and_range / "red_near" / "take0" / "frame_0"
    label, probability = _run("classify_images.py", bundle, f"{pair}_rgb.png", f"{pair}_depth.png").split()
    assert label in ("near", "far") and 0.5 <= float(probability) <= 1


def test_a_recording_is_followed(tmp_path: Path) -> None:
    import numpy as np

    bundle = make_toy_bundle(tmp_path / "bundle").folder
    rgb = np.random.default_rng(0).integers(0, 60, (48, 64, 3), np.uint8)
    write_recording(tmp_path / "r.db3", [(rgb, np.full((48, 64), 1900, np.uint16))] * 5)
    lines = _run("live_loop.py", bundle, tmp_path / "r.db3").splitlines()
    assert lines and all(": far " in line and " ms" in line for line in lines)


def test_a_model_is_trained_and_exported(tmp_path: Path, colour_and_range: Path) -> None:
    lines = _run("train_and_export.py", colour_and_range, tmp_path, 1).splitlines()
    assert [line.split(":")[0] for line in lines] == ["both", "no_rgb", "no_depth"]
    assert (tmp_path / "bundle" / "model.fp16.onnx").exists()


def test_every_example_is_run() -> None:
    source = Path(__file__).read_text(encoding="utf-8")
    assert all(f'"{path.name}"' in source for path in EXAMPLES.glob("*.py"))
