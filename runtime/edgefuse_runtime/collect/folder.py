"""`CollectionFolder`: writes pairs into a collection, and removes the least valuable ones so that it stays within its size."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, NamedTuple

from edgefuse import framing
from edgefuse.data.collection import NO_ANSWER, REVIEW, WHOLE_IMAGES, read_kept
from edgefuse.data.dataset import DATASET_NAME, DEPTH_SUFFIX, RGB_SUFFIX, describe, write_description, write_pair
from edgefuse.data.description import stated
from edgefuse.data.incomplete_pairs import complete
from edgefuse.errors import UserError
from edgefuse.framing import Roi, regions_agree
from edgefuse.io.files import bytes_below, check_writable, flush_below
from edgefuse.io.json_files import write_json
from edgefuse.io.new_files import claimed, files_added, folder_added, held
from edgefuse.io.temporaries import is_temporary
from edgefuse.io.text import printable, some_of

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame

MAX_MB = 2000
MIN_FREE_MB = 500
"""Space on the disk that is left to others."""
HEADROOM = 0.05
"""Fraction of the size that is made free at once, so that the folder is not listed for every frame."""
_KEY = "collection"
_SUFFIXES = (RGB_SUFFIX, DEPTH_SUFFIX, ".json")


class NoRoomError(Exception):
    """The collection is full of pairs that are worth more."""


class Place(NamedTuple):
    """Where a pair is: folders of class and sequence, and its name.

    Attributes:
        label: the class; None = the model has no answer, for a pair that is to be checked.
        is_labelled: whether a person has given it.
    """

    label: str | None
    sequence: str
    name: str
    is_labelled: bool = False


@dataclass(frozen=True, kw_only=True, order=True)
class _Removable:
    """An unlabelled pair, or whole images without one, in the order in which they are removed."""

    value: int
    time: str
    stem: str
    whole: str | None
    num_bytes: int


class CollectionFolder:
    """`with folder:` locks it and finds what is in it. Use it in one thread at a time."""

    def __init__(
        self, root: Path, *, labels: Sequence[str], max_mb: int = MAX_MB, min_free_mb: int = MIN_FREE_MB
    ) -> None:
        """Choose the folder.

        Args:
            labels: the classes of the model.
            max_mb: most of all files in it, in MB of 10^6 bytes.
            min_free_mb: nothing is written when less than this is free on the disk.
        """
        self.root, self._labels = root, tuple(labels)
        self._max_bytes, self._min_free_bytes = max_mb * 1_000_000, min_free_mb * 1_000_000
        self._opened = ExitStack()
        self._is_described = False
        self._num_bytes = 0

    def __enter__(self) -> CollectionFolder:
        """Raises UserError if the folder is no collection of such classes, is used by another process, or cannot be written."""
        self._check()
        is_new = not self.root.exists()
        self.root.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            stack.callback(self._remove_if_empty, is_new=is_new)
            if not stack.enter_context(claimed(self.root, "live --collect")):
                raise UserError(f"another live collects into {self.root}: choose another folder for this one")
            for folder in self.root.glob(f"{REVIEW}/*/*"):
                _repair(folder)
            self._num_bytes = bytes_below(self.root)
            self._opened = stack.pop_all()
        self._is_described = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._opened.close()

    def _check(self) -> None:
        if self.root.exists() and not self.root.is_dir():
            raise UserError(f"{self.root} is a file: the name of a folder was expected")
        check_writable(self.root / DATASET_NAME)
        names = os.listdir(self.root) if self.root.is_dir() else []  # noqa: PTH208 (names of any bytes)
        if not [name for name in names if not is_temporary(Path(name))]:
            return
        describe(self.root)  # refuses one that is not valid
        collection = stated(self.root).get(_KEY)
        if not isinstance(collection, dict):
            raise UserError(
                f"{self.root} has other files, or is a data set that was not collected: give a new folder, and train on both"
            )
        known = collection.get("labels") or []
        if not set(known) & set(self._labels):
            raise UserError(
                f"{self.root} is a collection of {some_of([printable(str(label)) for label in known])}, which this model does not have: give "
                "another folder"
            )

    def _remove_if_empty(self, *, is_new: bool) -> None:
        if is_new:
            with contextlib.suppress(OSError):
                self.root.rmdir()

    def entries(self) -> Iterator[dict[str, Any]]:
        """What is known about each pair in it; damaged descriptions are left out."""
        for path in self.root.glob("*/*/*.json"):  # labelled
            yield from _read(path)
        for path in self.root.glob(f"{REVIEW}/*/*/*.json"):
            yield from _read(path)

    def add(self, place: Place, frame: Frame, roi: Roi, *, region: str, kept: dict[str, Any]) -> Place | None:
        """Write a pair: the square around a region, the whole images if that is not all, and what is known about it.

        Args:
            region: the kind of region, for `dataset.json`.
            kept: the JSON object, without `roi` and `whole`.

        Returns:
            The place; with another name if another frame has that one. None if this frame is there already and is to be checked; a
            labelled one replaces it.

        Raises:
            NoRoomError: the collection is full.
            OSError: the disk is full or fails; nothing of the pair is left.
            UserError: the collection has pairs of another camera or region, or the region is outside the image.
        """
        height, width = frame.depth.shape
        is_whole = roi == Roi(0, 0, width, height)
        square = framing.square_in(roi, height=height, width=width)
        pair = (frame.rgb, frame.depth)
        part = pair if is_whole else (framing.crop(frame.rgb, square), framing.crop(frame.depth, square))
        num_bytes = sum(image.nbytes for image in (*part, *(() if is_whole else pair))) + 20_000  # PNG is smaller
        same = self._same(place, kept)
        if same and not place.is_labelled:
            return None
        self._make_room(num_bytes, value=kept["value"])
        self._describe(frame, region)
        place = self._free(place)
        whole = None if is_whole else f"{WHOLE_IMAGES}/{place.sequence}/{place.name}"
        with ExitStack() as stack:
            if whole is not None:
                stack.callback(self._forget_whole_of, place, whole)
                with _added((self.root / whole).parent) as temporary:
                    write_pair(temporary, place.name, *pair)
            with _added(self._folder(place)) as temporary:
                write_pair(temporary, place.name, *part)
                write_json(temporary / f"{place.name}.json", {**kept, "roi": list(roi), "whole": whole})
                flush_below(temporary)
            stack.pop_all()
        stems = [self._folder(place) / place.name, *([self.root / whole] if whole is not None else [])]
        self._num_bytes += sum(_sizes(stem) for stem in stems)
        with held(self.root / DATASET_NAME):
            for path in same:
                self._num_bytes -= _sizes(path.with_suffix(""))
                _remove(path.with_suffix(""))
        return place

    def _folder(self, place: Place) -> Path:
        above = self.root if place.is_labelled else self.root / REVIEW
        return above / (place.label if place.label is not None else NO_ANSWER) / place.sequence

    def _forget_whole_of(self, place: Place, whole: str) -> None:
        if not (self._folder(place) / f"{place.name}{RGB_SUFFIX}").exists():
            _remove(self.root / whole)

    def _same(self, place: Place, kept: dict[str, Any]) -> list[Path]:
        """The descriptions of pairs of the same frame and region."""
        found = [
            p for above in ("*", f"{REVIEW}/*") for p in self.root.glob(f"{above}/{place.sequence}/{place.name}.json")
        ]
        return [
            path
            for path in found
            for one in _read(path)
            if (one["time"], one.get("index")) == (kept["time"], kept["index"])
        ]

    def _free(self, wanted: Place) -> Place:
        """A name that is free, also in other folders: clocks are set back."""
        for number in itertools.count(1):
            place = wanted if number == 1 else wanted._replace(name=f"{wanted.name}_{number}")
            file = f"{place.sequence}/{place.name}{RGB_SUFFIX}"
            if not any(next(self.root.glob(f"{above}/{file}"), None) for above in ("*", f"{REVIEW}/*")):
                return place
        raise AssertionError("unreachable")

    def _describe(self, frame: Frame, region: str) -> None:
        """Write `dataset.json` of a new collection, or check that of an older one."""
        if self._is_described:
            return
        path = self.root / DATASET_NAME
        if path.exists():
            found = describe(self.root)
            same_unit = abs(found.depth_unit_m - frame.depth_unit_m) < 1e-9
            if not same_unit or found.align != frame.align or not regions_agree(found.region, region):
                raise UserError(
                    f"{self.root} has pairs with depth in units of {found.depth_unit_m:g} m aligned to {found.align}, region {found.region}, but this run "
                    f"has {frame.depth_unit_m:g} m aligned to {frame.align}, region {region}: collect into another folder"
                )
            if (stated(self.root)[_KEY] or {}).get("labels") != list(self._labels):
                self._write_description(found.depth_unit_m, frame, found.region or region)
        else:
            self._write_description(frame.depth_unit_m, frame, region)
        self._is_described = True

    def _write_description(self, unit_m: float, frame: Frame, region: str) -> None:
        for folder in (self.root, self.root / REVIEW):
            folder.mkdir(exist_ok=True)
            more = {_KEY: {"labels": list(self._labels)}}
            write_description(folder, depth_unit_m=unit_m, align=frame.align, region=region, **more)

    # Space

    def _make_room(self, num_bytes: int, *, value: int) -> None:
        free = shutil.disk_usage(self.root).free
        if free - num_bytes < self._min_free_bytes:
            raise OSError(errno.ENOSPC, f"{os.strerror(errno.ENOSPC)} (less than {self._min_free_bytes / 1e6:.0f} MB)")
        if self._num_bytes + num_bytes <= self._max_bytes:
            return
        self._num_bytes = bytes_below(self.root)  # others may have removed some
        wanted = self._max_bytes - num_bytes
        if self._num_bytes > wanted and (self.root / DATASET_NAME).exists():
            target = wanted - HEADROOM * self._max_bytes
            with held(self.root / DATASET_NAME):
                for one in self._removable():
                    if self._num_bytes <= target or one.value > value:
                        break
                    self._remove(one)
        if self._num_bytes > wanted:
            raise NoRoomError

    def _removable(self) -> list[_Removable]:
        """Unlabelled pairs, and whole images of pairs that are gone; the first to be removed first."""
        found: list[_Removable] = []
        used: set[str | None] = set()
        for path in self.root.glob("*/*/*.json"):
            used.update(entry["whole"] for entry in _read(path))
        for path in self.root.glob(f"{REVIEW}/*/*/*.json"):
            for entry in _read(path):
                used.add(entry["whole"])
                stem = path.with_suffix("")
                size = _sizes(stem) + (_sizes(self.root / entry["whole"]) if entry["whole"] else 0)
                found.append(
                    _Removable(
                        value=entry["value"],
                        time=entry["time"],
                        stem=str(stem),
                        whole=entry["whole"] or "",
                        num_bytes=size,
                    )
                )
        for path in self.root.glob(f"{WHOLE_IMAGES}/*/*{RGB_SUFFIX}"):
            whole = f"{WHOLE_IMAGES}/{path.parent.name}/{path.name.removesuffix(RGB_SUFFIX)}"
            if whole not in used:
                size = _sizes(self.root / whole)
                found.append(_Removable(value=-1, time="", stem="", whole=whole, num_bytes=size))
        return sorted(found)

    def _remove(self, one: _Removable) -> None:
        for stem in ([Path(one.stem)] if one.stem else []) + ([self.root / one.whole] if one.whole else []):
            _remove(stem)
        self._num_bytes -= one.num_bytes


@contextmanager
def _added(folder: Path) -> Iterator[Path]:
    """A temporary folder whose files move into `folder`, all or none. A new folder appears with them, and so does the one above."""
    if folder.is_dir():
        with files_added(folder) as temporary:
            yield temporary
        return
    top = folder
    while not top.parent.is_dir():
        top = top.parent
    with folder_added(top) as temporary:
        inner = temporary / folder.relative_to(top)
        inner.mkdir(parents=True, exist_ok=True)
        yield inner


def _read(path: Path) -> Iterator[dict[str, Any]]:
    with contextlib.suppress(UserError):
        yield read_kept(path)


def _sizes(stem: Path) -> int:
    """Bytes of the files of a pair."""
    total = 0
    for suffix in _SUFFIXES:
        with contextlib.suppress(OSError):
            total += stem.with_name(stem.name + suffix).stat().st_size
    return total


def _remove(stem: Path) -> None:
    """Remove the files of a pair, and the folders that are then empty."""
    for suffix in _SUFFIXES:
        stem.with_name(stem.name + suffix).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        for folder in list(stem.parents)[:2]:
            if folder.name not in (REVIEW, WHOLE_IMAGES):
                folder.rmdir()


def _repair(folder: Path) -> None:
    """Complete or remove the pairs that a killed process has left incomplete."""
    complete(folder)
    names = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
    for name in names:
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
        stem = name.removesuffix(suffix or "")
        if suffix and not {f"{stem}{RGB_SUFFIX}", f"{stem}{DEPTH_SUFFIX}"} <= names:
            (folder / name).unlink(missing_ok=True)
