"""Real frames of a run's data, for calibration, for the comparison of outputs and for the bundle.

Owns the check that the data is the data of the run.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.errors import UserError
from edgefuse.evaluation.metrics import framed_batches
from edgefuse.training.run import Run

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Framed pairs, rgb uint8 [n, S, S, 3] and depth uint8 [n, S, S, 2]."""

    rgb: NDArray[np.uint8]
    depth: NDArray[np.uint8]

    def digest(self) -> str:
        """sha256 over the bytes of all pairs."""
        found = hashlib.sha256(np.ascontiguousarray(self.rgb).tobytes())
        found.update(np.ascontiguousarray(self.depth).tobytes())
        return found.hexdigest()

    def and_more(self, other: Frames) -> Frames:
        """These pairs followed by the pairs of `other`."""
        return Frames(rgb=np.concatenate([self.rgb, other.rgb]), depth=np.concatenate([self.depth, other.depth]))

    def spread(self, count: int) -> Frames:
        """Up to `count` pairs, evenly spaced."""
        places = np.unique(np.linspace(0, len(self.rgb) - 1, min(count, len(self.rgb))).astype(int))
        return Frames(rgb=self.rgb[places], depth=self.depth[places])

    def repeated_to(self, count: int) -> Frames:
        """Exactly `count` pairs: the first `count`, repeated from the start if there are fewer."""
        chosen = np.arange(count) % len(self.rgb)
        return Frames(rgb=self.rgb[chosen], depth=self.depth[chosen])


@dataclass(frozen=True, kw_only=True)
class RunData:
    """The data that a run was trained on; its digest was checked.

    Attributes:
        training, held_out: indices of the training pairs and of all other pairs.
    """

    rgbd: RgbdDataset
    training: tuple[int, ...]
    held_out: tuple[int, ...]
    contract: InputContract

    def training_frames(self, count: int) -> Frames:
        """Up to `count` training pairs, evenly spaced."""
        return self._frames(self.training, count)

    def held_out_frames(self, count: int) -> Frames:
        """Up to `count` held-out pairs, evenly spaced; training pairs if the run held none out."""
        return self._frames(self.held_out or self.training, count)

    def _frames(self, indices: tuple[int, ...], count: int) -> Frames:
        places = np.unique(np.linspace(0, len(indices) - 1, min(count, len(indices))).astype(int))
        chosen = self.rgbd.subset([indices[i] for i in places])
        rgb, depth, _ = next(framed_batches(chosen, contract=self.contract, batch_size=len(places)))
        return Frames(rgb=rgb, depth=depth)


def open_data(run: Run) -> RunData:
    """Load the data of a run.

    Raises:
        UserError: the data is missing, or differs from the data that the run was trained on.
    """
    described: dict[str, Any] = run.info.get("data", {})
    roots = [Path(root) for root in described.get("roots", ())]
    gone = [str(root) for root in roots if not root.is_dir()]
    if not roots or gone:
        where = f"{', '.join(gone)} does not exist" if gone else f"{run.folder} does not record its location"
        raise UserError(f"the data of the run is missing: {where}; restore it, or train again")
    skip_bad = bool(described.get("num_left_out"))
    rgbd = load(scan(roots, skip_bad=skip_bad), skip_bad=skip_bad)
    found = rgbd.dataset.digest
    if found != described.get("digest"):
        raise UserError(
            f"the data in {', '.join(map(str, roots))} is not what the run was trained on: its digest is {found[:12]}..., "
            f"the run has {str(described.get('digest'))[:12]}...; restore the old data, or train again"
        )
    known = set(described.get("train_instances", {}))
    dataset = rgbd.dataset
    trained_on = [f"{dataset.labels[s.label]}/{s.sequence}" in known for s in dataset.samples]
    return RunData(
        rgbd=rgbd,
        training=tuple(i for i, yes in enumerate(trained_on) if yes),
        held_out=tuple(i for i, yes in enumerate(trained_on) if not yes),
        contract=run.model_config.contract,
    )


def data_for(run: Run, precisions: Sequence[str], *, adaptive: bool = False) -> RunData | None:
    """The run's data if it is used: INT8 and `adaptive` require it; FP16 is compared on more frames with it."""
    if not adaptive and not {"fp16", "int8"}.intersection(precisions):
        return None
    try:
        return open_data(run)
    except UserError as error:
        if "int8" in precisions:
            raise UserError(
                f"INT8 is calibrated on frames of the training data: {error}; "
                f"or export without int8: --precision fp32,fp16"
            ) from error
        if adaptive:
            raise UserError(
                f"--adaptive is calibrated on the validation pairs of the run: {error}; or export without --adaptive"
            ) from error
        _log.info("comparing outputs on the run's stored samples only: %s", error)
        return None
