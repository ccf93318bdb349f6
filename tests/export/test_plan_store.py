"""The engine cache's writing side: processes that build at once, and places where nothing can be kept."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from engine_scenes import make_engine_bundle

from edgefuse.bundle import Bundle, open_bundle
from edgefuse_export.plan_store import build_lock, check_cache
from edgefuse_runtime.engines.plans import PlanError, plan_records, read_plan

HERE = Path(__file__).parent
ANOTHER_USER = 12345


def started(*arguments: object) -> subprocess.Popen[str]:
    places = (HERE, HERE.parent, *os.environ.get("PYTHONPATH", "").split(os.pathsep))
    return subprocess.Popen(
        [sys.executable, str(HERE / "build_process.py"), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places))},
    )


def wait_for(stream: IO[str] | None, words: str) -> None:
    assert stream is not None
    for line in stream:
        if words in line:
            return
    raise AssertionError(f"the process ended without saying {words!r}")


@pytest.fixture
def bundle(tmp_path: Path) -> Bundle:
    return make_engine_bundle(tmp_path / "bundle")


def race(bundle: Bundle, flag: Path, *precisions: str) -> list[tuple[dict[str, Any], str]]:
    """Builds that begin at the same moment: what each printed and said."""
    processes = [started(bundle.folder, precision, 0.5, flag) for precision in precisions]
    for process in processes:
        wait_for(process.stderr, "ready")
    flag.touch()
    answers = []
    for process in processes:
        out, said = process.communicate(timeout=60)
        assert process.returncode == 0, said
        answers.append((json.loads(out), said))
    return answers


def test_two_processes_that_want_one_engine_build_it_once(bundle: Bundle, tmp_path: Path) -> None:
    answers = race(bundle, tmp_path / "go", "fp16", "fp16")
    assert sorted(answer["built"] for answer, _ in answers) == [False, True]
    assert len({answer["name"] for answer, _ in answers}) == 1
    waited = ["another process is building" in said for _, said in answers]
    assert waited == [not answer["built"] for answer, _ in answers]
    (record,) = plan_records(open_bundle(bundle.folder))
    assert read_plan(open_bundle(bundle.folder), record).startswith(b"fake-plan")


def test_two_processes_that_want_different_engines_lose_neither(bundle: Bundle, tmp_path: Path) -> None:
    answers = race(bundle, tmp_path / "go", "fp16", "fp32")
    assert all(answer["built"] and answer["num_builds"] == 1 for answer, _ in answers)
    after = open_bundle(bundle.folder)
    assert {record.key.precision for record in plan_records(after)} == {"fp16", "fp32"}
    for record in plan_records(after):
        assert read_plan(after, record) and record.name in after.manifest.parity


def test_a_killed_build_leaves_the_way_free(bundle: Bundle) -> None:
    before = (bundle.folder / "manifest.json").read_bytes()
    with started(bundle.folder, "fp16", 600) as process:
        wait_for(process.stderr, "building an engine for")
        process.kill()
        process.communicate(timeout=60)
    assert (bundle.folder / "manifest.json").read_bytes() == before
    with started(bundle.folder, "fp16", 0) as process:
        out, said = process.communicate(timeout=60)
    assert json.loads(out)["built"] and "another process" not in said
    assert not list((bundle.folder / "engines").glob(".candidate-*"))


def test_a_free_lock_is_not_waited_for(bundle: Bundle) -> None:
    (bundle.folder / "engines").mkdir()
    waits: list[str] = []
    for _ in range(2):
        with build_lock(bundle.folder, on_wait=lambda: waits.append("waited")):
            pass
    assert waits == []


# Where nothing can be kept


@pytest.fixture
def public_bundle() -> Iterator[Bundle]:
    """A bundle in a folder that every user may enter: pytest's own are for one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield make_engine_bundle(Path(name) / "bundle")


@pytest.fixture
def without_rights(public_bundle: Bundle) -> Iterator[Bundle]:
    """Root may write anywhere, so root becomes somebody else; others take their right to write away."""
    if os.geteuid() != 0:
        public_bundle.folder.chmod(0o555)
        yield public_bundle
        public_bundle.folder.chmod(0o755)
        return
    os.seteuid(ANOTHER_USER)
    try:
        yield public_bundle
    finally:
        os.seteuid(0)


def test_a_read_only_cache_is_found_before_the_build(without_rights: Bundle) -> None:
    with pytest.raises(PlanError) as caught:
        check_cache(without_rights)
    message = str(caught.value)
    assert "cannot be written (Permission denied)" in message and "chmod u+w" in message and "cp -r" in message
    assert not (without_rights.folder / "engines").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_manifest_is_found_before_the_build(public_bundle: Bundle) -> None:
    (public_bundle.folder / "engines").mkdir()
    os.chown(public_bundle.folder / "engines", ANOTHER_USER, ANOTHER_USER)
    os.seteuid(ANOTHER_USER)
    try:
        with pytest.raises(PlanError, match="Permission denied"):
            check_cache(public_bundle)
    finally:
        os.seteuid(0)


def test_a_folder_that_others_can_write_is_refused_before_the_build(bundle: Bundle) -> None:
    bundle.folder.chmod(0o775)
    with pytest.raises(PlanError, match=r"can be written by others \(mode 775\).*chmod go-w"):
        check_cache(bundle)
    assert not (bundle.folder / "engines").exists()


def test_the_cache_folder_is_ours_whatever_the_umask(bundle: Bundle) -> None:
    before = os.umask(0o002)
    try:
        check_cache(bundle)
    finally:
        os.umask(before)
    assert (bundle.folder / "engines").stat().st_mode & 0o777 == 0o755
