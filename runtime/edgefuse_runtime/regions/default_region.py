"""Which region a live run follows: the user's, or else that of the model's training data; and what is to be said about it.

Owns this choice; `edgefuse_runtime.regions.region` owns the regions themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, WHOLE, regions_agree
from edgefuse_runtime.camera import Camera, Frame
from edgefuse_runtime.regions.region import DefaultRegion, FromFile, Region, RegionSource, parse_region, shown, word_of

Origin = Literal["--roi", "bundle", "camera", "default"]


@dataclass(frozen=True, kw_only=True)
class ChosenRegion:
    """The source that a live run follows.

    Attributes:
        word: what is looked at, in a word of `--roi`.
        origin: who chose it: the user, the bundle (as its training data was cropped), the camera (a folder of crops, or scenes
            that know their objects), or nobody.
        notes: lines for the user.
    """

    find: RegionSource
    word: str
    origin: Origin
    notes: tuple[str, ...] = ()

    def __call__(self, frame: Frame) -> Region | None:
        return self.find(frame)

    def note(self) -> str | None:
        """One line on frames that had no region, or None; after the run."""
        return self.find.note() if isinstance(self.find, FromFile) else None

    def to_json(self) -> dict[str, str]:
        """What was looked at, and who chose it."""
        return {"roi": self.word, "from": self.origin}


def choose_region(given: RegionSource | None, *, trained_on: str | None, camera: Camera) -> ChosenRegion:
    """Where to look with a model: where the user says, or else where its training data was looked at.

    Args:
        given: from `--roi`; None = the option was not given.
        trained_on: the bundle's word for the region; None = it has none, as bundles from before regions were kept.
        camera: open; a folder whose own `dataset.json` says that it holds crops is not cropped again.

    Raises:
        UserError: the bundle's word is none that this version knows.
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
    note = f"region: {shown(trained_on)}, as in the model's training data (--roi whole for the whole image)"
    notes = () if trained_on == WHOLE else (note,)
    return ChosenRegion(find=_from_bundle(trained_on), word=trained_on, origin="bundle", notes=notes)


def _without_rule(camera: Camera, *, is_cropped: bool) -> ChosenRegion:
    if camera.description.get("kind") == "synthetic":  # it knows where its objects are
        return ChosenRegion(find=DefaultRegion(), word="known by the camera", origin="camera")
    note = (
        "warning: the model was trained on crops of the object, and gets whole images here: "
        "give --roi nearest, x,y,w,h or FILE.json"
    )
    return ChosenRegion(find=DefaultRegion(), word=WHOLE, origin="default", notes=(note,) if is_cropped else ())


def _warnings(looks_at: str, trained_on: str | None, cropped: str | None) -> tuple[str, ...]:
    """What may be wrong with looking at `looks_at` of images that are, or are not, crops already."""
    if cropped is not None and looks_at != WHOLE:
        return (f"warning: the folder holds crops already ({shown(cropped)}), --roi {looks_at} crops them again",)
    seen = looks_at if cropped is None else cropped
    if regions_agree(trained_on, seen):
        return ()
    trained = "crops of the object" if trained_on == ANY_CROP else shown(trained_on)
    return (f"warning: the model was trained on another region than {shown(seen)}: {trained}",)


def _from_bundle(word: str) -> RegionSource:
    try:
        if not word.lower().endswith(".json"):
            return parse_region(word)
    except UserError:
        pass
    raise UserError(f"the bundle was trained on the region {shown(word)!r}, which is not known here: choose with --roi")
