"""Reading the engine cache: keys, look-up, and plans that must not be loaded."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from edgefuse.bundle import MODEL_NAME, Bundle, open_bundle
from edgefuse.errors import UserError
from edgefuse_export.tensorrt.engine_cache_writer import build_lock, store_plan
from edgefuse_runtime.engines.engine_cache import (
    PlanError,
    PlanKey,
    PlanRecord,
    check_private,
    look_up,
    plan_records,
    read_plan,
    select_plan,
)
from toy_bundle import make_toy_bundle

PLAN = bytes(range(256)) * 4
HERE = {"tensorrt_version": "10.3.0", "compute_capability": "8.7", "device_name": "Orin"}


def key_for(bundle: Bundle, **changes: Any) -> PlanKey:
    key = PlanKey(
        onnx_sha256=bundle.manifest.files[MODEL_NAME].sha256,
        precision="fp16",
        shapes={"rgb": (1, 32, 32, 3), "depth": (1, 32, 32, 2)},
        builder_options={"workspace_mib": 1024, "optimization_level": 3, "network": "strongly typed"},
        **HERE,
    )
    return replace(key, **changes)


def keep(bundle: Bundle, plan: bytes = PLAN, **changes: Any) -> PlanRecord:
    (bundle.folder / "engines").mkdir(exist_ok=True, mode=0o755)
    key, details = key_for(bundle, **changes), {"layers": {"fp16": 3}}
    with build_lock(bundle.folder) as lock:
        return store_plan(bundle.folder, lock=lock, key=key, onnx_file=MODEL_NAME, plan=plan, details=details)


@pytest.fixture
def empty(tmp_path: Path) -> Bundle:
    folder = tmp_path / "bundle"
    make_toy_bundle(folder)
    folder.chmod(0o755)
    return open_bundle(folder)


@pytest.fixture
def stored(empty: Bundle) -> Bundle:
    keep(empty)
    return open_bundle(empty.folder)


# Keys


def test_a_key_comes_back_from_json(empty: Bundle) -> None:
    key = key_for(empty)
    again = PlanKey.from_json(json.loads(json.dumps(key.to_json())))
    assert again.changes_since(key) == () and again.shapes["rgb"] == (1, 32, 32, 3)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"onnx_sha256": "f" * 64}, "onnx sha256: {old}... -> ffffffffffff..."),
        ({"tensorrt_version": "11.4.0.106"}, "tensorrt version: '10.3.0' -> '11.4.0.106'"),
        ({"compute_capability": "9.0"}, "compute capability: '8.7' -> '9.0'"),
        ({"device_name": "Orin Nano"}, "device name: 'Orin' -> 'Orin Nano'"),
        (
            {"shapes": {"rgb": (2, 32, 32, 3), "depth": (1, 32, 32, 2)}},
            "shape of rgb: [1, 32, 32, 3] -> [2, 32, 32, 3]",
        ),
        (
            {"builder_options": {"workspace_mib": 64, "optimization_level": 3, "network": "strongly typed"}},
            "workspace mib: 1024 -> 64",
        ),
        ({"builder_options": {"workspace_mib": 1024, "optimization_level": 3}}, "network: 'strongly typed' -> none"),
    ],
)
def test_each_part_of_the_key_makes_a_plan_stale(stored: Bundle, changes: dict[str, Any], words: str) -> None:
    found = look_up(stored, key_for(stored, **changes))
    assert found.record is None and found.reason.endswith(
        words.format(old=stored.manifest.files[MODEL_NAME].sha256[:12])
    )
    assert "; " not in found.reason  # only the part that differs


def test_the_same_key_finds_the_plan(stored: Bundle) -> None:
    found = look_up(stored, key_for(stored))
    assert found.record is not None and found.reason == ""
    assert read_plan(stored, found.record) == PLAN
    assert look_up(stored, key_for(stored, precision="int8")).reason == "the bundle has no int8 engine yet"


# Selection of a plan


def test_a_plan_is_selected_with_any_builder_options(stored: Bundle) -> None:
    assert select_plan(stored, precision="fp16", **HERE).plan_sha256 == plan_records(stored)[0].plan_sha256


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"precision": "int8"}, "it has no int8 engine"),
        ({"device_name": "H100", "compute_capability": "9.0"}, "device name: 'Orin' -> 'H100'"),
        ({"tensorrt_version": "10.16.1.11"}, "tensorrt version: '10.3.0' -> '10.16.1.11'"),
        ({"batch_size": 8}, "shape of rgb: [1, 32, 32, 3] -> [8, 32, 32, 3]"),
    ],
)
def test_without_a_matching_plan_the_error_has_the_difference_and_the_command(
    stored: Bundle, asked: dict[str, Any], words: str
) -> None:
    with pytest.raises(PlanError) as caught:
        select_plan(stored, **{"precision": "fp16", **HERE, **asked})
    precision = asked.get("precision", "fp16")
    assert words in str(caught.value) and f"edgefuse build {stored.folder} --precision {precision}" in str(caught.value)


def test_a_plan_of_another_export_is_not_selected(stored: Bundle) -> None:
    files = {**stored.manifest.files, MODEL_NAME: replace(stored.manifest.files[MODEL_NAME], sha256="0" * 64)}
    exported_again = replace(stored, manifest=replace(stored.manifest, files=files))
    with pytest.raises(PlanError, match="onnx sha256"):
        select_plan(exported_again, precision="fp16", **HERE)


def test_each_gpu_has_its_plan(stored: Bundle) -> None:
    keep(stored, PLAN + b"h", device_name="H100", compute_capability="9.0")
    both = open_bundle(stored.folder)
    records = [
        select_plan(both, precision="fp16", **{**HERE, **other})
        for other in ({}, {"device_name": "H100", "compute_capability": "9.0"})
    ]
    assert [read_plan(both, record) for record in records] == [PLAN, PLAN + b"h"]


def test_a_newer_plan_replaces_the_old_one(stored: Bundle) -> None:
    (old,) = plan_records(stored)
    new = keep(stored, PLAN + b"2")
    assert plan_records(open_bundle(stored.folder)) == (new,)
    assert not list((stored.folder / "engines").glob(f"{Path(old.name).stem}*"))


@pytest.mark.parametrize(("num", "option"), [(4, " --batch 4"), (1, "")])
def test_the_command_for_a_damaged_plan_builds_that_batch(tmp_path: Path, num: int, option: str) -> None:
    dynamic = make_toy_bundle(tmp_path / "bundle", batch="dynamic")
    dynamic.folder.chmod(0o755)
    record = keep(dynamic, shapes={"rgb": (num, 32, 32, 3), "depth": (num, 32, 32, 2)})
    (dynamic.folder / record.name).write_bytes(b"damaged")
    with pytest.raises(PlanError) as caught:
        read_plan(open_bundle(dynamic.folder), record)
    assert str(caught.value).endswith(f"--precision fp16{option}")
    with pytest.raises(PlanError) as caught:
        select_plan(open_bundle(dynamic.folder), precision=None, batch_size=num, **{**HERE, "device_name": "H100"})
    assert str(caught.value).endswith(f"--precision fp16{option}")


def test_a_link_in_the_cache_is_replaced_and_its_target_stays(stored: Bundle, tmp_path: Path) -> None:
    (record,) = plan_records(stored)
    (tmp_path / "mine").write_text("mine")
    for suffix in (".plan", ".json"):
        path = (stored.folder / record.name).with_suffix(suffix)
        path.unlink()
        path.symlink_to(tmp_path / "mine")
    keep(stored)
    assert (tmp_path / "mine").read_text() == "mine"
    assert read_plan(open_bundle(stored.folder), record) == PLAN and not (stored.folder / record.name).is_symlink()


# What is not loaded


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (
            lambda path: path.write_bytes(PLAN[:-1]),
            r"is truncated: 1023 of 1024 bytes\. Build it again: edgefuse build",
        ),
        (lambda path: path.write_bytes(b"\xff" + PLAN[1:]), "is not the plan that was built"),
        (lambda path: path.write_bytes(PLAN + b"x"), "is not the plan that was built"),
        (lambda path: path.unlink(), "is missing although the manifest lists it"),
        (lambda path: (path.unlink(), path.mkdir()), "cannot be read"),
        (lambda path: path.chmod(0o664), r"is writable by others \(mode 664\).*chmod go-w .*\.plan"),
        (lambda path: path.parent.chmod(0o777), r"engines is writable by others \(mode 777\)"),
        (lambda path: path.parents[1].chmod(0o775), "is writable by others"),
        (lambda path: (path.parents[1] / "manifest.json").chmod(0o646), "manifest.json is writable by others"),
    ],
)
def test_a_damaged_or_untrusted_plan_is_not_loaded(stored: Bundle, damage: Callable[[Path], Any], words: str) -> None:
    (record,) = plan_records(stored)
    damage(stored.folder / record.name)
    with pytest.raises(PlanError, match=words):
        read_plan(stored, record)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_plan_of_another_user_is_not_loaded(stored: Bundle) -> None:
    (record,) = plan_records(stored)
    os.chown(stored.folder / record.name, 12345, 12345)
    with pytest.raises(PlanError, match=r"belongs to user 12345.*sudo chown -R 0 "):
        read_plan(stored, record)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_roots_files_may_be_loaded_by_all(tmp_path: Path) -> None:
    path = tmp_path / "plan"
    path.write_bytes(b"")
    path.chmod(0o644)
    status = path.stat()
    os.seteuid(12345)
    try:
        check_private(path, status=status)
    finally:
        os.seteuid(0)


def test_a_plan_that_is_not_in_the_manifest_is_ignored(stored: Bundle) -> None:
    (record,) = plan_records(stored)
    evil = stored.folder / "engines" / "evil.plan"
    evil.write_bytes(b"code")
    record_beside = {**record.to_json(), "name": "engines/evil.plan", "plan_sha256": "0" * 64}
    evil.with_suffix(".json").write_text(json.dumps(record_beside))
    assert [one.name for one in plan_records(open_bundle(stored.folder))] == [record.name]


@pytest.mark.parametrize("name", ["engines/../../outside.plan", "/etc/outside.plan", "engines/./a.plan"])
def test_a_manifest_with_a_path_outside_of_the_bundle_is_refused(stored: Bundle, name: str) -> None:
    (record,) = plan_records(stored)
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    manifest["engines"] = {name: manifest["engines"][record.name]}
    manifest["files"][name] = manifest["files"][record.name]
    (stored.folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(UserError, match="is not inside the bundle"):
        open_bundle(stored.folder)


@pytest.mark.parametrize("name", ["model.onnx", "engines/a/b.plan"])
def test_a_plan_outside_the_cache_is_ignored(stored: Bundle, name: str) -> None:
    (record,) = plan_records(stored)
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    manifest["engines"] = {name: manifest["engines"][record.name]}
    manifest["files"][name] = manifest["files"][record.name]
    (stored.folder / "manifest.json").write_text(json.dumps(manifest))
    assert plan_records(open_bundle(stored.folder)) == ()


@pytest.mark.parametrize(
    "value",
    [{}, {"key": {}}, {"key": 3}, None, [], {"key": {"shapes": {"rgb": 1}}}, {"key": {"builder_options": "ab"}}],
)
def test_an_entry_of_another_version_is_skipped(stored: Bundle, value: Any) -> None:
    (record,) = plan_records(stored)
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    manifest["engines"][record.name] = value
    (stored.folder / "manifest.json").write_text(json.dumps(manifest))
    assert plan_records(open_bundle(stored.folder)) == ()


@pytest.mark.parametrize(
    ("part", "value"), [("builder_options", "ab"), ("shapes", {"rgb": "abcd"}), ("device_name", 3), ("of_tomorrow", 3)]
)
def test_a_key_of_another_form_is_skipped(stored: Bundle, part: str, value: Any) -> None:
    (record,) = plan_records(stored)
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    manifest["engines"][record.name]["key"][part] = value
    (stored.folder / "manifest.json").write_text(json.dumps(manifest))
    assert plan_records(open_bundle(stored.folder)) == ()


def test_a_pipe_instead_of_a_plan_is_refused_without_blocking(stored: Bundle) -> None:
    (record,) = plan_records(stored)
    path = stored.folder / record.name
    path.unlink()
    os.mkfifo(path, 0o644)
    with pytest.raises(PlanError, match="not a regular file"):
        read_plan(stored, record)


def test_a_record_must_agree_with_the_files_entry(stored: Bundle) -> None:
    (record,) = plan_records(stored)
    manifest = json.loads((stored.folder / "manifest.json").read_text())
    manifest["files"][record.name]["sha256"] = "0" * 64
    (stored.folder / "manifest.json").write_text(json.dumps(manifest))
    assert plan_records(open_bundle(stored.folder)) == ()


def test_bundles_without_engines_open_as_before(empty: Bundle) -> None:
    manifest = json.loads((empty.folder / "manifest.json").read_text())
    del manifest["engines"]
    (empty.folder / "manifest.json").write_text(json.dumps(manifest))
    opened = open_bundle(empty.folder)
    assert plan_records(opened) == ()
    with pytest.raises(PlanError, match="it has no fp16 engine. Build one: edgefuse build"):
        select_plan(opened, precision="fp16", **HERE)
