from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgefuse.data.description import Description, describe, write_description
from edgefuse.errors import UserError

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def write(root: Path, value: Any) -> Path:
    (root / "dataset.json").write_text(json.dumps(value))
    return root


def test_a_written_description_survives_a_round_trip(tmp_path: Path) -> None:
    write_description(tmp_path, depth_unit_m=0.0001, align="depth", region="10,20,30,40", camera={"serial": "1"})
    assert describe(tmp_path) == Description(depth_unit_m=0.0001, align="depth", region="10,20,30,40")


@pytest.mark.parametrize(
    "found",
    [
        {"camera": {"depth": {"width": 640, "fps": 30}, "depth_unit_m": 0.001, "align": "color"}},
        {"source": {"layout": "pairs", "unit": "mm", "camera_mm": 600.0}, "frames_per_sequence": 8, "size": 32},
        {"labels": ["depth", "unit"], "grayscale": False, "community": "x", "num_pairs": 3, "created": "a units maker"},
        {"format": 1, "align": None, "region": None},
        {"unit_test": True, "business_unit": "robots", "temperature_unit": "C", "time_scale": 2, "baseline_mm": 50.0},
        {
            "camera": {"gain": 16, "resolution": [640, 480], "firmware_version": "5.1"},
            "resolution": "640x480",
            "fps": 30,
        },
        {"version": 1, "crop": False, "max_range_m": 4.0},
    ],
)
def test_other_keys_are_left_alone(tmp_path: Path, found: dict[str, Any]) -> None:
    assert describe(write(tmp_path, found)) == Description()


@pytest.mark.parametrize(
    "found",
    [
        *(
            {key: 0.0001}
            for key in ("depth_units", "depthUnitM", "Depth_Unit_M", "DEPTHUNIT", "scale", "pngDepthScale")
        ),
        *(
            {key: 5000}
            for key in ("factor", "depthFactor", "z_scale", "zscale", "codes_per_metre", "mm", "units", "unitM")
        ),
        *(
            {key: 5000}
            for key in ("scalefactor", "depthfactor", "metersPerUnit", "mm_per_level", "code_in_metres", "z16Scale")
        ),
        *(
            {key: 0.1}
            for key in ("resolution_mm", "lsb", "lsb_mm", "quantization", "step_m", "code_um", "step_um", "gain")
        ),
        *({key: "x"} for key in ("einheit", "tiefenskala", "profondeur_unite", "profundidadEscala", "disparity")),
        {"encoding": "disparity"},
        *({key: 2} for key in ("version", "schema", "format_version", "schemaVersion")),
        *({key: [1, 2, 3, 4]} for key in ("roi", "crop")),
        {"registered": False},
        {"z": "mm"},
        {"camera": {"depth_scale": 0.0001}},
        {"camera": {"depth_unit_m": 0.0001}},
        {"cameras": [{"intrinsics": {"scale": 0.0001}}]},
        {"depth": {"unit": "um"}},
        {"depth_unit_m": 0.001, "depth_scale": 0.001},
        {"aling": "depth"},
        {"aligned_to": "depth"},
        {"camera": {"align": "depth"}},
        {"Align": "depth"},
        {"formt": 2},
    ],
    ids=str,
)
def test_a_key_that_would_be_ignored_is_refused(tmp_path: Path, found: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="would be ignored"):
        describe(write(tmp_path, found))


@pytest.mark.parametrize("written", [0, 2, 99])
def test_another_format_is_refused(tmp_path: Path, written: int) -> None:
    with pytest.raises(UserError, match=f"format {written}, but this version of edgefuse reads format 1"):
        describe(write(tmp_path, {"format": written, "depth_unit_m": 0.0001}))


@pytest.mark.parametrize("region", ["centre of it", "", "1,2,3", "1,2,0,4", "1, 2, 3, 4", "roi.json", "auto"])
def test_an_unknown_kind_of_region_is_refused(tmp_path: Path, region: str) -> None:
    with pytest.raises(UserError, match="has the region .*whole, center, nearest, file or x,y,w,h"):
        describe(write(tmp_path, {"region": region}))


def test_a_description_in_another_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "Dataset.JSON").write_text('{"depth_unit_m": 0.0001}')
    with pytest.raises(UserError, match=r"Dataset\.JSON would be ignored"):
        describe(tmp_path)
    (tmp_path / "Dataset.JSON").rename(tmp_path / "dataset.json")
    (tmp_path / "train").mkdir()
    with pytest.raises(UserError, match=r"train has no dataset\.json.*cp "):
        describe(tmp_path / "train")
    write(tmp_path, {"some": "other program's"})
    assert describe(tmp_path / "train") == Description()


def test_a_broken_link_is_not_a_missing_description(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").symlink_to(tmp_path / "gone")
    with pytest.raises(UserError, match="missing"):
        describe(tmp_path)


@given(
    unit_m=st.floats(1e-6, 0.1),
    align=st.sampled_from(["color", "depth"]),
    region=st.sampled_from([None, "whole", "center", "nearest", "file", "-1,2,30,4"]),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50)
def test_any_description_survives_a_round_trip(tmp_path: Path, unit_m: float, align: Any, region: str | None) -> None:
    write_description(tmp_path, depth_unit_m=unit_m, align=align, region=region)
    assert describe(tmp_path) == Description(depth_unit_m=unit_m, align=align, region=region)


@given(
    value=JSON,
    known=st.fixed_dictionaries({}, optional=dict.fromkeys(("format", "depth_unit_m", "align", "region"), JSON)),
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_anything_else_is_one_message_or_a_valid_description(tmp_path: Path, value: Any, known: Any) -> None:
    write(tmp_path, {**value, **known} if isinstance(value, dict) else value)
    try:
        found = describe(tmp_path)
    except UserError as error:
        assert "dataset.json" in str(error) and "\n" not in str(error)
    else:
        assert 1e-6 <= found.depth_unit_m <= 0.1 and found.align in ("color", "depth")
