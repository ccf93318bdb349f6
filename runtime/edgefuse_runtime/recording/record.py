"""Recording frames of a camera to the folder layout, as one sequence of one class.

Decides what is recorded and what is refused; `edgefuse_runtime.recording.sequence_writer` writes the files.
"""

from __future__ import annotations

import logging
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from edgefuse.data.dataset import DATASET_NAME, describe, has_pairs, write_description
from edgefuse.data.detect_layout import split_folders
from edgefuse.errors import UserError
from edgefuse.framing import WHOLE, crop, regions_agree, square_in
from edgefuse.io.new_files import locked
from edgefuse.io.text import check_name, printable
from edgefuse.progress import Progress, no_progress
from edgefuse_runtime.camera import Camera, Frame, frames
from edgefuse_runtime.recording.sequence_writer import Pair, SequenceWriter, open_sequence
from edgefuse_runtime.regions.region import FromFile, RegionSource, word_of

DESCRIPTION_TIMEOUT_S = 10.0

_log = logging.getLogger(__name__)


def record(  # long: each option is a parameter
    *,
    camera: Camera,
    root: Path,
    label: str,
    sequence: str | None = None,
    num_frames: int | None = None,
    region: RegionSource | None = None,
    every: int = 1,
    force: bool = False,
    progress: Progress = no_progress,
) -> Path:
    """Write frames of an open camera to `root/label/sequence/`.

    A pair on the disk always has both images, even if the process is killed. After Ctrl-C or an error, the pairs written so far
    are kept. If an existing sequence is being replaced, the old one is kept after an error, and after Ctrl-C before `num_frames`
    pairs.

    Args:
        root: the data set folder; created if it does not exist.
        label: class of the frames.
        sequence: name of the sequence; None = date and time.
        num_frames: pairs to write; None = until the stream ends.
        region: store only the square around this region, at the camera's resolution; frames without a region are skipped.
        every: record every N-th frame.
        force: replace an existing sequence; the old one is kept until the new one is complete.
        progress: called with the number of pairs written so far and `num_frames`.

    Returns:
        The folder of the sequence.

    Raises:
        UserError: a name is not valid for a folder, the sequence exists or is being recorded, the data set has another depth unit,
            alignment or region, the region is outside the image, no frame was recorded, or the camera failed.
        OSError: the disk is full.
    """
    if every < 1 or (num_frames is not None and num_frames < 1):
        raise UserError(f"every {every}, frames {num_frames}: 1 or more was expected")
    check_name(label, what="label")
    check_name(sequence if sequence is not None else label, what="sequence")
    check_label(root, label)
    recording = _Recording(root=root, label=label, camera=camera, region=region, every=every, num_frames=num_frames)
    with open_sequence(root, label, sequence, force=force) as writer:
        failure = recording.write_to(writer, progress)
        if writer.num_written:
            for text in recording.warnings():
                _log.warning("%s", text)
        if writer.replaces and (failure is not None or writer.num_written < (num_frames or 0)):
            raise _not_replaced(writer, num_frames, failure)  # inside the block: the sequence has not been replaced yet
        if failure is not None:
            if writer.num_written:
                _log.info("%d pairs are kept in %s", writer.num_written, writer.folder)
            raise failure
    return writer.folder


def _not_replaced(writer: SequenceWriter, num_frames: int | None, failure: Exception | None) -> Exception:
    """The error for a recording that ended before it could replace a sequence."""
    if failure is not None and not isinstance(failure, UserError | OSError):
        return failure  # a bug: report it with its traceback
    wanted = f" of {num_frames}" if num_frames is not None else ""
    reason = f" ({failure})" if failure is not None else ""
    error = UserError(
        f"{writer.folder} was not replaced: {writer.num_written}{wanted} new pairs were recorded{reason}; record again, or use "
        "another name with --sequence"
    )
    error.__cause__ = failure
    return error


@dataclass(kw_only=True)
class _Recording:
    """From the camera's frames to the pairs of a sequence."""

    root: Path
    label: str
    camera: Camera
    region: RegionSource | None
    every: int
    num_frames: int | None
    other_labels: Counter[str] = field(default_factory=Counter)

    def write_to(self, sequence: SequenceWriter, progress: Progress) -> Exception | None:
        """Write pairs to `sequence`. Returns its error instead of raising it, so that the pairs are kept; also without any pair."""
        failure: Exception | None = None
        try:
            for number, (frame, pair) in enumerate(self._pairs(), start=1):
                with self._described(frame) if number == 1 else nullcontext():
                    sequence.add(pair)
                    progress(sequence.num_written, self.num_frames, stage="recording")
                if number == self.num_frames:
                    break
        except KeyboardInterrupt:
            pass
        except Exception as error:
            failure = error
        try:
            sequence.finish()
            progress(sequence.num_written, self.num_frames, stage="recording")
        except Exception as error:
            failure = failure or error
        if failure is None and not sequence.num_written:
            reason = self._note() or "no frame arrived, or no region was found in any frame"
            return UserError(f"nothing was recorded: {reason}")
        return failure

    def warnings(self) -> Iterator[str]:
        """Warnings after the run, one line each."""
        note = self._note()
        if note is not None:
            yield note
        if self.other_labels:
            found = ", ".join(printable(name) for name, _ in self.other_labels.most_common(3))
            yield (
                f"{self.other_labels.total()} pairs recorded as {printable(self.label)} have another class in their source (such as "
                f"{found})"
            )

    def _note(self) -> str | None:
        return self.region.note() if isinstance(self.region, FromFile) else None

    def _pairs(self) -> Iterator[tuple[Frame, Pair]]:
        for index, frame in enumerate(frames(self.camera)):
            if index == 0 and ((self.root / DATASET_NAME).exists() or has_pairs(self.root)):
                _check_description(self.root, frame, region=self._region_word())
            pair = None if index % self.every else self._cropped(frame)
            if pair is not None:
                yield frame, pair

    def _cropped(self, frame: Frame) -> Pair | None:
        """The pair to store. `framing.crop` is also used by live, so that training on the crop gives the model the same input."""
        regions = self.region(frame) if self.region is not None else None
        if self.region is not None and not regions:
            return None
        found = regions[0] if regions else None
        source_label = found.label if found is not None and found.label is not None else frame.label
        if source_label not in (None, self.label):
            self.other_labels[str(source_label)] += 1
        if found is None:
            return frame.rgb, frame.depth
        height, width = frame.depth.shape
        square = square_in(found.roi, height=height, width=width)
        return crop(frame.rgb, square), crop(frame.depth, square)

    def _described(self, frame: Frame) -> AbstractContextManager[None]:
        return described(self.root, frame, region=self._region_word(), camera=self.camera.description)

    def _region_word(self) -> str | None:
        """The region for `dataset.json`; None = unknown, if the source is a folder without one."""
        if self.region is None and self.camera.description.get("kind") == "folder":
            region = self.camera.description.get("region")
            return region if isinstance(region, str) else None
        return word_of(self.region)


@contextmanager
def described(root: Path, frame: Frame, *, region: str | None, camera: Mapping[str, Any]) -> Iterator[None]:
    """Create `dataset.json` from this frame if the data set is empty, while the block writes the first pair; else check it.

    If no pair was written, `dataset.json` is removed, so that it does not restrict other recordings. These wait for this block.

    Args:
        region: of the pairs: a value of `--roi`, "whole", or None if it is unknown.
        camera: its description.

    Raises:
        UserError: the data set has another depth unit, alignment or region.
    """
    with _only_writer(root):
        is_new = not (root / DATASET_NAME).exists() and not has_pairs(root)
        try:
            if is_new:
                write_description(
                    root, depth_unit_m=frame.depth_unit_m, align=frame.align, region=region, camera=camera
                )
            _check_description(root, frame, region=region)
            yield
        finally:
            if is_new and not has_pairs(root):
                (root / DATASET_NAME).unlink(missing_ok=True)


def _check_description(root: Path, frame: Frame, *, region: str | None) -> None:
    found = describe(root)
    if abs(found.depth_unit_m - frame.depth_unit_m) > 1e-9 or found.align != frame.align:
        raise UserError(
            f"{root} has depth in units of {found.depth_unit_m:g} m aligned to {found.align}, but this camera has "
            f"{frame.depth_unit_m:g} m aligned to {frame.align}: record to another folder, or with --align {found.align}"
        )
    check_region(root, region)


def check_region(root: Path, region: str | None) -> None:
    """Refuse to record another region than that of the data set at `root`.

    Raises:
        UserError: they differ.
    """
    found = describe(root)
    if not regions_agree(found.region, region):
        same = "without --roi" if found.region == WHOLE else f"with --roi {found.region}"
        raise UserError(
            f"{root} has images of the region {printable(str(found.region))}, but the new ones would be of {region}, and a model "
            f"needs the same region in all images: record {same}, or to another folder"
        )


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Wait for other processes that write `dataset.json` and the first pair; this is short."""
    deadline_s = time.monotonic() + DESCRIPTION_TIMEOUT_S
    with ExitStack() as stack:
        while not stack.enter_context(locked(root)):
            stack.close()
            if time.monotonic() > deadline_s:
                raise UserError(f"{root} is locked by another process: end that process, or record to another folder")
            time.sleep(0.01)
        yield


def check_label(root: Path, label: str) -> None:
    """Refuse a class name that would turn the folder into a split; warn about one that is easily confused with another."""
    others = [path.name for path in root.iterdir() if path.is_dir() and path.name[:1] != "."] if root.is_dir() else []
    reason = f"the label {label!r} is the name of a part of a split"
    if label in split_folders(sorted({*others, label})):
        raise UserError(
            f"{reason}, so {root} would be read as a split instead of classes: choose another name, such as {label}_1"
        )
    if label in split_folders(["train", "val", label]):
        _log.warning("%s: with a second such folder, %s would be refused", reason, root)
    alike = [name for name in others if name != label and _folded(name) == _folded(label)]
    if alike and label not in others:
        _log.warning("the label %r is similar to the class %r, but becomes a separate class", label, alike[0])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()
