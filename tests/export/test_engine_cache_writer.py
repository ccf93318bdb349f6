"""Writing the engine cache: processes that build at the same time, and folders that cannot be written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest
from engine_scenes import everything_in, make_engine_bundle

from edgefuse.bundle import Bundle, open_bundle
from edgefuse.io.files import folder_replaced
from edgefuse.io.new_files import held
from edgefuse_export.tensorrt.build_log import Journal
from edgefuse_export.tensorrt.engine_cache_writer import (
    BuildLock,
    build_lock,
    check_cache,
    plan_stem,
    store_plan,
    sweep,
)
from edgefuse_runtime.engines.engine_cache import PlanError, PlanKey, PlanRecord, plan_records, read_plan

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
    """Builds that start at the same time: what each printed and logged."""
    processes = [started(bundle.folder, precision, 0.5, flag) for precision in precisions]
    for process in processes:
        wait_for(process.stderr, "ready")
    flag.touch()
    results = []
    for process in processes:
        out, stderr = process.communicate(timeout=60)
        assert process.returncode == 0, stderr
        results.append((json.loads(out), stderr))
    return results


def test_two_processes_that_want_one_engine_build_it_once(bundle: Bundle, tmp_path: Path) -> None:
    results = race(bundle, tmp_path / "go", "fp16", "fp16")
    assert sorted(result["built"] for result, _ in results) == [False, True]
    assert len({result["name"] for result, _ in results}) == 1
    waited = ["another process is building" in stderr for _, stderr in results]
    assert waited == [not result["built"] for result, _ in results]
    (record,) = plan_records(open_bundle(bundle.folder))
    assert read_plan(open_bundle(bundle.folder), record).startswith(b"fake-plan")


def test_two_processes_that_want_different_engines_lose_neither(bundle: Bundle, tmp_path: Path) -> None:
    results = race(bundle, tmp_path / "go", "fp16", "fp32")
    assert all(result["built"] and result["num_builds"] == 1 for result, _ in results)
    after = open_bundle(bundle.folder)
    assert {record.key.precision for record in plan_records(after)} == {"fp16", "fp32"}
    for record in plan_records(after):
        assert read_plan(after, record) and record.name in after.manifest.parity


def test_a_killed_build_releases_the_lock(bundle: Bundle) -> None:
    before = (bundle.folder / "manifest.json").read_bytes()
    with started(bundle.folder, "fp16", 600) as process:
        wait_for(process.stderr, "building an engine for")
        process.kill()
        process.communicate(timeout=60)
    assert (bundle.folder / "manifest.json").read_bytes() == before
    with started(bundle.folder, "fp16", 0) as process:
        out, stderr = process.communicate(timeout=60)
    assert json.loads(out)["built"] and "another process" not in stderr
    assert not list((bundle.folder / "engines").glob(".candidate-*"))


def test_a_free_lock_is_not_waited_for(bundle: Bundle) -> None:
    (bundle.folder / "engines").mkdir()
    waits: list[str] = []
    for _ in range(2):
        with build_lock(bundle.folder, on_wait=lambda: waits.append("waited")):
            pass
    assert waits == []


# The bundle is exported again during the build

FP16 = "model.fp16.onnx"


def store(bundle: Bundle, lock: BuildLock, **more: Any) -> PlanRecord:
    key = PlanKey(
        onnx_sha256=bundle.manifest.files[FP16].sha256,
        tensorrt_version="10.3.0",
        compute_capability="8.7",
        device_name="Fake Orin",
        precision="fp16",
        shapes={"rgb": (1, 32, 32, 3), "depth": (1, 32, 32, 2)},
        builder_options={},
    )
    return store_plan(bundle.folder, lock=lock, key=key, onnx_file=FP16, plan=b"plan", details={}, **more)


def exported_again(bundle: Bundle) -> None:
    """The same files in a new folder, as after `edgefuse export --force`."""
    with folder_replaced(bundle.folder) as folder:
        make_engine_bundle(folder)


def test_a_bundle_exported_again_gets_no_engine_of_the_old_one(bundle: Bundle) -> None:
    """Even with the same files: a build in the new bundle has another lock."""
    check_cache(bundle)
    with build_lock(bundle.folder) as lock:
        exported_again(bundle)
        before = everything_in(bundle.folder)
        with pytest.raises(PlanError, match=r"exported again while .*edgefuse build"):
            store(bundle, lock)
    assert everything_in(bundle.folder) == before


def test_a_plan_is_never_written_while_the_bundle_is_replaced(bundle: Bundle) -> None:
    check_cache(bundle)
    messages: list[str] = []

    def keep(lock: BuildLock) -> None:
        try:
            store(bundle, lock)
        except PlanError as error:
            messages.append(str(error))

    with build_lock(bundle.folder) as lock:
        thread = threading.Thread(target=keep, args=(lock,))
        with held(bundle.folder / "manifest.json"):  # as an export does while it replaces the bundle
            thread.start()
            thread.join(0.5)
            assert thread.is_alive()
            exported_again(bundle)
        thread.join(30)
    assert "exported again" in messages[0] and plan_records(open_bundle(bundle.folder)) == ()


@pytest.mark.parametrize("by", ["another folder", "another file"])
def test_an_export_between_plan_and_manifest_keeps_its_manifest(bundle: Bundle, by: str, tmp_path: Path) -> None:
    check_cache(bundle)
    manifest = bundle.folder / "manifest.json"
    ours: list[bytes] = []

    class Log(type(tmp_path)):  # type: ignore[misc]
        """The log is the last file that is moved before the manifest."""

        def replace(self, target: Any) -> Any:
            if by == "another folder":
                exported_again(bundle)
            else:
                value = json.loads(manifest.read_text())
                value["files"][FP16]["sha256"] = "0" * 64
                manifest.write_text(json.dumps(value))
            ours.append(manifest.read_bytes())

    log = Log(tmp_path / "log")
    log.touch()
    with build_lock(bundle.folder) as lock, pytest.raises(PlanError, match="exported again while"):
        store(bundle, lock, log=log)
    assert ours == [manifest.read_bytes()]


def test_an_entry_that_another_process_wrote_meanwhile_stays(bundle: Bundle, tmp_path: Path) -> None:
    """The manifest is read again when the plan is added, not once when the build starts."""
    check_cache(bundle)
    manifest = bundle.folder / "manifest.json"
    value = json.loads(manifest.read_text())
    value["training"]["note"] = "written meanwhile"
    with build_lock(bundle.folder) as lock:
        manifest.write_text(json.dumps(value))
        store(bundle, lock)
    assert open_bundle(bundle.folder).manifest.training["note"] == "written meanwhile"


def test_a_process_that_waited_for_a_removed_lock_takes_the_new_one(bundle: Bundle) -> None:
    check_cache(bundle)
    waiting, taken = threading.Event(), []

    def wait() -> None:
        with build_lock(bundle.folder, on_wait=waiting.set) as lock:
            taken.append((lock.is_current, os.fstat(lock.handle).st_ino))

    with build_lock(bundle.folder) as old:
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(30)
        exported_again(bundle)
        check_cache(open_bundle(bundle.folder))
        assert not old.is_current
    thread.join(30)
    assert taken == [(True, (bundle.folder / "engines" / ".lock").stat().st_ino)]


def test_a_lock_whose_folder_was_removed_is_reported(bundle: Bundle) -> None:
    with pytest.raises(PlanError, match=r"engines does not exist any more.*edgefuse build"), build_lock(bundle.folder):
        pass


def test_only_leftovers_of_killed_builds_are_removed(bundle: Bundle) -> None:
    check_cache(bundle)
    with build_lock(bundle.folder) as lock:
        record = store(bundle, lock)
    folder = bundle.folder / "engines"
    kept = {*folder.iterdir(), folder / "timing-sm87-Orin-trt10.3.0.cache", folder / "mine.plan"}
    left = [folder / f"{plan_stem(record.key, 'f' * 64)}{suffix}" for suffix in (".plan", ".json", ".log")]
    left += [
        folder / f".{plan_stem(record.key, 'e' * 64)}-abc123.plan",
        bundle.folder / ".manifest-edgefuse-0123456789abcdef.json",
    ]
    for path in {*kept, *left}:
        path.touch()
    (folder / ".candidate-abc").mkdir()
    sweep(open_bundle(bundle.folder))
    assert {*folder.iterdir()} == kept and not (bundle.folder / ".manifest-edgefuse-0123456789abcdef.json").exists()
    assert (bundle.folder / "manifest.json").exists()


# Folders that cannot be written


@pytest.fixture
def public_bundle() -> Iterator[Bundle]:
    """A bundle in a folder that every user can enter: those of pytest are for one user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield make_engine_bundle(Path(name) / "my bundle")


@pytest.fixture
def without_rights(public_bundle: Bundle) -> Iterator[Bundle]:
    """Root can write anywhere, so root becomes another user; other users remove their write permission."""
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


def test_a_read_only_cache_is_reported_before_the_build(without_rights: Bundle) -> None:
    with pytest.raises(PlanError) as caught:
        check_cache(without_rights)
    message = str(caught.value)
    step = f"chmod u+w '{without_rights.folder}')" if os.getuid() else f"sudo chown -R {ANOTHER_USER} "
    assert "cannot be written (Permission denied)" in message and step in message
    assert f"cp -r '{without_rights.folder}' ~/" in message
    assert not (without_rights.folder / "engines").exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_a_read_only_manifest_is_reported_before_the_build(public_bundle: Bundle) -> None:
    (public_bundle.folder / "engines").mkdir()
    os.chown(public_bundle.folder / "engines", ANOTHER_USER, ANOTHER_USER)
    os.seteuid(ANOTHER_USER)
    try:
        with pytest.raises(PlanError, match="Permission denied"):
            check_cache(public_bundle)
    finally:
        os.seteuid(0)


@pytest.fixture
def somebody(public_bundle: Bundle) -> Iterator[Bundle]:
    """A bundle of another user, which this process becomes; files that root left in engines/ belong to root."""
    if os.geteuid() != 0:
        pytest.skip("only root can become another user")
    (public_bundle.folder / "engines").mkdir()
    for path in (public_bundle.folder, *public_bundle.folder.rglob("*")):
        os.chown(path, ANOTHER_USER, ANOTHER_USER)
    yield public_bundle
    os.seteuid(0)


def test_an_unreadable_lock_of_another_user_is_reported_before_the_build(somebody: Bundle) -> None:
    path = somebody.folder / "engines" / ".lock"
    path.touch(mode=0o600)
    os.seteuid(ANOTHER_USER)
    for attempt in (lambda: check_cache(somebody), lambda: build_lock(somebody.folder).__enter__()):
        with pytest.raises(PlanError) as caught:
            attempt()
        assert f"{path}, the lock of engine builds" in str(caught.value) and "Permission denied" in str(caught.value)
        assert f"sudo chown -R {ANOTHER_USER} '{path.parent}'" in str(caught.value)


def test_a_lock_and_a_log_of_another_user_do_not_prevent_a_build(somebody: Bundle) -> None:
    """`sudo edgefuse build` first, and then without sudo."""
    folder = somebody.folder / "engines"
    (folder / ".lock").touch(mode=0o644)
    (folder / "fp16.failed.log").write_text("root's")
    os.seteuid(ANOTHER_USER)
    check_cache(somebody)
    with build_lock(somebody.folder) as lock, Journal(folder / "fp16.failed.log") as journal:
        journal.write("ERROR", "ours")
        assert lock.is_current
    assert (folder / "fp16.failed.log").read_text() == "ERROR: ours\n"


def test_the_message_for_an_engines_folder_of_root_is_chown_and_not_chmod(somebody: Bundle) -> None:
    os.chown(somebody.folder / "engines", 0, 0)
    os.seteuid(ANOTHER_USER)
    with pytest.raises(PlanError, match=f"sudo chown -R {ANOTHER_USER} '{somebody.folder}'") as caught:
        check_cache(somebody)
    assert "chmod" not in str(caught.value)


def test_a_file_in_place_of_the_folder_is_reported(bundle: Bundle) -> None:
    (bundle.folder / "engines").touch()
    with pytest.raises(PlanError, match=r"engines, which is a file: move it away: mv "):
        check_cache(bundle)


def test_a_folder_that_others_can_write_is_refused_before_the_build(bundle: Bundle) -> None:
    bundle.folder.chmod(0o775)
    with pytest.raises(PlanError, match=r"is writable by others \(mode 775\).*chmod go-w"):
        check_cache(bundle)
    assert not (bundle.folder / "engines").exists()


def test_two_processes_may_make_the_cache_folder_at_once(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first process to check may be the second to create it."""
    folder, is_dir = bundle.folder / "engines", Path.is_dir
    folder.mkdir(mode=0o755)
    seen: list[Path] = []

    def not_yet(path: Path) -> bool:
        if path == folder and not seen:
            seen.append(path)
            return False
        return is_dir(path)

    monkeypatch.setattr(Path, "exists", lambda path: path != folder and os.path.exists(path))  # noqa: PTH110
    monkeypatch.setattr(Path, "is_dir", not_yet)
    check_cache(bundle)
    assert seen == [folder]


def test_the_mode_of_the_cache_folder_does_not_depend_on_the_umask(bundle: Bundle) -> None:
    before = os.umask(0o002)
    try:
        check_cache(bundle)
    finally:
        os.umask(before)
    assert (bundle.folder / "engines").stat().st_mode & 0o777 == 0o755
