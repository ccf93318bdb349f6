"""The choice of the region source for a live run: the user's, or that of the model's training data; with notes and warnings."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import Literal

from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE, regions_agree
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.regions.region import (
    DefaultRegion,
    FromFile,
    Region,
    RegionSource,
    most_regions,
    parse_region,
    shortened,
    word_of,
)

_log = logging.getLogger(__name__)

Origin = Literal["--roi", "bundle", "camera", "default"]


@dataclass(frozen=True, kw_only=True)
class ChosenRegion:
    """The region source of a live run.

    Attributes:
        find: the source.
        word: the region as a value of `--roi`.
        origin: where the choice comes from: the user, the bundle (the region of its training data), the camera (a folder of crops,
            or rendered scenes with known objects), or the default.
        notes: lines for the user.
    """

    find: RegionSource
    word: str
    origin: Origin
    notes: tuple[str, ...] = ()

    def __call__(self, frame: Frame) -> tuple[Region, ...] | None:
        return self.find(frame)

    @property
    def most(self) -> int:
        """Largest number of regions of a frame."""
        return most_regions(self.find)

    def log_notes(self) -> None:
        """Log each note; those that begin with "warning: " as warnings, without these words."""
        for note in self.notes:
            text = note.removeprefix("warning: ")
            _log.log(logging.INFO if text == note else logging.WARNING, "%s", text)

    def note(self) -> str | None:
        """One line about the frames without a region, or None; call it after the run."""
        return self.find.note() if isinstance(self.find, FromFile) else None

    def to_json(self) -> dict[str, str]:
        """The region and its origin."""
        return {"roi": self.word, "from": self.origin}


def choose_region(given: RegionSource | None, *, trained_on: str | None, camera: Camera) -> ChosenRegion:
    """The region source for a model: the user's, or that of its training data.

    Args:
        given: from `--roi`; None = the option was not given.
        trained_on: the region in the bundle's manifest; None in older bundles, which do not have it.
        camera: open. A folder of crops, according to its `dataset.json`, is not cropped again.

    Raises:
        UserError: this version does not support the bundle's region.
    """
    cropped = camera.description.get("region")
    cropped = None if cropped == WHOLE else cropped
    if given is not None:
        word = word_of(given)
        return ChosenRegion(find=given, word=word, origin="--roi", notes=_warnings(word, trained_on, cropped))
    if cropped is not None:
        return ChosenRegion(
            find=DefaultRegion(), word=cropped, origin="camera", notes=_warnings(WHOLE, trained_on, cropped)
        )
    if trained_on in (None, ANY_CROP):
        return _without_rule(camera, is_cropped=trained_on == ANY_CROP)
    note = f"region: {shortened(trained_on)}, as in the model's training data (use --roi whole for the whole image)"
    notes = () if trained_on == WHOLE else (note,)
    return ChosenRegion(find=_from_bundle(trained_on), word=trained_on, origin="bundle", notes=notes)


def _without_rule(camera: Camera, *, is_cropped: bool) -> ChosenRegion:
    if camera.description.get("kind") == "synthetic":  # it provides the region of each object
        return ChosenRegion(find=DefaultRegion(), word="known by the camera", origin="camera")
    note = (
        "warning: the model was trained on crops of the object, but gets whole images: "
        "use --roi nearest, x,y,w,h or FILE.json"
    )
    return ChosenRegion(find=DefaultRegion(), word=WHOLE, origin="default", notes=(note,) if is_cropped else ())


def _warnings(word: str, trained_on: str | None, cropped: str | None) -> tuple[str, ...]:
    """Warnings about the region `word`. `cropped`: the region of a folder that already has crops."""
    if cropped is not None and word != WHOLE:
        return (f"warning: the folder already has crops ({shortened(cropped)}), --roi {word} crops them again",)
    used = word.partition(":")[0] if cropped is None else cropped  # nearest:N finds the same regions as nearest
    if regions_agree(trained_on, used):
        return ()
    trained = "crops of the object" if trained_on == ANY_CROP else shortened(trained_on)
    return (f"warning: the region is {shortened(used)}, but the model was trained on {trained}",)


def _from_bundle(word: str) -> RegionSource:
    try:
        if not word.lower().endswith(".json"):
            return parse_region(word)
    except UserError:
        pass
    raise UserError(
        f"the bundle was trained on the region {shortened(word)!r}, which this version does not support: choose one with --roi"
    )
