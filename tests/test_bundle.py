"""Opening a bundle with any manifest and ONNX file gives a consistent bundle or one UserError."""

from __future__ import annotations

import copy
import dataclasses
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.bundle import (
    MANIFEST_NAME,
    MODEL_NAME,
    SAMPLES_NAME,
    Bundle,
    FileEntry,
    Manifest,
    Samples,
    check_file_in_bundle,
    open_bundle,
    write_manifest,
    write_samples,
)
from edgefuse.errors import UserError
from edgefuse.io.onnx_metadata import read_metadata
from toy_bundle import make_toy_bundle

ODD_VALUES = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-2, 2),
    st.sampled_from([10**400, -(10**18), 1.5, float("nan"), float("inf"), "", "x", "../x", "\ud800", "\x00", [], {}]),
    st.lists(st.integers(0, 1) | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["sha256", "size", "a"]), st.none() | st.integers(0, 3), max_size=2),
)


def complete_bundle(folder: Path) -> Bundle:
    """A toy bundle with samples and an entry for an engine."""
    made = make_toy_bundle(folder)
    rng = np.random.default_rng(0)
    samples = Samples(
        rgb=rng.integers(0, 256, (2, 32, 32, 3), np.uint8),
        depth=rng.integers(0, 256, (2, 32, 32, 2), np.uint8),
        probabilities=np.full((2, 2), 0.5, np.float32),
        gate=np.zeros((2, 4), np.float32),
        nearest_m=np.full((2, 1), 0.5, np.float32),
    )
    files = {**made.manifest.files, SAMPLES_NAME: write_samples(folder, samples)}
    more = {"training": {"data": {"train_instances": {"a/b": "c"}}}, "parity": {MODEL_NAME: {"cases": []}}}
    write_manifest(folder, dataclasses.replace(made.manifest, files=files, **more))
    return open_bundle(folder)


@pytest.fixture(scope="module")
def complete(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return complete_bundle(tmp_path_factory.mktemp("complete") / "bundle")


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every container of a JSON value and every key in it."""
    keys = list(value) if isinstance(value, dict) else list(range(len(value))) if isinstance(value, list) else []
    for key in keys:
        yield value, key
        yield from _places(value[key])


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_manifest_with_any_change_is_a_bundle_or_one_user_error(complete: Bundle, data: st.DataObject) -> None:
    path = complete.folder / MANIFEST_NAME
    text = path.read_text()
    value = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        places = list(_places(value))
        container, key = places[data.draw(st.integers(0, len(places) - 1))]
        change = data.draw(st.sampled_from(["replace", "delete", "insert"]))
        if change == "delete":
            del container[key]
        elif change == "insert" and isinstance(container, list):
            container.insert(key, data.draw(ODD_VALUES))
        else:
            container[key if change == "replace" else "inserted"] = data.draw(ODD_VALUES)
        if not list(_places(value)):
            break
    changed = json.dumps(value)
    if data.draw(st.booleans()):
        changed = changed[: data.draw(st.integers(0, len(changed)))]
    path.write_text(changed)
    try:
        bundle = open_bundle(complete.folder)
        assert bundle.file().is_file() and len(bundle.manifest.labels) == 2
        bundle.samples()
    except UserError as error:
        assert str(complete.folder) in str(error) and len(str(error)) < 1000 + len(str(complete.folder)) * 3
    finally:
        path.write_text(text)


OPEN = """
import sys
from pathlib import Path
from edgefuse.bundle import open_bundle
from edgefuse.errors import UserError
from edgefuse_runtime.engines import open_engine
for folder in map(Path, sys.argv[1:]):
    print(folder, flush=True)
    try:
        with open_engine(open_bundle(folder), engine="cpu", num_threads=1):
            pass
    except UserError as error:
        assert str(folder) in str(error), error
"""


@pytest.mark.slow
def test_an_onnx_file_with_any_bytes_changed_is_an_engine_or_one_user_error(tmp_path: Path) -> None:
    """In another process, because a malicious model may crash it."""
    rng = np.random.default_rng(7)
    folders = []
    for number in range(60):
        bundle = make_toy_bundle(tmp_path / str(number))
        data = bytearray((bundle.folder / MODEL_NAME).read_bytes())
        for place in rng.integers(0, len(data), rng.integers(1, 4)):
            data[place] = rng.integers(0, 256)
        replace_model(bundle, bytes(data[: rng.integers(1, len(data))] if number % 5 == 0 else data))
        folders.append(str(bundle.folder))
    done = subprocess.run([sys.executable, "-c", OPEN, *folders], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, (done.stdout[-300:], done.stderr[-2000:])


def replace_model(bundle: Bundle, data: bytes) -> Bundle:
    """The bundle with another ONNX file, which its manifest describes."""
    path = bundle.folder / MODEL_NAME
    path.write_bytes(data)
    files = {**bundle.manifest.files, MODEL_NAME: FileEntry.of(path, precision="fp32")}
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, files=files))
    return open_bundle(bundle.folder)


@pytest.mark.parametrize("key", ["edgefuse.labels", "edgefuse.contract", "edgefuse.framing"])
def test_an_onnx_file_without_metadata_is_refused(key: str, tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    model = onnx.load(bundle.file())
    kept = [entry for entry in model.metadata_props if entry.key != key]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)
    with pytest.raises(UserError, match=f"has no {key.removeprefix('edgefuse.')} in its metadata"):
        replace_model(bundle, model.SerializeToString()).file()


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("edgefuse.labels", '["far", "near"]', "differ in labels"),
        ("edgefuse.labels", "{no json", "not valid JSON"),
        ("edgefuse.labels", '["near", "\\udcff"]', "differ in labels"),
        ("edgefuse.contract", "[]", "differ in contract"),
        ("edgefuse.framing", "{}", "differ in framing"),
        ("edgefuse.format", "2", "differ in format"),
        ("edgefuse.precision", '"fp16"', "differ in precision"),
    ],
)
def test_metadata_that_contradicts_the_manifest_is_refused(key: str, value: str, words: str, tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    model = onnx.load(bundle.file())
    others = {entry.key: entry.value for entry in model.metadata_props}
    onnx.helper.set_model_props(model, {**others, key: value})
    with pytest.raises(UserError, match=words):
        replace_model(bundle, model.SerializeToString()).file()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"labels": ["near", "near"]}, "'near' occurs twice"),
        ({"labels": []}, "there are none"),
        ({"labels": ["near", " "]}, "label 1 is empty"),
        ({"labels": ["far", "near"]}, "differ in labels"),
        ({"labels": ["near", 3]}, r"labels\[1\] = 3, a string was expected"),
        ({"contract.far_m": 3.0}, "differ in contract"),
        ({"contract.rgb_mean": [0.0, 0.0, 0.0]}, "rgb_mean"),
        ({"contract.inputs": {}}, "inputs"),
        ({"contract.size": 32.5}, "size = 32.5, an integer"),
        ({"framing.rgb": "nearest"}, "framing does not match its sha256"),
        ({"files.model.onnx.num_bytes": 3}, "bytes, the manifest says 3"),
        ({"files.model.onnx.num_bytes": -3}, "size is -3 bytes"),
        ({"files.model.onnx.sha256": "0" * 63}, "64 hex digits"),
        ({"files.model.onnx.precision": "fp8"}, "precision is 'fp8'"),
        ({"format": True}, "format True"),
        ({"format": 2}, "install a newer edgefuse"),
        ({"degraded_mode": {"no_rgb": "predict"}}, "degraded_mode.no_depth"),
    ],
)
def test_a_manifest_that_contradicts_the_bundle_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    bundle = complete_bundle(tmp_path / "bundle")
    path = bundle.folder / MANIFEST_NAME
    value = json.loads(path.read_text())
    ((place, new),) = change.items()
    inside = value
    *above, last = place.replace("model.onnx", "MODEL").split(".")
    for name in above:
        inside = inside[name.replace("MODEL", "model.onnx")]
    inside[last] = new
    path.write_text(json.dumps(value))
    with pytest.raises(UserError, match=words):
        open_bundle(bundle.folder).file()


def test_samples_of_another_model_are_refused(tmp_path: Path) -> None:
    bundle = complete_bundle(tmp_path / "bundle")
    good = bundle.samples()
    changes: dict[str, Any] = {
        "rgb": good.rgb[:, :16],
        "probabilities": np.full((2, 3), 1 / 3, np.float32),
        "gate": good.gate.astype(np.float64),
        "nearest_m": np.zeros((2, 2), np.float32),
    }
    for name, array in changes.items():
        entry = write_samples(bundle.folder, dataclasses.replace(good, **{name: array}))
        changed = dataclasses.replace(bundle.manifest, files={**bundle.manifest.files, SAMPLES_NAME: entry})
        with pytest.raises(UserError, match=rf"samples\.npz does not match the manifest: {name} is"):
            Bundle(folder=bundle.folder, manifest=changed).samples()


def test_samples_that_nothing_can_be_compared_with_are_refused(tmp_path: Path) -> None:
    bundle = complete_bundle(tmp_path / "bundle")
    good = bundle.samples()
    empty = Samples(**{name: array[:0] for name, array in vars(good).items()})
    for samples in (dataclasses.replace(good, gate=good.gate * np.float32("nan")), empty):
        entry = write_samples(bundle.folder, samples)
        changed = dataclasses.replace(bundle.manifest, files={**bundle.manifest.files, SAMPLES_NAME: entry})
        with pytest.raises(UserError, match="is empty, or has NaN or infinity: export the run again"):
            Bundle(folder=bundle.folder, manifest=changed).samples()


@pytest.mark.parametrize("name", ["../model.onnx", "/etc/passwd", "", ".", "a/../model.onnx", "a//b", "x\x00"])
def test_a_file_name_that_leads_out_of_the_bundle_is_refused(name: str, complete: Bundle) -> None:
    entry = complete.manifest.files[MODEL_NAME]
    with pytest.raises(UserError, match="is not inside the bundle"):
        dataclasses.replace(complete.manifest, files={name: entry})


def test_a_link_out_of_the_bundle_is_refused_and_one_inside_is_not(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    path = bundle.folder / MODEL_NAME
    path.rename(bundle.folder / "else.onnx")
    path.symlink_to("else.onnx")
    assert bundle.file() == path
    (bundle.folder / "else.onnx").rename(tmp_path / "else.onnx")
    path.unlink()
    path.symlink_to("../else.onnx")
    with pytest.raises(UserError, match=r"outside the bundle.*cp -rL"):
        bundle.file()


def test_the_bundle_folder_may_be_a_link(tmp_path: Path) -> None:
    make_toy_bundle(tmp_path / "bundle")
    (tmp_path / "link").symlink_to("bundle")
    assert open_bundle(tmp_path / "link").file().is_file()


@given(st.binary(max_size=60))
def test_any_bytes_have_metadata_or_are_one_user_error(data: bytes) -> None:
    path = Path(f"/dev/shm/edgefuse-test-{os.getpid()}.onnx")
    try:
        path.write_bytes(data)
        assert isinstance(read_metadata(path), dict)
    except UserError as error:
        assert str(path) in str(error)
    finally:
        path.unlink()


def test_metadata_is_what_onnx_reads(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle", labels=("Tasse", "naïve ☕"))
    model = onnx.load(bundle.file())
    assert read_metadata(bundle.file()) == {entry.key: entry.value for entry in model.metadata_props} != {}


def test_a_manifest_survives_a_round_trip(complete: Bundle) -> None:
    copied = copy.deepcopy(complete.manifest.to_json())
    assert Manifest.from_json(copied) == complete.manifest


def test_a_file_given_by_its_path_is_checked_against_its_manifest(tmp_path: Path) -> None:
    bundle = make_toy_bundle(tmp_path / "bundle")
    path = bundle.file()
    check_file_in_bundle(path)
    write_manifest(bundle.folder, dataclasses.replace(bundle.manifest, labels=("far", "near")))
    with pytest.raises(UserError, match="differ in labels"):
        check_file_in_bundle(path)
    (tmp_path / "alone.onnx").write_bytes(path.read_bytes())
    check_file_in_bundle(tmp_path / "alone.onnx")
