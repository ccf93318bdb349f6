from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from edgefuse.contract import (
    InputContract,
    bytes_from_codes,
    check_batch,
    clipped,
    codes_from_bytes,
    decode_depth,
    decode_rgb,
)
from edgefuse.errors import UserError

CONTRACT = InputContract(size=16, near_m=0.2, far_m=2.0)


@given(hnp.arrays(np.uint16, (2, 5, 3)))
def test_codes_survive_a_round_trip_through_bytes(codes: np.ndarray) -> None:
    depth = bytes_from_codes(codes)
    assert depth.shape == (2, 5, 3, 2) and depth.dtype == np.uint8
    np.testing.assert_array_equal(depth[..., 0] + 256 * depth[..., 1].astype(int), codes)  # low byte first
    np.testing.assert_array_equal(codes_from_bytes(depth), codes)


def test_bytes_are_a_view_without_a_copy() -> None:
    codes = np.arange(12, dtype=np.uint16).reshape(3, 4)
    assert np.shares_memory(bytes_from_codes(codes), codes)


def test_depth_decodes_to_range_and_validity() -> None:
    codes = np.zeros((1, 16, 16), np.uint16)
    codes[0, 0, :6] = [0, 1, 200, 1100, 2000, 65535]
    range_, valid = decode_depth(bytes_from_codes(codes), CONTRACT)[0, :, 0, :6]
    np.testing.assert_allclose(range_, [0, 0, 0, 0.5, 1, 1], atol=1e-6)
    np.testing.assert_array_equal(valid, [0, 1, 1, 1, 1, 1])


def test_rgb_decodes_to_imagenet_statistics() -> None:
    white = decode_rgb(np.full((1, 16, 16, 3), 255, np.uint8))
    np.testing.assert_allclose(white[0, :, 0, 0], [2.2489, 2.4286, 2.6400], atol=1e-3)  # (1 - mean) / std


@given(
    size=st.integers(16, 1024),
    near_m=st.floats(0.0, 5.0),
    span_m=st.floats(0.1, 20.0),
    align=st.sampled_from(["color", "depth"]),
)
def test_contract_survives_json(size: int, near_m: float, span_m: float, align: str) -> None:
    contract = InputContract(size=size, near_m=near_m, far_m=near_m + span_m, align=align)  # type: ignore[arg-type]
    assert InputContract.from_json(contract.to_json()) == contract


@pytest.mark.parametrize(
    ("values", "word"),
    [
        ({"size": 8}, "size"),
        ({"size": 64, "near_m": 2.0, "far_m": 1.0}, "range"),
        ({"size": 64, "far_m": 66.0}, "range"),
        ({"size": 64, "align": "infrared"}, "align"),
        ({"size": 64, "outputs": ("probabilities", "nearest_m")}, "outputs"),
    ],
)
def test_impossible_contracts_are_refused(values: dict[str, object], word: str) -> None:
    with pytest.raises(UserError, match=word):
        InputContract(**values)  # type: ignore[arg-type]


def test_contracts_of_older_bundles_have_no_distance() -> None:
    written = CONTRACT.to_json()
    assert written["outputs"]["nearest_m"] == {
        "dtype": "float32",
        "shape": ["N", 1],
        "unit": "m",
        "no_measurement": 0.0,
    }
    del written["outputs"]["nearest_m"]
    older = InputContract.from_json(written)
    assert older.outputs == ("probabilities", "gate") and older.to_json() == written and older != CONTRACT
    for outputs in ({"probabilities": {"dtype": "float32"}}, {**written["outputs"], "angle": {"dtype": "float32"}}):
        with pytest.raises(UserError, match="the contract has outputs = "):
            InputContract.from_json({**written, "outputs": outputs})


def test_a_contract_of_another_unit_is_refused() -> None:
    with pytest.raises(UserError, match=r"depth_unit_m = 0\.0001"):
        InputContract.from_json({**CONTRACT.to_json(), "depth_unit_m": 0.0001})


def test_a_batch_of_another_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"rgb is uint8 \[1, 20, 20, 3\]"):
        check_batch(np.zeros((1, 20, 20, 3), np.uint8), np.zeros((1, 20, 20, 2), np.uint8), CONTRACT)
    with pytest.raises(UserError, match="depth is uint16"):
        check_batch(np.zeros((1, 16, 16, 3), np.uint8), np.zeros((1, 16, 16, 2), np.uint16), CONTRACT)  # type: ignore[arg-type]


def test_the_contract_imports_numpy_only() -> None:
    code = "import sys, edgefuse.contract; print([m for m in ('cv2', 'torch', 'rich', 'typer', 'onnx') if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_measurements_out_of_range_are_counted_and_named() -> None:
    codes = np.array([0, 0, 100, 150, 200, 1000, 2000, 2001, 3000, 5000], np.uint16)
    found = clipped(codes, depth_unit_m=0.001, near_m=0.2, far_m=2.0)
    assert found == (2 / 8, 3 / 8)
    words = found.warning(near_m=0.2, far_m=2.0)
    assert (
        words is not None and "25% of the measured depth is nearer than 0.2 m" in words and "--near and --far" in words
    )
    assert clipped(codes, depth_unit_m=0.001, near_m=0.0, far_m=9.0).warning(near_m=0.0, far_m=9.0) is None
    assert clipped(np.zeros(4, np.uint16), depth_unit_m=0.001, near_m=0.2, far_m=2.0) == (0.0, 0.0)
