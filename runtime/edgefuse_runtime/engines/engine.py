"""The `Engine` protocol: a bundle's model, ready to run on batches of framed pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import EXPORT_AGAIN, Bundle, Manifest
from edgefuse.contract import DEPTH_INPUT, PROBABILITIES_OUTPUT, RGB_INPUT, InputContract, Outputs
from edgefuse.errors import UserError

NOT_FINITE = "the model's output is not finite"


@dataclass(frozen=True, kw_only=True)
class Decision:
    """A model's outputs for n pairs. The caller owns the arrays.

    Attributes:
        probabilities: float32 [n, C], in the order of the engine's labels.
        gate: float32 [n, d]; 0 = all from RGB, 1 = all from depth.
        nearest_m: float32 [n], metres to the nearest surface, 0 = no measurement; None if the bundle has no such output.
        from_depth: bool [n], whether depth alone answered; None without adaptive computing.
    """

    probabilities: NDArray[np.float32]
    gate: NDArray[np.float32]
    nearest_m: NDArray[np.float32] | None = None
    from_depth: NDArray[np.bool_] | None = None

    @classmethod
    def of(cls, outputs: Outputs) -> Decision:
        """From the outputs of the graph, where `nearest_m` is [n, 1]."""
        nearest_m = None if outputs.nearest_m is None else outputs.nearest_m[:, 0]
        return cls(probabilities=outputs.probabilities, gate=outputs.gate, nearest_m=nearest_m)

    @property
    def outputs(self) -> Outputs:
        """The inverse of `of`."""
        return Outputs(self.probabilities, self.gate, None if self.nearest_m is None else self.nearest_m[:, np.newaxis])

    def rows(self, first: int, end: int) -> Decision:
        """The outputs of some of the pairs."""
        part = slice(first, end)
        return Decision(
            probabilities=self.probabilities[part],
            gate=self.gate[part],
            nearest_m=None if self.nearest_m is None else self.nearest_m[part],
            from_depth=None if self.from_depth is None else self.from_depth[part],
        )

    @property
    def is_finite(self) -> bool:
        """Whether the outputs have no NaN and no infinity, which come from FP16 overflow or corrupted weights."""
        return all(np.isfinite(array).all() for array in self.outputs if array is not None)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """One named input or output of an engine.

    Attributes:
        dtype: NumPy's name of the type, such as "uint8".
        shape: sizes, batch first; a name such as "N" for a dynamic size.
    """

    name: str
    dtype: str
    shape: tuple[int | str, ...]


class Engine(Protocol):
    """A model ready to run. `with engine:` loads it and runs it once as a warm-up; the constructor loads nothing.

    Open, run and close an engine in the same thread.
    """

    @property
    def labels(self) -> tuple[str, ...]:
        """Class names in the order of the probabilities."""

    @property
    def contract(self) -> InputContract:
        """The definition of the inputs."""

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """The inputs according to the loaded file; complete while it is open."""

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        """The outputs according to the loaded file; complete while it is open."""

    @property
    def description(self) -> dict[str, Any]:
        """Engine, file, provider, precision, start-up time and more, as JSON values; complete while it is open."""

    @property
    def batch_size(self) -> int | None:
        """Maximum number of pairs in one `run`; None = unlimited. Valid while it is open."""

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """Run the model on n pairs, 1 <= n <= `batch_size`.

        If the file has a fixed batch, a shorter one is padded with its last pair, and takes as long as a full one.

        Args:
            rgb: uint8 [n, S, S, 3], RGB order. Not referenced after the call.
            depth: uint8 [n, S, S, 2], the contract's bytes. Not referenced after the call.

        Returns:
            New arrays with n rows, owned by the caller.

        Raises:
            UserError: an input does not match the contract, the number of pairs is 0 or too large, or the device failed.
            RuntimeError: the engine is not open, or was opened by another thread.
        """

    def __enter__(self) -> Engine: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class OfBundle:
    """The properties of an engine that its bundle defines."""

    _bundle: Bundle

    @property
    def labels(self) -> tuple[str, ...]:
        return self._bundle.manifest.labels

    @property
    def contract(self) -> InputContract:
        return self._bundle.manifest.contract


def check_num_pairs(num_pairs: int, batch_size: int | None) -> None:
    """Refuse a batch that is empty or too large for one run.

    Raises:
        UserError: no pair, or more than `batch_size` of them.
    """
    if num_pairs < 1 or (batch_size is not None and num_pairs > batch_size):
        most = "1 or more were" if batch_size is None else "1 was" if batch_size == 1 else f"1 to {batch_size} were"
        raise UserError(f"one run got {num_pairs} pairs, {most} expected: pass fewer, or export again with --batch N")


def padded(batch: NDArray[np.uint8], batch_size: int | None) -> NDArray[np.uint8]:
    """A batch of one or more, padded to `batch_size` with its last pair."""
    missing = 0 if batch_size is None else batch_size - len(batch)
    return batch if missing <= 0 else np.concatenate([batch, np.repeat(batch[-1:], missing, axis=0)])


def check_tensors(inputs: Sequence[Tensor], outputs: Sequence[Tensor], manifest: Manifest, *, where: str) -> None:
    """Refuse an ONNX file whose inputs or outputs differ from the manifest.

    Args:
        where: the file, for the message.

    Raises:
        UserError: they differ.
    """
    side, batch_size = manifest.contract.size, manifest.batch_size
    channels = {RGB_INPUT: 3, DEPTH_INPUT: 2}
    found_inputs, found_outputs = ({one.name: one for one in tensors} for tensors in (inputs, outputs))
    for name, num_channels in channels.items():
        one = found_inputs.get(name)
        batch_fits = one is not None and one.shape[:1] and (one.shape[0] == batch_size or isinstance(one.shape[0], str))
        if one is None or one.dtype != "uint8" or not batch_fits or one.shape[1:] != (side, side, num_channels):
            found = "nothing" if one is None else f"{one.dtype} {list(one.shape)}"
            required = [batch_size or "N", side, side, num_channels]
            raise UserError(
                f"{where} has {found} as the input {name}, its manifest requires uint8 {required}: {EXPORT_AGAIN}"
            )
    missing, extra = set(manifest.contract.outputs) - set(found_outputs), set(found_inputs) - set(channels)
    if missing or extra:
        raise UserError(
            f"{where} lacks the outputs {sorted(missing)} or has unexpected inputs {sorted(extra)}: {EXPORT_AGAIN}"
        )
    for name in manifest.contract.outputs:
        one = found_outputs[name]
        if one.dtype != "float32" or len(one.shape) != 2:
            raise UserError(
                f"{where} has {one.dtype} {list(one.shape)} as the output {name}, float32 with two dimensions was expected: "
                f"{EXPORT_AGAIN}"
            )
    num_classes = found_outputs[PROBABILITIES_OUTPUT].shape[-1]
    if isinstance(num_classes, int) and num_classes != len(manifest.labels):
        raise UserError(
            f"{where} has {num_classes} classes, but its manifest has {len(manifest.labels)} labels: {EXPORT_AGAIN}"
        )


def check_decision(decision: Decision, manifest: Manifest, *, num_pairs: int, where: str) -> None:
    """Refuse an ONNX file whose outputs for `num_pairs` pairs do not have their number, or not the manifest's classes.

    Raises:
        UserError: they do not.
    """
    shape = decision.probabilities.shape
    if shape != (num_pairs, len(manifest.labels)) or len(decision.gate) != num_pairs:
        raise UserError(
            f"{where} outputs {list(shape)} probabilities for {num_pairs} pair(s), but its manifest has "
            f"{len(manifest.labels)} labels: {EXPORT_AGAIN}"
        )
