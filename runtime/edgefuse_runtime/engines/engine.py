"""What an engine is: a bundle's model, ready to run on a batch of framed pairs. The seam between the classifier and its backends."""

from __future__ import annotations

from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.contract import InputContract
from edgefuse.errors import UserError

NOT_FINITE = "the model's answer is not a finite number"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A model's answers for n pairs. The arrays belong to the caller.

    Attributes:
        probabilities: float32 [n, C], in the order of the engine's labels.
        gate: float32 [n, d]; 0 = all from RGB, 1 = all from depth.
    """

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]

    @property
    def is_finite(self) -> bool:
        """Whether no NaN and no infinity is in it: half precision that overflows and spoilt weights answer so."""
        return bool(np.isfinite(self.probabilities).all() and np.isfinite(self.gate).all())


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One named input or output of an engine.

    Attributes:
        dtype: NumPy's name of its type, such as "uint8".
        shape: sizes, batch first; a name such as "N" where the file leaves one open.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Engine(Protocol):
    """A model ready to run. The constructor loads nothing; `with engine:` loads it and runs it once, so that `run` is warm.

    An engine belongs to the thread that opened it: that thread runs and closes it.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""

    @property
    def contract(self) -> InputContract:
        """What the inputs mean."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What it takes, as the loaded file itself says; complete while it is open."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """What it gives, likewise."""

    @property
    def description(self) -> dict[str, Any]:
        """Engine, file, provider, precision, time to start and more, as JSON values; complete while it is open."""

    @property
    def batch_size(self) -> int | None:
        """Most pairs in one `run`; None = any number. Complete while it is open."""

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """Run the model on n pairs, 1 <= n <= `batch_size`.

        Where the file has a fixed batch, a shorter one is filled up with its last pair, and costs as much as a full one.

        Args:
            rgb: uint8 [n, S, S, 3], RGB order. The caller's; not kept after the call.
            depth: uint8 [n, S, S, 2], the contract's bytes. The caller's; not kept after the call.

        Returns:
            New arrays of n rows, the caller's. Buffers on the device, and those that it copies from, are the engine's.

        Raises:
            UserError: an input is not what the contract says, too many pairs or none, or the device failed.
            RuntimeError: it is not open, or another thread opened it.
        """

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


def check_num_pairs(num_pairs: int, batch_size: int | None) -> None:
    """Refuse a batch that an engine does not take in one run.

    Raises:
        UserError: no pair, or more than `batch_size` of them.
    """
    if num_pairs < 1 or (batch_size is not None and num_pairs > batch_size):
        most = "1 or more were" if batch_size is None else "1 was" if batch_size == 1 else f"1 to {batch_size} were"
        raise UserError(
            f"{num_pairs} pairs were given in one run, {most} expected: give fewer, or export again with --batch N"
        )


def padded(batch: NDArray[np.uint8], batch_size: int | None) -> NDArray[np.uint8]:
    """A batch of one or more, filled up to `batch_size` with its last pair: no statistics see an image that nobody gave."""
    missing = 0 if batch_size is None else batch_size - len(batch)
    return batch if missing <= 0 else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])
