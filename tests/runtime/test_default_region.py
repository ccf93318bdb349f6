"""The region that live uses, and its notes and warnings."""

from __future__ import annotations

from typing import Any

import pytest

from edgefuse.errors import UserError
from edgefuse.framing import Roi
from edgefuse_runtime.regions.default_region import ChosenRegion, choose_region
from edgefuse_runtime.regions.region import Center, DefaultRegion, Fixed, Nearest, WholeImage, parse_region


class Described:
    """A camera with only a description."""

    def __init__(self, **description: Any) -> None:
        self.description = description


def _choose(roi: str | None, trained_on: str | None, **camera: Any) -> ChosenRegion:
    given = None if roi is None else parse_region(roi)
    return choose_region(given, trained_on=trained_on, camera=Described(**camera))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("trained_on", "expected"),
    [
        ("nearest", Nearest()),
        ("center", Center()),
        ("1,2,30,40", Fixed(roi=Roi(1, 2, 30, 40))),
        ("whole", WholeImage()),
    ],
)
def test_the_training_datas_region_is_the_default(trained_on: str, expected: Any) -> None:
    chosen = _choose(None, trained_on, kind="recording")
    assert chosen.find == expected
    assert chosen.to_json() == {"roi": trained_on, "from": "bundle"}
    assert [note for note in chosen.notes if "warning" in note] == []
    assert (trained_on == "whole") == (chosen.notes == ())


@pytest.mark.parametrize(
    ("roi", "trained_on", "is_warned"),
    [
        ("nearest", "nearest", False),
        ("nearest", "center", True),
        ("nearest", "whole", True),
        ("whole", "nearest", True),
        ("whole", "file", True),
        ("whole", "whole", False),
        ("nearest", "file", False),
        ("1,2,3,4", "1,2,3,5", True),
        ("nearest", None, False),
        ("center", "from another version", True),
    ],
)
def test_another_region_than_the_models_is_used_with_a_warning(
    roi: str, trained_on: str | None, is_warned: bool
) -> None:
    chosen = _choose(roi, trained_on, kind="realsense")
    assert chosen.find == parse_region(roi) and chosen.to_json() == {"roi": roi, "from": "--roi"}
    assert len(chosen.notes) == is_warned
    if is_warned:
        assert (
            chosen.notes[0].startswith("warning:") and str(trained_on).split(" ")[-1] in chosen.notes[0]
        ) or trained_on == "file"


def test_a_model_of_crops_gets_a_warning_unless_the_camera_has_regions() -> None:
    chosen = _choose(None, "file", kind="recording")
    assert chosen.find == DefaultRegion() and "use --roi nearest" in chosen.notes[0]
    for trained_on in (None, "file"):
        known = _choose(None, trained_on, kind="synthetic")
        assert known.notes == () and known.to_json() == {"roi": "known by the camera", "from": "camera"}


@pytest.mark.parametrize(
    ("trained_on", "region", "warning"),
    [
        ("nearest", "nearest", ""),
        ("nearest", "file", ""),
        (None, "nearest", ""),
        ("nearest", "center", "the region is center, but the model was trained on"),
    ],
)
def test_a_folder_of_crops_is_not_cropped_again(trained_on: str | None, region: str, warning: str) -> None:
    chosen = _choose(None, trained_on, kind="folder", region=region)
    assert chosen.find == DefaultRegion() and chosen.to_json() == {"roi": region, "from": "camera"}
    assert len(chosen.notes) == bool(warning) and all(warning in note for note in chosen.notes)
    assert "crops them again" in _choose("nearest", "nearest", kind="folder", region=region).notes[0]


@pytest.mark.parametrize("region", [None, "whole"])
def test_a_folder_of_whole_images_is_cropped(region: str | None) -> None:
    assert _choose(None, "nearest", kind="folder", region=region).find == Nearest()
    assert _choose(None, None, kind="folder", region=region).find == DefaultRegion()


@pytest.mark.parametrize("word", ["somewhere", "/etc/regions.json", "1,2,3"])
def test_an_unknown_region_in_a_bundle_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=r"which this version does not support: choose one with --roi"):
        _choose(None, word, kind="recording")
