"""A sequence on the disk: complete pairs even if the process is killed, one writer, and other files are never replaced."""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from runtime_scenes import draw_pair

from edgefuse.data.dataset import DATASET_NAME, load, scan, write_pair
from edgefuse.data.incomplete_pairs import RGB_SUFFIX, complete, settled
from edgefuse.errors import UserError
from edgefuse.io.new_files import files_added, left_behind
from edgefuse_runtime.recording.sequence_writer import open_sequence

EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")
BEGUN_S = 60.0


def _edgefuse(*arguments: object, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EDGEFUSE, *map(str, arguments)], capture_output=True, text=True, timeout=60, **options)  # type: ignore[call-overload,no-any-return]


RECORDER = """
import itertools, sys, threading, os, signal, time
from pathlib import Path
import numpy as np
from edgefuse.data.dataset import write_description
from edgefuse_runtime.recording.sequence_writer import open_sequence
root, delay_s = Path(sys.argv[1]), float(sys.argv[2])
write_description(root)
pair = np.full((24, 32, 3), 9, np.uint8), np.full((24, 32), 900, np.uint16)
with open_sequence(root, "cup", "a", force=False) as writer:
    writer.add(pair)
    threading.Timer(delay_s, lambda: os.kill(os.getpid(), signal.SIGKILL)).start()
    for _ in itertools.count():
        writer.add(pair)
"""


@pytest.mark.parametrize("seed", range(12))
def test_a_recorder_killed_at_any_time_leaves_a_set_that_can_be_used(seed: int, tmp_path: Path) -> None:
    delay_s = float(np.random.default_rng(seed).uniform(0.0, 0.2))
    killed = subprocess.run([sys.executable, "-c", RECORDER, str(tmp_path), str(delay_s)], timeout=BEGUN_S, check=False)
    assert killed.returncode == -signal.SIGKILL
    dataset = scan([tmp_path])
    assert load(dataset).dataset.num_left_out == 0 and len(dataset.samples) >= 1
    with open_sequence(tmp_path, "cup", None, force=False):  # the next one removes temporary files
        pass
    assert not [path for path in (tmp_path / "cup/a").iterdir() if path.name.startswith(".")]
    assert len(scan([tmp_path]).samples) >= len(dataset.samples)


def _killed_between(root: Path) -> Path:
    """A sequence after a kill between the two renames of its second pair."""
    sequence, rest = root / "cup/a", root / "cup/a/.files-edgefuse-0123456789abcdef"
    write_pair(sequence, "frame_000001", *draw_pair("near"))
    write_pair(rest, "frame_000002", *draw_pair("far"))
    (rest / "frame_000002_depth.png").rename(sequence / "frame_000002_depth.png")
    return sequence


def test_an_incomplete_pair_is_skipped_and_completed_by_the_next_recording(tmp_path: Path) -> None:
    sequence = _killed_between(tmp_path)
    assert [path.name for path in left_behind(sequence)] == ["frame_000002_rgb.png"]
    assert [sample.name for sample in scan([tmp_path]).samples] == ["frame_000001"]
    assert _edgefuse("data", "check", tmp_path).returncode == 0
    assert complete(sequence) == 1 and complete(sequence) == 0
    assert [sample.name for sample in load(scan([tmp_path])).dataset.samples] == ["frame_000001", "frame_000002"]
    assert sorted(path.name[-9:] for path in sequence.iterdir()) == ["1_rgb.png", "2_rgb.png", "depth.png", "depth.png"]


def test_a_recording_may_start_while_another_one_writes(tmp_path: Path) -> None:
    """A temporary folder may disappear between the listing and its lock."""
    done = threading.Event()

    def start_others() -> None:
        while not done.is_set():
            complete(tmp_path)

    with ThreadPoolExecutor() as pool:
        others = pool.submit(start_others)
        for number in range(400):
            with files_added(tmp_path) as temporary:
                (temporary / f"{number:03}{RGB_SUFFIX}").touch()
        done.set()
        others.result()
    assert len(list(tmp_path.glob(f"*{RGB_SUFFIX}"))) == 400


def test_a_depth_image_without_colour_for_another_reason_is_refused(tmp_path: Path) -> None:
    sequence = _killed_between(tmp_path)
    (sequence / "frame_000001_rgb.png").unlink()
    with pytest.raises(UserError, match="frame_000001_depth.png"):
        scan([tmp_path])
    assert settled(sequence, ["frame_000001_depth.png", "frame_000002_depth.png"]) == ("frame_000001_depth.png",)


def test_a_full_disk_keeps_complete_pairs(tmp_path: Path) -> None:
    """A limit on the file size simulates the full disk: pairs of noise do not fit, uniform ones do."""
    code = """
import sys
from pathlib import Path
import numpy as np
from edgefuse.data.dataset import write_description
from edgefuse_runtime.recording.sequence_writer import open_sequence
flat = np.full((240, 320, 3), 9, np.uint8), np.full((240, 320), 900, np.uint16)
noise = np.random.default_rng(0).integers(0, 256, (240, 320, 3), dtype=np.uint8), flat[1]
write_description(Path(sys.argv[1]))
with open_sequence(Path(sys.argv[1]), "cup", "a", force=False) as writer:
    for number in range(40):
        writer.add(noise if number == 37 else flat)
    writer.finish()
"""
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, 50_000)),
    )
    assert done.returncode == 1 and "File too large" in done.stderr
    dataset = load(scan([tmp_path])).dataset
    assert len(dataset.samples) == 39 and dataset.num_left_out == 0
    assert "frame_000038" not in {sample.name for sample in dataset.samples}
    assert left_behind(tmp_path / "cup/a") == []


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a file system, which needs root")
def test_a_full_file_system_keeps_complete_pairs(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(small)], capture_output=True).returncode:
        pytest.skip("mount is not allowed here")
    try:
        done = _edgefuse(
            "record", small / "set", "--label", "cup", "--sequence", "a", "--camera", "synthetic", "--frames", 60
        )
        assert done.returncode == 1 and "No space left" in done.stderr and "pairs are kept" in done.stderr
        dataset = load(scan([small / "set"])).dataset
        assert dataset.samples and f"{len(dataset.samples)} pairs are kept" in done.stderr
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_no_space_for_a_pair_leaves_nothing(tmp_path: Path) -> None:
    """A limit on the file size simulates the full disk: dataset.json fits, images do not."""
    done = _edgefuse(
        *("record", tmp_path / "set", "--label", "cup", "--camera", "synthetic", "--frames", 2),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000)),
    )
    assert done.returncode == 1 and "File too large" in done.stderr and "kept" not in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_before_the_requested_pairs_keeps_the_old_sequence(number: int, tmp_path: Path) -> None:
    record = ("record", tmp_path / "set", "--label", "cup", "--sequence", "a", "--camera", "synthetic", "--frames")
    assert _edgefuse(*record, 2).returncode == 0
    before = {path.name: path.read_bytes() for path in (tmp_path / "set/cup/a").iterdir()}
    command = [*EDGEFUSE, *map(str, record), "100000", "--force"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline_s = time.monotonic() + BEGUN_S
    while len(list((tmp_path / "set/cup").glob(".a-*/*_rgb.png"))) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(number)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 1
    assert re.fullmatch(
        r"error: .*cup/a was not replaced: \d+ of 100000 new pairs were recorded; .*", output.splitlines()[-1]
    )
    assert {path.name: path.read_bytes() for path in (tmp_path / "set/cup/a").iterdir()} == before


@pytest.mark.parametrize("given", ["", " ", "-"])
def test_an_empty_folder_name_is_not_the_current_folder(given: str, tmp_path: Path) -> None:
    done = _edgefuse("record", given, "--label", "cup", "--camera", "synthetic", "--frames", 1, cwd=tmp_path)
    assert done.returncode == 1 and done.stderr.startswith(f"error: the data set folder is {given!r}: ")
    assert list(tmp_path.iterdir()) == []
    assert (
        _edgefuse("record", ".", "--label", "cup", "--camera", "synthetic", "--frames", 1, cwd=tmp_path).returncode == 0
    )


@pytest.mark.parametrize("link", ["set", "set/cup", "set/loop"])
@pytest.mark.parametrize("below", ["", "more"])
def test_a_broken_link_is_refused(link: str, below: str, tmp_path: Path) -> None:
    path = tmp_path / link
    path.parent.mkdir(exist_ok=True)
    path.symlink_to(path if link == "set/loop" else tmp_path / "gone")
    root = path.parent if link == "set/cup" and not below else path / below
    with (
        pytest.raises(UserError, match=f"{link} is a link to .*, which does not exist: "),
        open_sequence(root, "cup", None, force=False),
    ):
        pass
    assert path.is_symlink() and not (tmp_path / "gone").exists()


def test_a_sequence_has_one_writer(tmp_path: Path) -> None:
    with open_sequence(tmp_path, "cup", "a", force=False):
        with (
            pytest.raises(UserError, match="being recorded by another process"),
            open_sequence(tmp_path, "cup", "a", force=True),
        ):
            pass
        refused = _edgefuse(
            "record", tmp_path, "--label", "cup", "--sequence", "a", "--camera", "synthetic", "--frames", 1
        )
        assert refused.returncode == 1 and "being recorded by another process" in refused.stderr
        with open_sequence(tmp_path, "mug", "a", force=False) as other:
            assert other.folder == tmp_path / "mug/a"
    with open_sequence(tmp_path, "cup", "a", force=False):
        pass
    assert list(tmp_path.iterdir()) == []


def test_default_names_of_one_second_differ(tmp_path: Path) -> None:
    time.sleep(1.02 - time.time() % 1)
    pair = draw_pair("near")
    with (
        open_sequence(tmp_path, "cup", None, force=False) as first,
        open_sequence(tmp_path, "cup", None, force=False) as second,
    ):
        for sequence in (first, second):
            sequence.add(pair)
            sequence.finish()
    assert first.folder != second.folder and len(scan([tmp_path]).samples) == 2


def test_two_first_recordings_of_a_data_set_agree(tmp_path: Path) -> None:
    """Their cameras have different depth units: one is refused and leaves no files."""
    root = tmp_path / "set"
    code = """
import sys
from pathlib import Path
import numpy as np
from edgefuse_runtime.recording.write_db3 import write_recording
write_recording(Path(sys.argv[1]), [(np.zeros((48, 64, 3), np.uint8), np.full((48, 64), 900, np.uint16))] * 4, depth_unit_m=float(sys.argv[2]), fps=60)
"""
    for unit in ("0.001", "0.0001"):
        subprocess.run([sys.executable, "-c", code, str(tmp_path / f"{unit}.db3"), unit], check=True, timeout=60)
    both = [
        subprocess.Popen(
            [
                *EDGEFUSE,
                "record",
                str(root),
                "--label",
                label,
                "--sequence",
                "a",
                "--camera",
                str(tmp_path / f"{unit}.db3"),
            ],
            stderr=subprocess.PIPE,
            text=True,
        )
        for label, unit in (("near", "0.001"), ("far", "0.0001"))
    ]
    output = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 1], output
    winner, loser = (0, 1) if both[0].returncode == 0 else (1, 0)
    assert "record to another folder" in output[loser]
    assert json.loads((root / DATASET_NAME).read_text())["depth_unit_m"] == (0.001, 0.0001)[winner]
    assert scan([root]).labels == (("near", "far")[winner],)


@pytest.mark.parametrize("foreign", ["notes.txt", "photo.png", "below/frame_rgb.png"])
def test_force_replaces_only_sequences(foreign: str, tmp_path: Path) -> None:
    sequence = tmp_path / "cup/a"
    write_pair(sequence, "frame_000001", *draw_pair("near"))
    (sequence / foreign).parent.mkdir(exist_ok=True)
    (sequence / foreign).write_text("mine")
    with (
        pytest.raises(UserError, match="is not replaced although --force"),
        open_sequence(tmp_path, "cup", "a", force=True),
    ):
        pass
    assert (sequence / foreign).read_text() == "mine"
    (sequence / foreign).unlink()
    if (sequence / "below").exists():
        (sequence / "below").rmdir()
    with open_sequence(tmp_path, "cup", "a", force=True) as again:
        for _ in range(3):
            again.add(draw_pair("far"))
        again.finish()
        assert len(list(sequence.iterdir())) == 2  # the old one, until the new one is complete
    assert len(list(sequence.iterdir())) == 6


def test_ctrl_c_ends_a_recording_with_complete_pairs(tmp_path: Path) -> None:
    process = subprocess.Popen(
        [*EDGEFUSE, "record", str(tmp_path / "set"), "--label", "cup", "--sequence", "a", "--camera", "synthetic"],
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline_s = time.monotonic() + BEGUN_S
    while len(list((tmp_path / "set").glob("cup/a/*_rgb.png"))) < 3 and time.monotonic() < deadline_s:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, output = process.communicate(timeout=60)
    assert process.returncode == 0, output
    dataset = load(scan([tmp_path / "set"])).dataset
    assert len(dataset.samples) >= 3 and f"({len(dataset.samples)} pairs)" in output
    assert sorted(path.name for path in (tmp_path / "set").iterdir()) == ["cup", DATASET_NAME]
