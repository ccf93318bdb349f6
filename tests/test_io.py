"""What crosses the program's edge: JSON, arrays, images, names, streams, and files of killed commands."""

from __future__ import annotations

import os
import signal
import struct
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

from edgefuse.errors import UserError
from edgefuse.io.arrays import read_array, read_arrays, write_arrays
from edgefuse.io.files import (
    check_writable,
    file_replaced,
    folder_begun,
    folder_replaced,
    refuse_existing,
    remove_leftovers,
)
from edgefuse.io.images import has_mark, image_size, read_depth, read_image, read_rgb, write_image
from edgefuse.io.json_files import Optional, check_fields, dumps, parse_json, write_json

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
def test_what_is_written_is_strict_json(value: Any) -> None:
    assert parse_json(dumps({"value": value}), what="x").keys() == {"value"}


@given(JSON)
def test_fields_that_are_otherwise_are_one_user_error(value: Any) -> None:
    spec = {"labels": [str], "size": int, "scale": float, "files": {str: {"sha256": str}}, "more": Optional(dict)}
    try:
        check_fields(value, spec, what="the manifest")
    except UserError:
        return
    assert isinstance(value["size"], int) and all(isinstance(label, str) for label in value["labels"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ({"a": {"b": 1.5}}, "a.b = 1.5, a text"),
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
def test_numbers_that_are_none_are_refused(value: Any, kind: type) -> None:
    with pytest.raises(UserError):
        check_fields({"n": value}, {"n": kind}, what="it")


def test_a_bom_is_allowed_and_nan_is_never_written(tmp_path: Path) -> None:
    assert parse_json(b'\xef\xbb\xbf{"a": 1}', what="x") == {"a": 1}
    write_json(tmp_path / "x.json", {"a": [float("nan"), float("inf"), 1.0]})
    assert parse_json((tmp_path / "x.json").read_bytes(), what="x") == {"a": [None, None, 1.0]}


def _png(image: np.ndarray) -> bytes:
    return cv2.imencode(".png", image)[1].tobytes()


def _jpeg(image: np.ndarray) -> bytes:
    return cv2.imencode(".jpg", image)[1].tobytes()


RGB = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
DEPTH = np.random.default_rng(0).integers(0, 65535, (24, 32), np.uint16)


def _encoded(suffix: str, image: np.ndarray, *options: int) -> bytes:
    return cv2.imencode(suffix, image, options)[1].tobytes()


@pytest.mark.parametrize(
    "data",
    [
        *(_png(RGB), _png(DEPTH), _jpeg(RGB), _encoded(".jpg", RGB, cv2.IMWRITE_JPEG_PROGRESSIVE, 1)),
        *(_encoded(".bmp", RGB), _encoded(".bmp", RGB[..., 0]), _encoded(".tif", RGB), _encoded(".tif", DEPTH)),
        *(
            _encoded(".tif", DEPTH, cv2.IMWRITE_TIFF_COMPRESSION, 1),
            _encoded(".webp", RGB),
            _encoded(".webp", RGB, 64, 80),
        ),
    ],
)
def test_an_image_of_which_a_part_is_missing_is_refused(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    assert image_size(data) == (32, 24)
    assert read_image(path, data).shape[:2] == (24, 32)
    assert np.array_equal(read_image(path, data + b"\0 trailing"), read_image(path, data))
    for end in {*range(0, len(data) - 4, max(1, len(data) // 50)), len(data) - 5}:
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
    st.sampled_from(
        [
            b"",
            b"\x89PNG\r\n\x1a\n",
            b"\xff\xd8\xff",
            b"II*\x00",
            b"BM",
            b"MM\x00*",
            b"RIFF\x00\x00\x00\x00WEBP",
            b"P5\n9 9\n255\n",
        ]
    ),
)
def test_any_bytes_are_an_image_or_one_user_error(data: bytes, start: bytes) -> None:
    try:
        read_rgb(Path("x.png"), start + data)
    except UserError as error:
        assert str(error).startswith("x.png")


def test_exif_orientation_is_ignored_in_every_format(tmp_path: Path) -> None:
    """Depth has no such tag: turning RGB alone would tear the pair apart."""
    exif = (
        b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x01\x01\x12\x00\x03\x00\x00\x00\x01\x00\x03\x00\x00\x00\x00\x00\x00"
    )
    plain = _jpeg(RGB)
    turned = plain[:2] + b"\xff\xe1" + (len(exif) + 2).to_bytes(2, "big") + exif + plain[2:]
    assert np.array_equal(
        cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[::-1, ::-1, ::-1], read_rgb(tmp_path, plain)
    )
    assert np.array_equal(read_rgb(tmp_path, turned), read_rgb(tmp_path, plain))


def _tiff(image: np.ndarray, *, orientation: int) -> bytes:
    """A TIFF of one uncompressed strip (TIFF 6.0, section 8)."""
    height, width = image.shape
    tags = {
        256: width,
        257: height,
        258: 16,
        259: 1,
        262: 1,
        273: 8,
        274: orientation,
        277: 1,
        278: height,
        279: image.nbytes,
    }
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    start = struct.pack("<2sHI", b"II", 42, 8 + image.nbytes)
    return start + image.astype("<u2").tobytes() + struct.pack("<H", len(tags)) + entries + bytes(4)


def test_a_tiff_that_would_be_turned_or_has_several_images_is_refused(tmp_path: Path) -> None:
    """OpenCV obeys the orientation of a TIFF whatever is asked of it."""
    assert np.array_equal(read_depth(tmp_path / "x.tif", _tiff(DEPTH, orientation=1)), DEPTH)
    turned = _tiff(DEPTH, orientation=3)
    assert np.array_equal(cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_UNCHANGED), DEPTH[::-1, ::-1])
    with pytest.raises(UserError, match="orientation 3"):
        read_depth(tmp_path / "x.tif", turned)
    with pytest.raises(UserError, match="several images"):
        cv2.imwritemulti(str(tmp_path / "x.tif"), [DEPTH, DEPTH])
        read_depth(tmp_path / "x.tif")


def test_what_does_not_fit_into_memory_is_no_damaged_image(tmp_path: Path) -> None:
    path = tmp_path / "x.png"
    write_image(path, np.zeros((9000, 9000, 3), np.uint8))
    code = (
        "import resource, sys; from pathlib import Path; from edgefuse.io.images import read_rgb; "
        "pages = int(Path('/proc/self/statm').read_text().split()[0]); limit = pages * resource.getpagesize() + (100 << 20); "
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit)); read_rgb(Path(sys.argv[1]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, timeout=60, check=False
    )
    assert "MemoryError" in done.stderr and "9000x9000 pixels do not fit" in done.stderr, done.stderr


def test_a_mark_is_found_again_and_changes_no_pixel(tmp_path: Path) -> None:
    write_image(tmp_path / "x.png", RGB, mark="edgefuse test")
    assert has_mark(tmp_path / "x.png", "edgefuse test") and not has_mark(tmp_path / "x.png", "edgefuse other")
    assert np.array_equal(read_rgb(tmp_path / "x.png"), RGB) and not has_mark(tmp_path / "absent.png", "x")


def test_no_bits_are_cut_off(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="16 bits a channel, 8 were expected"):
        read_rgb(tmp_path / "x.png", _png(RGB.astype(np.uint16) * 16))
    with pytest.raises(UserError, match="8-bit with 3 channel"):
        read_depth(tmp_path / "x.png", _png(RGB))
    with pytest.raises(UserError, match="--layout npy"):
        read_depth(tmp_path / "x.tif", cv2.imencode(".tif", DEPTH.astype(np.float32))[1].tobytes())


def test_images_come_back_as_they_were_also_under_strange_names(tmp_path: Path) -> None:
    for name in ("x.png", "caf\udce9.png", "ü.png", "a$b [c].png"):
        write_image(tmp_path / name, RGB)
        assert np.array_equal(read_rgb(tmp_path / name), RGB)
        write_image(tmp_path / name, DEPTH)
        assert np.array_equal(read_depth(tmp_path / name), DEPTH)
    with pytest.raises(UserError, match=r"ends in \.png"):
        write_image(tmp_path / "x.nothing", RGB)


def test_a_header_that_claims_too_much_is_refused_before_memory_is_asked_for() -> None:
    data = bytearray(_png(DEPTH))
    data[16:24] = (60000).to_bytes(4, "big") * 2
    with pytest.raises(UserError, match="60000x60000"):
        read_depth(Path("x.png"), bytes(data))


def test_arrays_are_whole_or_one_user_error(tmp_path: Path) -> None:
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
def test_a_killed_writer_leaves_the_old_and_the_next_one_tidies_up(writer: Any, tmp_path: Path) -> None:
    target = tmp_path / "out"
    if writer is file_replaced:
        target.write_text("old")
    else:
        target.mkdir()
        (target / "old").touch()
    process = subprocess.Popen([sys.executable, "-c", WRITER, writer.__name__, str(target)], stdout=subprocess.PIPE)
    assert process.stdout is not None and process.stdout.readline() == b"in\n"
    assert remove_leftovers(tmp_path) == []  # it lives
    assert len(list(tmp_path.iterdir())) == 2
    process.kill()
    process.wait()
    process.stdout.close()
    assert target.read_text() == "old" if writer is file_replaced else (target / "old").exists()
    assert len(remove_leftovers(tmp_path)) == 1
    assert list(tmp_path.iterdir()) == [target]


def test_a_folder_takes_the_place_of_another_in_one_step(tmp_path: Path) -> None:
    """A reader that looks all the time never finds the name free."""
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


def test_what_cannot_be_written_is_said_before_the_work(tmp_path: Path) -> None:
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


def test_closed_streams_and_ascii_terminals_end_nothing() -> None:
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
import edgefuse.cli as cli
@cli.app.command("wait")
def wait() -> None:
    try:
        print("in", flush=True)
        time.sleep(60)
    finally:
        print("out", flush=True)
sys.argv = ["edgefuse", "wait"]
cli.main()
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_a_command_with_its_clean_up(number: signal.Signals) -> None:
    process = subprocess.Popen([sys.executable, "-c", ENDED], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "in\n"
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert out == "out\n" and process.returncode == 128 + number
    assert ("interrupted" if number == signal.SIGINT else number.name) in err
