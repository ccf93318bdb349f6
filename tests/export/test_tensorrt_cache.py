"""edgefuse build with a fake TensorRT: what the cache stores, finds and discards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from engine_scenes import build, everything_in, installed, make_engine_bundle

from edgefuse.bundle import Bundle, open_bundle
from edgefuse_runtime.engines.cuda_device import Gpu
from edgefuse_runtime.engines.engine_cache import plan_records, read_plan
from fake_tensorrt import FakeTensorRT


@pytest.fixture
def new_fake(monkeypatch: pytest.MonkeyPatch) -> FakeTensorRT:
    return installed("10.16.1.11", monkeypatch)


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_engine_bundle(tmp_path / "bundle")


# The cache


def test_a_second_build_uses_the_cache(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    first = build(new_fake, bundle)
    before = everything_in(bundle.folder)
    second = build(new_fake, bundle)
    assert not second.built and second.record == first.record and len(new_fake.builds) == 1
    assert everything_in(bundle.folder) == before
    assert build(new_fake, bundle, force=True).built and len(new_fake.builds) == 2


def test_a_change_is_logged_and_built_again(
    new_fake: FakeTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = build(new_fake, bundle).record
    messages: list[str] = []
    new = build(new_fake, bundle, messages=messages, optimization_level=5).record
    assert "optimization level: 3 -> 5" in messages[0] and "workspace" not in messages[0]
    assert not (bundle.folder / old.name).exists() and len(plan_records(open_bundle(bundle.folder))) == 1

    newer = installed("11.4.0.106", monkeypatch)
    messages.clear()
    assert build(newer, bundle, messages=messages, optimization_level=5).built
    assert "tensorrt version: '10.16.1.11' -> '11.4.0.106'" in messages[0] and "device" not in messages[0]
    assert not (bundle.folder / new.name).exists()


def test_an_engine_of_another_gpu_stays_for_that_gpu(
    new_fake: FakeTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs = build(new_fake, bundle).record
    other = installed("10.16.1.11", monkeypatch, gpu=Gpu(name="Fake H100", compute_capability="9.0"))
    messages: list[str] = []
    ours = build(other, bundle, messages=messages).record
    assert (
        "device name: 'Fake Orin' -> 'Fake H100'" in messages[0] and "compute capability: '8.7' -> '9.0'" in messages[0]
    )
    assert {one.name for one in plan_records(open_bundle(bundle.folder))} == {theirs.name, ours.name}
    assert (bundle.folder / theirs.name).exists()


@pytest.mark.parametrize(
    ("damage", "words"), [("truncate", "is truncated"), ("flip", "is not the plan that was built")]
)
def test_a_damaged_plan_is_built_again(new_fake: FakeTensorRT, bundle: Bundle, damage: str, words: str) -> None:
    path = bundle.folder / build(new_fake, bundle).record.name
    good = path.read_bytes()
    path.write_bytes(good[:-5] if damage == "truncate" else good[:50] + bytes([good[50] ^ 1]) + good[51:])
    messages: list[str] = []
    again = build(new_fake, bundle, messages=messages)
    assert again.built and words in messages[0]
    assert read_plan(again.bundle, again.record).startswith(b"fake-plan")
    assert len(list((bundle.folder / "engines").glob("*.plan"))) == 1


def test_timings_are_kept_and_used(new_fake: FakeTensorRT, bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    build(new_fake, bundle)
    build(new_fake, bundle, force=True)
    build(new_fake, bundle, precision="fp32")
    assert [asked["timing_cache_hit"] for asked in new_fake.builds] == [False, True, False]
    (kept,) = (bundle.folder / "engines").glob("timing-*.cache")
    assert len(json.loads(kept.read_bytes())["digests"]) == 2  # both files' timings
    kept.write_bytes(b"rubbish")
    record = build(new_fake, bundle, force=True).record
    assert "starting a new one" in (bundle.folder / record.name).with_suffix(".log").read_text()
    assert len(json.loads(kept.read_bytes())["digests"]) == 1
    newer = installed("11.4.0.106", monkeypatch)
    build(newer, bundle)
    assert len(list((bundle.folder / "engines").glob("timing-*.cache"))) == 2


def test_timings_that_cannot_be_kept_do_not_end_a_build(new_fake: FakeTensorRT, bundle: Bundle) -> None:
    build(new_fake, bundle)
    (kept,) = (bundle.folder / "engines").glob("timing-*.cache")
    kept.unlink()
    kept.mkdir()
    summary = build(new_fake, bundle, force=True)
    assert (
        summary.built
        and "the timings are not kept" in (bundle.folder / summary.record.name).with_suffix(".log").read_text()
    )
