"""A picture of what a data set holds: a few pairs of each class, for `edgefuse data check --montage`.

Owns the drawing, and the mark by which a montage is known again.
"""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from edgefuse.data.dataset import Dataset, Sample, read_pair
from edgefuse.data.pairing import MARK
from edgefuse.errors import UserError
from edgefuse.io.images import write_image
from edgefuse.io.text import ascii_only

CAPTION_PX = 12


def montage(dataset: Dataset, path: Path, *, side_px: int = 96, per_class: int = 3, columns: int = 10) -> None:
    """Write a PNG: a few pairs of each class, RGB below its instance's name and above depth (near is red, far blue, none black).

    Depth is coloured from the 2nd to the 98th percentile of each picture by itself, so that small relief shows; they stand below.
    """
    drawn = [_strip(dataset, number, side_px=side_px, per_class=per_class) for number in range(len(dataset.labels))]
    strips = [strip for strip in drawn if strip is not None]
    if not strips:
        raise UserError("there is no pair to draw a montage of")
    columns = min(columns, len(strips))
    rows = []
    for start in range(0, len(strips), columns):
        row = strips[start : start + columns]
        row += [np.zeros_like(row[0])] * (columns - len(row))
        rows.append(np.hstack(row))
    write_image(path, np.asarray(cv2.cvtColor(np.vstack(rows), cv2.COLOR_BGR2RGB), np.uint8), mark=MARK)


def _strip(dataset: Dataset, label: int, *, side_px: int, per_class: int) -> NDArray[np.uint8] | None:
    """One class from top to bottom, BGR: its name, then its pairs, from instances as far apart in the list as there are."""
    members = [sample for sample in dataset.samples if sample.label == label]
    if not members:
        return None
    chosen = [members[i] for i in np.linspace(0, len(members) - 1, min(per_class, len(members)), dtype=int)]
    head = np.zeros((18, side_px, 3), np.uint8)
    cv2.putText(
        head,
        ascii_only(dataset.labels[label])[:16],
        (2, 13),
        cv2.FONT_HERSHEY_SIMPLEX,
        0.38,
        (255, 255, 255),
        1,
        cv2.LINE_AA,
    )
    parts = [head]
    for sample in chosen:
        rgb, depth = read_pair(sample.rgb_path, sample.depth_path)
        bgr = np.asarray(cv2.cvtColor(rgb, cv2.COLOR_RGB2BGR), np.uint8)
        parts += [_caption(sample.sequence, side_px), _letterboxed(bgr, side_px)]
        parts += [_letterboxed(coloured(depth), side_px), _caption(_range_in_words(depth, sample), side_px)]
    empty = np.zeros((2 * side_px + 2 * CAPTION_PX, side_px, 3), np.uint8)
    parts += [empty] * (per_class - len(chosen))
    return np.pad(np.vstack(parts), ((0, 2), (0, 2), (0, 0)))


def _caption(text: str, side_px: int) -> NDArray[np.uint8]:
    strip = np.zeros((CAPTION_PX, side_px, 3), np.uint8)
    grey = (190, 190, 190)
    cv2.putText(strip, ascii_only(text)[: side_px // 6], (2, 9), cv2.FONT_HERSHEY_SIMPLEX, 0.3, grey, 1, cv2.LINE_AA)
    return strip


def _range_in_words(depth: NDArray[np.uint16], sample: Sample) -> str:
    """Which depths the reddest and the bluest colour of `coloured` stand for."""
    measured = depth[depth > 0]
    if not measured.size:
        return "no depth"
    near_m, far_m = np.percentile(measured, (2, 98)) * sample.depth_unit_m
    return f"{near_m:.2f}-{far_m:.2f} m"


def coloured(depth: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """Depth codes [H, W] as a picture, uint8 [H, W, 3] in BGR order: near red, far blue, 0 black."""
    measured = depth > 0
    if not measured.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[measured], (2, 98))
    nearness = 1 - np.clip((depth.astype(np.float32) - near) / max(far - near, 1.0), 0, 1)
    image = cv2.applyColorMap(np.rint(nearness * 255).astype(np.uint8), cv2.COLORMAP_TURBO)
    image[~measured] = 0
    return np.asarray(image, np.uint8)


def _letterboxed(image: NDArray[np.uint8], side_px: int) -> NDArray[np.uint8]:
    height, width = image.shape[:2]
    scale = side_px / max(height, width)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_NEAREST)
    box = np.zeros((side_px, side_px, 3), np.uint8)
    top, left = (side_px - small.shape[0]) // 2, (side_px - small.shape[1]) // 2
    box[top : top + small.shape[0], left : left + small.shape[1]] = small
    return box
