"""Input and output: JSON, arrays, images, names, streams, and files of killed commands."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from edgefuse.errors import UserError
from edgefuse.io.arrays import read_array, read_arrays, write_arrays
from edgefuse.io.files import check_writable, file_replaced, folder_begun, folder_replaced, refuse_existing
from edgefuse.io.images import image_size, read_depth, read_image, read_rgb, write_image
from edgefuse.io.json_files import Optional, check_fields, dumps, parse_json, write_json
from edgefuse.io.temporaries import remove_leftovers
from edgefuse.io.text import (
    ascii_only,
    check_name,
    markdown_cell,
    name_problem,
    new_console,
    new_table,
    printable,
    write_text,
)

ANY_TEXT = st.text(alphabet=st.characters(codec=None), max_size=40)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=8), values, max_size=4),
    max_leaves=20,
)


@given(st.binary(max_size=200))
def test_any_bytes_are_json_or_one_user_error(data: bytes) -> None:
    try:
        assert isinstance(parse_json(data, what="the file"), dict)
    except UserError as error:
        assert str(error).startswith("the file")


@given(JSON)
def test_written_json_is_strict(value: Any) -> None:
    assert parse_json(dumps({"value": value}), what="x").keys() == {"value"}


@given(JSON)
def test_fields_of_the_wrong_type_are_one_user_error(value: Any) -> None:
    spec = {"labels": [str], "size": int, "scale": float, "files": {str: {"sha256": str}}, "more": Optional(dict)}
    try:
        check_fields(value, spec, what="the manifest")
    except UserError:
        return
    assert isinstance(value["size"], int) and all(isinstance(label, str) for label in value["labels"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": {"b": 1.5}}, "a.b = 1.5, a string"),
        ({"a": {}}, "lacks the field a.b"),
        ({}, "lacks the field a"),
        ({"a": []}, r"a = \[\], an object"),
    ],
)
def test_the_field_that_is_wrong_is_named(value: Any, words: str) -> None:
    with pytest.raises(UserError, match=words):
        check_fields(value, {"a": {"b": str}}, what="it")


@pytest.mark.parametrize(
    ("value", "kind"), [(True, int), (True, float), (1.0, int), (float("nan"), float), (10**400, float)]
)
def test_values_that_are_not_numbers_are_refused(value: Any, kind: type) -> None:
    with pytest.raises(UserError):
        check_fields({"n": value}, {"n": kind}, what="it")


def test_a_bom_is_allowed_and_nan_is_never_written(tmp_path: Path) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', what="x") == {"a": 1}
    write_json(tmp_path / "x.json", {"a": [float("nan"), float("inf"), 1.0]})
    assert parse_json((tmp_path / "x.json").read_bytes(), what="x") == {"a": [None, None, 1.0]}


@given(ANY_TEXT)
def test_any_name_is_shown_on_one_line_of_utf_8(name: str) -> None:
    shown = printable(name)
    shown.encode("utf-8")
    assert "\x1b" not in shown and len(shown.splitlines()) <= 1 and printable(shown) == shown
    assert ascii_only(name).isascii()


@given(ANY_TEXT)
def test_a_name_can_be_a_folder_or_has_a_problem(name: str) -> None:
    if name_problem(name) is None:
        assert Path("root", name).name == name
        os.fsencode(name)
    else:
        with pytest.raises(UserError, match="plain name"):
            check_name(name, what="label")


@pytest.mark.parametrize("name", ["[ok]", "[bold]cup", "[/x]", "mug[old]", ":smile:", "$x$", "\x1b[2Jx", "caf\udce9"])
def test_a_table_shows_names_as_they_are(name: str, tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", encoding="utf-8") as file:
        table = new_table(name, title=name)
        table.add_row(name)
        console: Console = new_console(file, width=200)
        console.print(table)
        console.print(printable(name))
    assert (tmp_path / "out").read_text(encoding="utf-8").count(printable(name)) == 4


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
DEPTH = np.random.default_rng(0).integers(0, 65535, (24, 32), np.uint16)


@pytest.mark.parametrize("data", [_png(RGB), _png(DEPTH), _jpeg(RGB)])
def test_a_truncated_image_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert image_size(data) == (32, 24)
    assert read_image(path, data).shape[:2] == (24, 32)
    for end in range(0, len(data) - 4, max(1, len(data) // 50)):
        with pytest.raises(UserError, match="not a readable image"):
            read_image(path, data[:end])


@given(st.integers(0, len(_png(RGB)) - 1), st.integers(1, 255))
def test_a_changed_byte_of_a_png_is_found(place: int, change: int) -> None:
    data = bytearray(_png(RGB))
    data[place] ^= change
    with pytest.raises(UserError):
        read_rgb(Path("x.png"), bytes(data))


@given(
    st.binary(max_size=300),
    st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"II*\x00", b"BM", b"P5\n9 9\n255\n"]),
)
def test_any_bytes_are_an_image_or_one_user_error(data: bytes, start: bytes) -> None:
    try:
        read_rgb(Path("x.png"), start + data)
    except UserError as error:
        assert str(error).startswith("x.png")


def test_exif_orientation_is_ignored_in_every_format(tmp_path: Path) -> None:
    """Depth has no such tag: rotating RGB alone would misalign the pair."""
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00"
    )
    plain = _jpeg(RGB)
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[::-1, ::-1, ::-1], read_rgb(tmp_path, plain)
    )
    assert np.array_equal(read_rgb(tmp_path, turned), read_rgb(tmp_path, plain))


def test_no_bits_are_dropped(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 bits per channel, 8 were expected"):
        read_rgb(tmp_path / "x.png", _png(RGB.astype(np.uint16) * 16))
    with pytest.raises(UserError, match="8-bit with 3 channel"):
        read_depth(tmp_path / "x.png", _png(RGB))
    with pytest.raises(UserError, match="--layout npy"):
        read_depth(tmp_path / "x.tif", cv2.imencode(".tif", DEPTH.astype(np.float32))[1].tobytes())


def test_images_survive_a_round_trip_under_any_name(tmp_path: Path) -> None:
    for name in ("x.png", "caf\udce9.png", "ü.png", "a$b [c].png"):
        write_image(tmp_path / name, RGB)
        assert np.array_equal(read_rgb(tmp_path / name), RGB)
        write_image(tmp_path / name, DEPTH)
        assert np.array_equal(read_depth(tmp_path / name), DEPTH)
    with pytest.raises(UserError, match=r"ends in \.png"):
        write_image(tmp_path / "x.nothing", RGB)


def test_a_header_with_too_large_a_size_is_refused_before_allocation() -> None:
    data = bytearray(_png(DEPTH))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(UserError, match="60000x60000"):
        read_depth(Path("x.png"), bytes(data))


def test_arrays_are_complete_or_one_user_error(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    write_arrays(path, rgb=RGB)
    assert np.array_equal(read_arrays(path, ("rgb",))["rgb"], RGB)
    with pytest.raises(UserError, match="depth"):
        read_arrays(path, ("rgb", "depth"))
    data = path.read_bytes()
    for seed in range(100):
        rng = np.random.default_rng(seed)
        spoilt = bytearray(data)
        for place in rng.integers(0, len(data), 5):
            spoilt[place] = rng.integers(0, 256)
        path.write_bytes(spoilt)
        try:
            read_arrays(path, ("rgb",))
        except UserError as error:
            assert str(path) in str(error)
    np.save(tmp_path / "x.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(UserError, match=r"x\.npy"):
        read_array(tmp_path / "x.npy")
    (tmp_path / "x.npy").write_bytes(
        b"\x93NUMPY\x01\x00v\x00{'descr': '<f8', 'fortran_order': False, 'shape': (99999999999, 9), }\n"
    )
    with pytest.raises(UserError, match=r"x\.npy"):
        read_array(tmp_path / "x.npy")


WRITER = """
import sys, time
from pathlib import Path
from edgefuse.io import files
with getattr(files, sys.argv[1])(Path(sys.argv[2])) as place:
    print("in", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("writer", [file_replaced, folder_replaced, folder_begun])
def test_a_killed_writer_leaves_the_old_one_and_the_next_one_cleans_up(writer: Any, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if writer is file_replaced:
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").touch()
    process = subprocess.Popen([sys.executable, "-c", WRITER, writer.__name__, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"in\n"
    assert remove_leftovers(tmp_path) == []  # its writer is running
    num_hidden = 1 if writer is file_replaced else 2  # folder_replaced also locks the folder's name
    assert len(list(tmp_path.iterdir())) == 1 + num_hidden
    process.kill()
    process.wait()
    process.stdout.close()
    assert target.read_text() == "old" if writer is file_replaced else (target / "old").exists()
    assert len(remove_leftovers(tmp_path)) == num_hidden
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_replaces_another_in_one_step(tmp_path: Path) -> None:
    """A reader that checks all the time always finds a folder of that name."""
    target = tmp_path / "out"
    target.mkdir()
    code = "import os, sys\nwhile True:\n    if not os.path.isdir(sys.argv[1]): sys.exit(9)"
    reader = subprocess.Popen([sys.executable, "-c", code, str(target)])
    try:
        time.sleep(0.2)
        for _ in range(50):
            with folder_replaced(target) as folder:
                (folder / "new").touch()
        assert reader.poll() is None
    finally:
        reader.kill()
        reader.wait()


def test_an_unwritable_output_is_refused_before_the_work(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(Path("/sys/edgefuse-test"))
    (tmp_path / "file").write_text("x")
    with pytest.raises(UserError, match="cannot be written"):
        check_writable(tmp_path / "file" / "x")
    with pytest.raises(UserError, match="did not make it"):
        refuse_existing(tmp_path / "file", force=True, is_ours=lambda _path: False)
    refuse_existing(tmp_path / "file", force=True, is_ours=lambda _path: True)


def _run(code: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, **options)


def test_closed_streams_and_ascii_terminals_are_no_error() -> None:
    code = "from edgefuse.io.text import prepare_streams, say, write_line\nimport sys\nprepare_streams()\nsay('café')\nwrite_line('café', sys.stdout)\n"
    done = _run(code, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert done.returncode == 0 and done.stdout == done.stderr == "caf\\xe9\n"
    quoted = code.replace("\n", ";")
    for closed in (">&-", "2>&-", ">&- 2>&- <&-"):
        shell = subprocess.run(
            ["bash", "-c", f'"$0" -c "$1" {closed}', sys.executable, quoted], capture_output=True, text=True, timeout=60
        )
        assert shell.returncode == 0, shell.stderr


ENDED = """
import sys, time
import edgefuse.app.main as cli
def wait() -> None:
    try:
        print("in", flush=True)
        time.sleep(60)
    finally:
        print("out", flush=True)
cli.COMMANDS = (cli.Entry("wait", "__main__", "wait", "Tests"),)
sys.argv = ["edgefuse", "wait"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_command_ended_by_a_signal_cleans_up(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "out\n" and process.returncode == 128 + number
    assert ("interrupted" if number == signal.SIGINT else number.name) in err


@given(st.lists(ANY_TEXT, min_size=1, max_size=4))
def test_any_names_are_one_row_of_a_markdown_table(names: list[str]) -> None:
    row = f"| {' | '.join(map(markdown_cell, names))} |"
    row.encode("utf-8")
    assert len(row.splitlines()) <= 1 and row.replace("\\|", "").count("|") == len(names) + 1


@given(ANY_TEXT)
def test_a_report_can_be_written_whatever_names_are_in_it(name: str) -> None:
    path = Path(f"/dev/shm/edgefuse-test-{os.getpid()}.md")
    try:
        write_text(path, f"# {name}\n")
        assert path.read_text(encoding="utf-8") == f"# {printable(name, keep=chr(10) + chr(9))}\n"
    finally:
        path.unlink()
