"""Recording frames of a camera into the folder layout, as one take of one class.

Owns what is recorded and when it is refused; how a take grows on the disk is `edgefuse_runtime.recording.sequence_writer`'s.
"""

from __future__ import annotations

import logging
import time
import unicodedata
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path

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
    """Write frames of an open camera to `root/label/instance/`.

    A pair is there with both its images or not at all, whenever the process ends. Ctrl-C and errors keep the pairs that were
    written. Where a take is replaced, the old one stays after an error, and after Ctrl-C before `num_frames` pairs.

    Args:
        root: a data set's root; made where it does not exist.
        label: the class that the frames show.
        instance: name of the take; None = made of the date and time.
        num_frames: pairs to write; None = until the stream ends.
        region: store the square around this region alone, at the camera's resolution; frames without one are left out.
        every: keep each N-th frame.
        force: replace a take of this name; the old one stays until the new one is complete.
        progress: called with the pairs written so far and `num_frames`.

    Returns:
        The take's folder.

    Raises:
        UserError: names that are no folder names, a take that exists or is being recorded, a data set with another unit,
            alignment or region, a region of no use in the image, no frame at all, or a camera that failed.
        OSError: the disk is full.
    """
    if every < 1 or (num_frames is not None and num_frames < 1):
        raise UserError(f"every {every}, frames {num_frames}: 1 or more was expected")
    check_name(label, what="label")
    check_name(sequence if sequence is not None else label, what="take")
    _check_label(root, label)
    job = _Job(root=root, label=label, camera=camera, region=region, every=every, num_frames=num_frames)
    with open_sequence(root, label, sequence, force=force) as writer:
        failure = job.run(writer, progress)
        if writer.num_written:
            for text in job.warnings():
                _log.warning("%s", text)
        if writer.replaces and (failure is not None or writer.num_written < (num_frames or 0)):
            raise _keep_old_sequence(writer, num_frames, failure)  # inside: it has not been replaced yet
        if failure is not None:
            if writer.num_written:
                _log.info("%d pairs are kept in %s", writer.num_written, writer.folder)
            raise failure
    return writer.folder


def _keep_old_sequence(writer: SequenceWriter, num_frames: int | None, failure: Exception | None) -> Exception:
    """The error of a recording that should have replaced a take, and came to an end before."""
    if failure is not None and not isinstance(failure, UserError | OSError):
        return failure  # a fault, which is reported as one
    wanted = f" of {num_frames}" if num_frames is not None else ""
    reason = f" ({failure})" if failure is not None else ""
    error = UserError(
        f"{writer.folder} stays as it was: {writer.num_written}{wanted} new pairs were recorded{reason}; record again, or under "
        "another name with --sequence"
    )
    error.__cause__ = failure
    return error


@dataclass(kw_only=True)
class _Job:
    """From the camera's frames to the pairs of a take."""

    root: Path
    label: str
    camera: Camera
    region: RegionSource | None
    every: int
    num_frames: int | None
    other_labels: Counter[str] = field(default_factory=Counter)

    def run(self, sequence: SequenceWriter, progress: Progress) -> Exception | None:
        """Write pairs into `take`. The error that ends it, also where there was no pair, is returned: pairs are kept."""
        failure: Exception | None = None
        try:
            for number, (frame, pair) in enumerate(self._pairs(), start=1):
                described = self._described(frame) if number == 1 else nullcontext()
                with described:
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
            reason = self._note() or "the camera gave no frame, or no region was found in any"
            return UserError(f"nothing was recorded: {reason}")
        return failure

    def warnings(self) -> Iterator[str]:
        """What looks wrong after the run, one line each."""
        note = self._note()
        if note is not None:
            yield note
        if self.other_labels:
            found = ", ".join(printable(name) for name, _ in self.other_labels.most_common(3))
            yield (
                f"{self.other_labels.total()} pairs show another class by their source (such as {found}), recorded as "
                f"{printable(self.label)}"
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
        """The pair to store. The crop is `framing`'s own: seen whole, it gives the model what live gives it for the region."""
        found = self.region(frame) if self.region is not None else None
        if self.region is not None and found is None:
            return None
        shown = found.label if found is not None and found.label is not None else frame.label
        if shown not in (None, self.label):
            self.other_labels[str(shown)] += 1
        if found is None:
            return frame.rgb, frame.depth
        height, width = frame.depth.shape
        square = square_in(found.roi, height=height, width=width)
        return crop(frame.rgb, square), crop(frame.depth, square)

    @contextmanager
    def _described(self, frame: Frame) -> Iterator[None]:
        """Describe a data set without a pair as this frame is, while the block writes the first one; refuse what does not fit.

        Without a pair in the end the description goes: what recorded nothing decides nothing for others, who wait for it.
        """
        root, region = self.root, self._region_word()
        with _only_writer(root):
            is_new = not (root / DATASET_NAME).exists() and not has_pairs(root)
            try:
                if is_new:
                    write_description(
                        root,
                        depth_unit_m=frame.depth_unit_m,
                        align=frame.align,
                        region=region,
                        camera=self.camera.description,
                    )
                _check_description(root, frame, region=region)
                yield
            finally:
                if is_new and not has_pairs(root):
                    (root / DATASET_NAME).unlink(missing_ok=True)

    def _region_word(self) -> str | None:
        """What the data set says of its regions; None = not known, as of a folder that does not say it."""
        if self.region is None and self.camera.description.get("kind") == "folder":
            region = self.camera.description.get("region")
            return region if isinstance(region, str) else None
        return word_of(self.region)


def _check_description(root: Path, frame: Frame, *, region: str | None) -> None:
    found = describe(root)
    if abs(found.depth_unit_m - frame.depth_unit_m) > 1e-9 or found.align != frame.align:
        raise UserError(
            f"{root} has depth in units of {found.depth_unit_m:g} m aligned to {found.align}, this camera gives "
            f"{frame.depth_unit_m:g} m aligned to {frame.align}: record into another folder, or with --align {found.align}"
        )
    if not regions_agree(found.region, region):
        same = "without --roi" if found.region == WHOLE else f"with --roi {found.region}"
        raise UserError(
            f"{root} holds images of the region {printable(str(found.region))}, these would be of {region}: a model needs one "
            f"kind; record {same}, or into another folder"
        )


@contextmanager
def _only_writer(root: Path) -> Iterator[None]:
    """Wait for others that write the description and the first pair, which takes them an instant."""
    deadline_s = time.monotonic() + DESCRIPTION_TIMEOUT_S
    with ExitStack() as stack:
        while not stack.enter_context(locked(root)):
            stack.close()
            if time.monotonic() > deadline_s:
                raise UserError(f"{root} is locked by another process: end it, or record into another folder")
            time.sleep(0.01)
        yield


def _check_label(root: Path, label: str) -> None:
    """Refuse a class that would make the folder look like a split; warn of one that people take for another."""
    others = [path.name for path in root.iterdir() if path.is_dir() and path.name[:1] != "."] if root.is_dir() else []
    reason = f"the label {label!r} is the name of a part of a split"
    if label in split_folders(sorted({*others, label})):
        raise UserError(
            f"{reason}, so {root} would be taken for one, not for classes: choose another name, such as {label}_1"
        )
    if label in split_folders(["train", "val", label]):
        _log.warning("%s: with another of them beside it, %s is refused", reason, root)
    alike = [name for name in others if name != label and _folded(name) == _folded(label)]
    if alike and label not in others:
        _log.warning("the label %r is a class of its own beside %r: is it the same thing?", label, alike[0])


def _folded(name: str) -> str:
    return unicodedata.normalize("NFKC", name).casefold().strip()
