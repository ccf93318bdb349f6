"""edgefuse build --reference: what it writes is read by Polygraphy itself, and by the rules of trtexec's source."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from dataclasses import make_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_scenes import NUM_SAMPLES, SIZE, make_engine_bundle
from polygraphy.comparator import RunResults
from polygraphy.json import load_json

from edgefuse.bundle import Bundle, write_manifest
from edgefuse.errors import UserError
from edgefuse_export.tensorrt.build import BuildOptions
from edgefuse_export.tensorrt.reference_data import write_reference

INPUTS = ("rgb", "depth")


def build(bundle: Bundle, *arguments: object) -> subprocess.CompletedProcess[str]:
    """`edgefuse build`, with this machine's TensorRT or none."""
    return subprocess.run(
        [sys.executable, "-m", "edgefuse", "build", str(bundle.folder), *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def in_shell(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    """The result of a shell command, with the programs of this Python's environment."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ["PATH"]))
    return subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, timeout=120, env={**os.environ, "PATH": path}
    )


def stored(bundle: Bundle, *, batch_size: int) -> list[dict[str, np.ndarray]]:
    """The arrays of the bundle in batches; the last one is filled up with the first frames."""
    arrays = {name: array for name, array in vars(bundle.samples()).items() if array is not None}
    firsts = range(0, NUM_SAMPLES, batch_size)
    return [
        {
            name: np.stack([array[(first + i) % NUM_SAMPLES] for i in range(batch_size)])
            for name, array in arrays.items()
        }
        for first in firsts
    ]


CASES = pytest.mark.parametrize(
    ("batch", "options", "batch_size"),
    [(1, {}, 1), (3, {}, 3), (16, {}, 16), ("n", {}, NUM_SAMPLES), ("n", {"batch_size": 3}, 3)],
)


@CASES
def test_polygraphy_reads_the_arrays_of_the_bundle(
    tmp_path: Path, batch: int | str, options: dict[str, Any], batch_size: int
) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle", batch=batch)
    written = write_reference(bundle.folder, tmp_path / "out", BuildOptions(**options))
    expected = stored(bundle, batch_size=batch_size)
    assert (written.batch_size, written.num_batches) == (batch_size, len(expected))

    inputs = load_json(str(tmp_path / "out" / "polygraphy_inputs.json"))
    path = tmp_path / "out" / "polygraphy_outputs.json"
    results = RunResults.load(str(path))
    ((_, iterations),) = results.items()
    assert len(inputs) == len(iterations) == len(expected)
    for found, outputs, arrays in zip(inputs, iterations, expected, strict=True):
        together = {**found, **dict(outputs.items())}
        assert list(found) == list(INPUTS) and set(together) == set(arrays)
        for name, array in arrays.items():
            assert together[name].dtype == array.dtype
            np.testing.assert_array_equal(together[name], array)
    assert json.loads(path.read_text()) == json.loads(results.to_json())  # as Polygraphy itself writes it


@CASES
def test_trtexec_finds_each_tensor_in_a_file_of_its_size(
    tmp_path: Path, batch: int | str, options: dict[str, Any], batch_size: int
) -> None:
    """As sampleOptions.cpp of TensorRT 11.1 reads the options, and sampleUtils.cpp the files."""
    bundle = make_engine_bundle(tmp_path / "bundle, of: two", batch=batch)
    out = tmp_path / "out, of: two"
    commands = write_reference(bundle.folder, out, BuildOptions(**options)).commands
    words = shlex.split(commands["TensorRT 11.1 or newer, with trtexec"])
    assert words[0] == "trtexec" and f"--onnx={bundle.file('model.fp16.onnx')}" in words
    shapes = f"--shapes=rgb:{batch_size}x{SIZE}x{SIZE}x3,depth:{batch_size}x{SIZE}x{SIZE}x2"
    assert ("--stronglyTyped" in words, shapes in words) == (True, batch == "n")
    assert {"--accuracyAlgorithm=lInf", "--accuracyThreshold=0.02"} <= set(words)

    batches = stored(bundle, batch_size=batch_size)
    pairs = [index for index, word in enumerate(words) if word.startswith("--loadInputs=")]
    expected = [f"--refPair={i}" for i in range(len(batches))] if len(batches) > 1 else []  # one is refused
    assert [words[index - 1] for index in pairs if len(batches) > 1] == expected
    assert sum("--refPair" in word for word in words) == len(expected) and len(pairs) == len(batches)
    for index, arrays in zip(pairs, batches, strict=True):
        found = {}
        for word, option in zip(words[index : index + 2], ("--loadInputs=", "--loadRefOutputs="), strict=True):
            assert word.startswith(option)
            found |= dict(pair.rsplit(":", 1) for pair in word.removeprefix(option).split(","))
        assert set(found) == set(arrays)
        for name, file in found.items():
            little_endian = arrays[name].dtype.newbyteorder("<")
            assert (out / file).read_bytes() == arrays[name].astype(little_endian).tobytes()


@pytest.mark.parametrize("batch", [1, "n"])
def test_the_printed_polygraphy_command_passes_and_finds_a_changed_output(tmp_path: Path, batch: int | str) -> None:
    bundle = make_engine_bundle(tmp_path / "the bundle", batch=batch)
    out = tmp_path / "out, of: two"
    result = build(bundle, "--reference", out, "--json")
    assert result.returncode == 0, result.stderr
    command = json.loads(result.stdout)["commands"]["ONNX Runtime, with Polygraphy"]
    passed = in_shell(command, out)
    assert passed.returncode == 0, passed.stdout
    num_batches = NUM_SAMPLES if batch == 1 else 1
    assert f"Passed: {num_batches}/{num_batches} iterations" in passed.stdout

    path = str(out / "polygraphy_outputs.json")
    results = RunResults.load(path)
    ((_, iterations),) = results.items()
    changed = iterations[-1]["gate"].copy()
    changed[-1, -1] += 0.011  # the limit for FP16 is 0.01
    iterations[-1]["gate"] = changed
    results.save(path)
    failed = in_shell(command, out)
    assert failed.returncode == 1, failed.stdout
    assert f"Passed: {num_batches - 1}/{num_batches} iterations" in failed.stdout
    assert "FAILED | Output: 'gate'" in failed.stdout and "FAILED | Output: 'probabilities'" not in failed.stdout


def test_standard_output_is_a_shell_script(tmp_path: Path) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle")
    result = build(bundle, "--reference", tmp_path / "it's here", "--precision", "fp32")
    assert result.returncode == 0, result.stderr
    (tmp_path / "bin").mkdir()
    for tool in ("trtexec", "polygraphy"):
        (tmp_path / "bin" / tool).write_text('#!/bin/sh\necho "$PWD: $(basename "$0") $#"\n')
        (tmp_path / "bin" / tool).chmod(0o755)
    run = in_shell(f"PATH={shlex.quote(str(tmp_path / 'bin'))}:$PATH; {result.stdout}", tmp_path)
    assert run.stderr == "" and len(run.stdout.splitlines()) == 3
    assert all(line.startswith(f"{tmp_path / 'it'}'s here: ") for line in run.stdout.splitlines())
    assert f"trtexec {5 + 3 * NUM_SAMPLES}" in run.stdout


def test_every_output_of_the_samples_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle")
    arrays = {**vars(bundle.samples()), "another": np.arange(NUM_SAMPLES, dtype=np.float32)[:, None], "absent": None}
    monkeypatch.setattr(Bundle, "samples", lambda self: make_dataclass("Samples", arrays)(**arrays))
    commands = write_reference(bundle.folder, tmp_path / "out", BuildOptions()).commands
    ((_, iterations),) = RunResults.load(str(tmp_path / "out" / "polygraphy_outputs.json")).items()
    assert [float(outputs["another"][0, 0]) for outputs in iterations] == list(range(NUM_SAMPLES))
    assert "another:another.3.bin" in commands["TensorRT 11.1 or newer, with trtexec"]
    assert not any("absent" in path.name for path in (tmp_path / "out").iterdir())


def everything_in(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.mark.parametrize(
    ("files", "arguments", "words"),
    [
        (("notes.txt",), (), "exists already: choose another name, or add --force"),
        (("notes.txt",), ("--force",), "it has no polygraphy_inputs.json, so edgefuse did not make it"),
        (("polygraphy_inputs.json", "notes.txt"), ("--force",), "it also contains notes.txt"),
    ],
)
def test_a_folder_with_other_files_is_not_touched(
    tmp_path: Path, files: tuple[str, ...], arguments: tuple[str, ...], words: str
) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle")
    out = tmp_path / "out"
    out.mkdir()
    for name in files:
        (out / name).write_text("mine")
    before = everything_in(out)
    result = build(bundle, "--reference", out, *arguments)
    assert result.returncode == 1 and result.stdout == "" and words in " ".join(result.stderr.split())
    assert everything_in(out) == before


@pytest.mark.parametrize("arguments", [("--engine", "rtx"), ("--engine", "rtx", "--for", "sm86")])
def test_the_reference_is_of_tensorrt_only(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle")
    result = build(bundle, "--reference", tmp_path / "out", *arguments)
    assert result.returncode == 2 and "leave out --engine and --for" in " ".join(
        result.stderr.replace("│", " ").split()
    )
    assert not (tmp_path / "out").exists()


def test_force_replaces_what_it_wrote(tmp_path: Path) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle", batch="n")
    out = tmp_path / "out"
    out.mkdir()  # an empty folder may be used without --force
    write_reference(bundle.folder, out, BuildOptions(batch_size=1))
    write_reference(bundle.folder, out, BuildOptions(force=True))
    assert "rgb.0.bin" in everything_in(out) and "rgb.1.bin" not in everything_in(out)


@pytest.mark.parametrize(
    ("without", "batch", "options", "words"),
    [
        (("samples.npz",), 1, {}, ("has no samples.npz", "edgefuse export RUN --out")),
        (("model.fp16.onnx",), 1, {}, ("has no model.fp16.onnx", "--precision fp32,fp16 --force", "--precision fp32")),
        ((), 1, {"precision": "int8"}, ("has no model.int8.onnx", "--precision fp32,int8 --force")),
        ((), 2, {"batch_size": 4}, ("batches of 2, not of 4", "leave --batch out", "--batch dynamic")),
    ],
)
def test_what_the_bundle_lacks_is_named_with_the_next_step(
    tmp_path: Path, without: tuple[str, ...], batch: int, options: dict[str, Any], words: tuple[str, ...]
) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle", batch=batch, without=without)
    with pytest.raises(UserError) as caught:
        write_reference(bundle.folder, tmp_path / "out", BuildOptions(**options))
    assert all(text in str(caught.value) for text in words), caught.value
    assert not (tmp_path / "out").exists()


def test_a_changed_file_is_refused(tmp_path: Path) -> None:
    bundle = make_engine_bundle(tmp_path / "bundle")
    entry = replace(bundle.manifest.files["model.fp16.onnx"], sha256="0" * 64)
    files = {**bundle.manifest.files, "model.fp16.onnx": entry}
    write_manifest(bundle.folder, replace(bundle.manifest, files=files))
    with pytest.raises(UserError, match="is not the file that was exported"):
        write_reference(bundle.folder, tmp_path / "out", BuildOptions())
