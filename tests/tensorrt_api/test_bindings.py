"""The way to the real bindings: stand-in libraries, the cache, and what happens where the package index cannot be reached."""

from __future__ import annotations

import ctypes
from pathlib import Path

import pytest
from bindings import SYMBOLS, dump, fetch, make_libraries, pins


@pytest.mark.parametrize("major", [10, 11])
def test_the_libraries_answer_nothing(major: int, tmp_path: Path) -> None:
    folder = make_libraries(tmp_path, major=major)
    for name in ("libnvinfer", "libnvinfer_plugin", "libnvonnxparser"):
        library = ctypes.CDLL(str(folder / f"{name}.so.{major}"))
        for symbol in SYMBOLS:
            assert getattr(library, symbol)() == 0


def test_the_bindings_do_not_load_over_libraries_of_another_major_version(tmp_path: Path) -> None:
    oldest = next(iter(pins().values()))
    bindings = fetch(oldest)
    with pytest.raises(AssertionError, match=r"libnv\w+\.so\.10"):
        dump(bindings, make_libraries(tmp_path, major=11))


@pytest.mark.parametrize("ci", ["", "true"])
def test_without_a_package_index_it_is_skipped_and_in_ci_it_fails(
    ci: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("CI", ci)
    expected = pytest.fail.Exception if ci else pytest.skip.Exception
    with pytest.raises(expected, match=r"tensorrt-cu12-bindings==10\.3\.0 cannot be had from the package index"):
        fetch("tensorrt-cu12-bindings==10.3.0")
    assert not list((tmp_path / "edgefuse" / "tensorrt-bindings").iterdir())


def test_what_was_fetched_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    oldest = next(iter(pins().values()))
    folder = fetch(oldest)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    assert fetch(oldest) == folder
    assert (folder / "tensorrt_bindings" / "tensorrt.so").is_file()
