"""A picture of what a data set holds: a few pairs of each class, for `edgefuse data check --montage`.

Owns the drawing, and the mark by which a montage is known again.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import MAX_DEPTH_CODE
from edgefuse.data.dataset import Dataset, Sample, read_pair, spread_evenly
from edgefuse.data.pairing import MARK
from edgefuse.errors import UserError
from edgefuse.io.images import write_image
from edgefuse.io.matplotlib_io import shortened
from edgefuse.io.text import ascii_only

CAPTION_PX = 15
HEAD_PX = 20
_FONT = cv2.FONT_HERSHEY_SIMPLEX
_CAPTION_SCALE, _HEAD_SCALE = 0.4, 0.48
_WHITE, _LIGHT_GREY = (255, 255, 255), (200, 200, 200)


def montage(dataset: Dataset, path: Path, *, side_px: int = 96, per_class: int = 3, columns: int = 10) -> None:
    """Write a PNG: a few pairs of each class, RGB below its sequence's name and above depth (near is red, far blue, none black).

    Columns are as wide as the longest name, up to four images. The range of each depth image is below it; see `coloured`.
    """
    chosen = {label: _spread(dataset, number, per_class) for number, label in enumerate(dataset.labels)}
    chosen = {label: samples for label, samples in chosen.items() if samples}
    if not chosen:
        raise UserError("there is no pair to draw a montage of")
    names = {_width_px(s.sequence, _CAPTION_SCALE) for samples in chosen.values() for s in samples}
    names |= {_width_px(label, _HEAD_SCALE) for label in chosen}
    width_px = min(max(side_px, *names), 4 * side_px)
    strips = [
        _strip(label, samples, side_px=side_px, width_px=width_px, per_class=per_class)
        for label, samples in chosen.items()
    ]
    columns = min(columns, len(strips))
    rows = []
    for start in range(0, len(strips), columns):
        row = strips[start : start + columns]
        row += [np.zeros_like(row[0])] * (columns - len(row))
        rows.append(np.hstack(row))
    write_image(path, np.asarray(cv2.cvtColor(np.vstack(rows), cv2.COLOR_BGR2RGB), np.uint8), mark=MARK)


def _spread(dataset: Dataset, label: int, count: int) -> list[Sample]:
    """Pairs of a class, from sequences as far apart in the list as there are."""
    members = [sample for sample in dataset.samples if sample.label == label]
    return [members[i] for i in spread_evenly(len(members), count)]


def _strip(label: str, samples: list[Sample], *, side_px: int, width_px: int, per_class: int) -> NDArray[np.uint8]:
    """One class from top to bottom, BGR: its name, then its pairs."""
    parts = [_text(label, width_px, height_px=HEAD_PX, scale=_HEAD_SCALE, colour=_WHITE)]
    for sample in samples:
        rgb, depth = read_pair(sample.rgb_path, sample.depth_path)
        limits = depth_limits(depth)
        in_words = "no depth" if limits is None else "{:.2f}-{:.2f} m".format(*np.array(limits) * sample.depth_unit_m)
        bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
        parts += [_text(sample.sequence, width_px), _letterboxed(bgr, side_px, width_px)]
        parts += [_letterboxed(coloured(depth), side_px, width_px), _text(in_words, width_px)]
    empty = np.zeros((2 * side_px + 2 * CAPTION_PX, width_px, 3), np.uint8)
    parts += [empty] * (per_class - len(samples))
    return np.pad(np.vstack(parts), ((0, 6), (0, 4), (0, 0)))


def _width_px(text: str, scale: float) -> int:
    return int(cv2.getTextSize(ascii_only(text), _FONT, scale, 1)[0][0]) + 4


def _text(
    text: str,
    width_px: int,
    *,
    height_px: int = CAPTION_PX,
    scale: float = _CAPTION_SCALE,
    colour: tuple[int, int, int] = _LIGHT_GREY,
) -> NDArray[np.uint8]:
    """A line of text; of one that is too long, the beginning and the end."""
    line = np.zeros((height_px, width_px, 3), np.uint8)
    most = len(text)
    while most > 3 and _width_px(shortened(text, most=most), scale) > width_px:
        most -= 1
    cv2.putText(
        line,
        ascii_only(shortened(text, most=most).replace("…", "..")),
        (2, height_px - 4),
        _FONT,
        scale,
        colour,
        1,
        cv2.LINE_AA,
    )
    return line


def depth_limits(depth: NDArray[np.uint16]) -> tuple[float, float] | None:
    """The 2nd and 98th percentile of an image's measured depths in codes, but for those at the largest code; None without any."""
    measured = depth[(depth > 0) & (depth < MAX_DEPTH_CODE)]
    if not measured.size:
        return None
    near, far = np.percentile(measured, (2, 98))
    return float(near), float(far)


def coloured(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Depth codes [H, W] as an image, uint8 [H, W, 3] in BGR order: near red, far blue, 0 black.

    The colours follow 1 / depth between `depth_limits`, as a stereo camera's precision does: a far background that is little but
    noise takes few of them, and small relief shows.
    """
    limits = depth_limits(depth)
    if limits is None:
        return np.zeros((*depth.shape, 3), np.uint8)
    nearest, farthest = 1 / limits[0], 1 / limits[1]
    nearness = (1 / np.maximum(depth, 1).astype(np.float32) - farthest) / max(nearest - farthest, 1e-9)
    image = cv2.applyColorMap(np.rint(nearness.clip(0, 1) * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    image[depth == 0] = 0
    return np.asarray(image, np.uint8)


def _letterboxed(image: NDArray[np.uint8], side_px: int, width_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    box = np.zeros((side_px, width_px, 3), np.uint8)
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    box[top : top + small.shape[0], left : left + small.shape[1]] = small
    return box
