"""The built-in data set: rendered RGB-D frames of objects and photographs of them, as a data set folder or as a stream.

Neither sensor alone distinguishes all classes: in depth, a red and a blue mug look the same and all photographs are flat cards; in
RGB, a photograph looks like the object. Every frame is a pure function of its seed, label, sequence and number.
Owns seeding, framing and writing; `scenes` has the content, `render` the geometry, `sensor_models` the sensors.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import codes_from_bytes
from edgefuse.data.dataset import write_description, write_pair
from edgefuse.errors import UserError
from edgefuse.framing import ANY_CROP, Roi, fit
from edgefuse.io.files import folder_replaced
from edgefuse.io.workers import begin_worker
from edgefuse.progress import Progress, no_progress
from edgefuse.synth import scenes as synth_scenes
from edgefuse.synth.render import Box2D, image
from edgefuse.synth.sensor_models import Degradation, depth_codes, rgb_codes

LABELS = synth_scenes.LABELS

CAMERA_HEIGHT, CAMERA_WIDTH = 480, 640
STREAM_FIRST_SEQUENCE = 1_000_000
"""First sequence number of the stream. Data sets use smaller numbers, so that they never share an object with it."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SynthFrame:
    """One rendered RGB-D pair.

    Attributes:
        rgb: uint8 [H, W, 3], RGB order.
        depth: uint16 [H, W], codes of 1 mm in the same view, 0 = no measurement.
        label: one of `LABELS`.
        roi_xywh: the square region of the object, or of its photograph, in pixels of this pair.
        distance_m: from the camera to the middle of the object or card.
        degradation: how much each sensor is degraded.
    """

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint16]
    label: str
    sequence: int
    roi_xywh: tuple[int, int, int, int]
    distance_m: float
    degradation: Degradation


def render_frame(*, seed: int, label: str, sequence: int, frame: int, size: int = 128) -> SynthFrame:
    """Render the region of one frame of a 640x480 camera and fit it to `size` x `size`, as live does with a region.

    Raises:
        UserError: an unknown label, or a negative number.
    """
    return _render(
        seed=seed, label=label, sequence=sequence, frame=frame, height=CAMERA_HEIGHT, width=CAMERA_WIDTH, size=size
    )


def stream(
    *,
    seed: int,
    num_frames: int,
    height: int = CAMERA_HEIGHT,
    width: int = CAMERA_WIDTH,
    frames_per_object: int = 15,
) -> Iterator[SynthFrame]:
    """Complete camera frames for a recording: some of one object, then some of the next, cycling through all labels.

    The objects are in no data set of the same seed. `framing.fit` on a frame's region gives what `write_dataset` writes.

    Raises:
        UserError: a number out of range.
    """
    _refuse_below("num_frames", num_frames, 0)
    _refuse_below("frames_per_object", frames_per_object, 1)
    order = np.random.default_rng(_entropy(seed, "order")).permutation(len(LABELS))
    for index in range(num_frames):
        shown, frame = divmod(index, frames_per_object)
        turn, place = divmod(shown, len(LABELS))
        yield _render(
            seed=seed,
            label=LABELS[order[place]],
            sequence=STREAM_FIRST_SEQUENCE + turn,
            frame=frame,
            height=height,
            width=width,
            size=None,
        )


def write_dataset(
    root: Path,
    *,
    num_pairs: int = 1000,
    size: int = 128,
    seed: int = 0,
    frames_per_sequence: int = 8,
    num_workers: int | None = None,
    progress: Progress = no_progress,
) -> Path:
    """Render a data set folder. It replaces `root` when it is complete.

    The pairs do not depend on `num_workers`. Several workers are started with "spawn", so a script that calls this at its top
    level needs `if __name__ == "__main__":`.

    Args:
        num_pairs: over all classes; the classes' numbers differ by one at most.
        size: side of the square images in pixels.
        num_workers: number of processes; None = the number of cores, at most 8.
        progress: called with the pairs done and `num_pairs`.

    Returns:
        `root`.

    Raises:
        UserError: a number out of range.
    """
    workers = min(os.cpu_count() or 1, 8) if num_workers is None else num_workers
    asked: dict[str, Any] = {
        "num_pairs": num_pairs,
        "size": size,
        "seed": seed,
        "frames_per_sequence": frames_per_sequence,
    }
    lowest = {"num_pairs": len(LABELS), "size": 16, "seed": 0, "frames_per_sequence": 1}
    for name, value in asked.items():
        _refuse_below(name, value, lowest[name])
    _refuse_below("num_workers", workers, 1)
    with folder_replaced(root) as folder:
        sequences = _sequences(folder, **asked)
        done = 0
        for written in _written(sequences, num_workers=workers):
            done += written
            progress(done, num_pairs, stage="rendering")
        write_description(
            folder, align="color", region=ANY_CROP, created_by="edgefuse data synth", labels=list(LABELS), **asked
        )
    return root


@dataclass(frozen=True, kw_only=True)
class _Sequence:
    """One sequence folder to write."""

    folder: Path
    seed: int
    size: int
    label: str
    sequence: int
    num_frames: int

    def write(self) -> int:
        """Render and write the sequence; returns its number of pairs."""
        for number in range(self.num_frames):
            frame = render_frame(seed=self.seed, label=self.label, sequence=self.sequence, frame=number, size=self.size)
            folder = self.folder / self.label / f"{self.label}_{self.sequence:03d}"
            write_pair(folder, f"{number:03d}", frame.rgb, frame.depth)
        return self.num_frames


def _sequences(folder: Path, *, num_pairs: int, size: int, seed: int, frames_per_sequence: int) -> list[_Sequence]:
    """All sequence folders of a data set."""
    fractions = {label: (num_pairs - place + len(LABELS) - 1) // len(LABELS) for place, label in enumerate(LABELS)}
    return [
        _Sequence(
            folder=folder,
            seed=seed,
            size=size,
            label=label,
            sequence=sequence,
            num_frames=min(frames_per_sequence, fraction - sequence * frames_per_sequence),
        )
        for label, fraction in fractions.items()
        for sequence in range(-(-fraction // frames_per_sequence))
    ]


def _written(sequences: list[_Sequence], *, num_workers: int) -> Iterator[int]:
    """Write the sequences; yields the number of pairs of each, in order."""
    if num_workers == 1:
        for sequence in sequences:
            yield sequence.write()
        return
    pool = ProcessPoolExecutor(
        min(num_workers, len(sequences)), mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker
    )
    with pool:
        try:
            yield from pool.map(_Sequence.write, sequences)
        except BrokenProcessPool:
            raise UserError(
                "a worker process was killed, perhaps because memory ran out: use fewer --workers"
            ) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _render(
    *, seed: int, label: str, sequence: int, frame: int, height: int, width: int, size: int | None
) -> SynthFrame:
    """One frame: the complete image, or its region fitted to `size`."""
    if label not in LABELS:
        raise UserError(f"the label is {label!r}: one of {', '.join(LABELS)} was expected")
    place = LABELS.index(label)
    thing = synth_scenes.object_of(np.random.default_rng(_entropy(seed, "instance", place, sequence)), label=label)
    rng = np.random.default_rng(_entropy(seed, "frame", place, sequence, frame))
    view = synth_scenes.view_of(rng, thing, height=height, width=width)
    degradation = synth_scenes.degradation_of(rng)
    left, top, side, _ = view.roi
    box = Box2D(0, 0, width, height) if size is None else Box2D(left, top, left + side, top + side)
    radiance, depth_m = image(view.world, view.camera, box)
    rgb = rgb_codes(radiance, degradation=degradation, rng=rng)
    depth = depth_codes(depth_m, focal_px=view.camera.focal_px, degradation=degradation, rng=rng)
    roi = view.roi
    if size is not None:
        framed = fit(rgb, depth, size=size)
        rgb, depth, roi = framed.rgb, codes_from_bytes(framed.depth), Roi(0, 0, size, size)
    return SynthFrame(
        rgb=rgb,
        depth=depth,
        label=label,
        sequence=sequence,
        roi_xywh=(roi.x, roi.y, roi.w, roi.h),
        distance_m=view.distance_m,
        degradation=degradation,
    )


def _entropy(seed: int, use: str, *numbers: int) -> list[int]:
    """The seed of a random generator, distinct for every use and all numbers."""
    for number in (seed, *numbers):
        _refuse_below("seed, sequence and frame", number, 0)
    return [len(numbers), int.from_bytes(use.encode(), "little"), seed, *numbers]


def _refuse_below(name: str, value: int, lowest: int) -> None:
    if value < lowest:
        raise UserError(f"{name} is {value}: {lowest} or more was expected")
