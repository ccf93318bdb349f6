"""Finds the layers that the FP16 file keeps in FP32, by running the PyTorch model in emulated FP16 on the CPU."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgefuse.contract import Outputs
from edgefuse.evaluation.compare_outputs import ParityReport
from edgefuse.evaluation.metrics import Predictor
from edgefuse.model.classifier import FusionClassifier
from edgefuse.training.loop import torch_predictor
from edgefuse_export.onnx.activation_statistics import ITSELF, TorchActivationObserver
from edgefuse_export.onnx.calibration_data import Frames
from edgefuse_export.onnx.check_precision import inside
from edgefuse_export.onnx.emulated_fp16 import EmulatedFp16
from edgefuse_export.onnx.fp16 import FP16_MAX, FoldedModel, Fp16Model, folded_model, fp16_from_folded, fp32_modules
from edgefuse_export.onnx.layer_sensitivity import find_blocks

MAX_KNOWN_BYTES = 32 * 2**20
"""Largest output that is remembered, so that a search in large networks does not fill the memory."""


@dataclass(frozen=True, kw_only=True)
class Fp16Evaluation:
    """A model in FP16, and its comparison with the FP32 model."""

    fp16: Fp16Model
    report: ParityReport


@dataclass(frozen=True, kw_only=True)
class Fp16Search:
    """The FP16 model with any blocks in FP32.

    Attributes:
        model: in FP32.
        frames: real frames; the first shows which modules compute.
        keep_fp32: modules that stay in FP32 in any case, as glob patterns.
        compare: compares a predictor of this name with the model, on all frames and edge cases.
        kernels: makes the context that FP16 runs in; `nullcontext` for PyTorch's own FP16 kernels.
    """

    model: FusionClassifier
    frames: Frames
    keep_fp32: tuple[str, ...]
    compare: Callable[[Predictor, str], ParityReport]
    kernels: Callable[[], AbstractContextManager[Any]] = EmulatedFp16

    @cached_property
    def blocks(self) -> tuple[str, ...]:
        """The blocks that may stay in FP32."""
        return find_blocks(self.model, outside=fp32_modules(self.model, keep_fp32=self.keep_fp32))

    def fp16(self, blocks: Sequence[str]) -> Fp16Model:
        """The model in FP16, with `keep_fp32` and `blocks` in FP32."""
        return fp16_from_folded(self._folded, keep_fp32=(*self.keep_fp32, *blocks))

    def evaluate(self, blocks: Sequence[str]) -> Fp16Evaluation:
        """Compare the model in FP16, with `keep_fp32` and `blocks` in FP32, on all frames."""
        fp16 = self.fp16(blocks)
        observer = TorchActivationObserver(dtype=torch.float16)
        with self.kernels(), observer.on(fp16.model):
            report = self.compare(torch_predictor(fp16.model), "torch with its layers in emulated FP16 on the CPU")
        report = replace(report, activations=observer.activations.to_json(limit=FP16_MAX))
        return Fp16Evaluation(fp16=fp16, report=report)

    def alone(self, block: str) -> Predictor:
        """The model with `block` in FP16 and all others in FP32."""

        def emulated(rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Outputs:
            predict = torch_predictor(self._in_fp32)
            with self.kernels():
                batch = rgb.tobytes() + depth.tobytes()
                if batch not in self._batches:
                    self._batches.add(batch)
                    with self._learning():
                        predict(rgb, depth)
                with self._in_its_place(self._in_fp16.get_submodule(block), block):
                    return predict(rgb, depth)

        return emulated

    @contextmanager
    def _in_its_place(self, module: nn.Module, block: str) -> Iterator[None]:
        before = self._in_fp32.get_submodule(block)
        self._in_fp32.set_submodule(block, module)
        try:
            yield
        finally:
            self._in_fp32.set_submodule(block, before)

    @contextmanager
    def _learning(self) -> Iterator[None]:
        memories: list[Any] = [self._in_fp32.get_submodule(name).forward for name in self.blocks]
        for memory in memories:
            memory.learns = True
        try:
            yield
        finally:
            for memory in memories:
                memory.learns = False

    def overflows(self, found: Fp16Evaluation) -> str:
        """The layers that exceed the range of FP16, and the options that keep them in FP32; "" if there are none."""
        observer = TorchActivationObserver()
        with observer.on(self._folded.model):
            self.compare(torch_predictor(self._folded.model), "torch fp32")
        known = (ITSELF, *found.fp16.fp32_modules)
        over = [name for name in observer.activations.over(FP16_MAX) if not inside(name, known)]
        if not over:
            first_bad = next(iter((found.report.activations or {}).get("not_finite", {})), "")
            return f"the first layer with values that are not finite is {first_bad}" if first_bad else ""
        layers = ", ".join(f"{name} ({observer.activations.largest[name]:.3g})" for name in over)
        options = " ".join(f"--keep-fp32 '{name}'" for name in (*self.keep_fp32, *over))
        return (
            f"layers beyond {FP16_MAX:.0f}, the largest FP16 number: {layers}\n"
            f"Keep them in FP32: {options}; train with a smaller learning rate or weight decay; or "
            "export without FP16: --precision fp32"
        )

    @cached_property
    def _in_fp16(self) -> FusionClassifier:
        """The model whose blocks take the place of those of `_in_fp32`, one at a time."""
        return self.fp16(()).model

    @cached_property
    def _in_fp32(self) -> FusionClassifier:
        """The model with all blocks in FP32, which return known outputs for known inputs: those before a block in FP16 do not run."""
        model = self.fp16(self.blocks).model
        for name in self.blocks:
            module = model.get_submodule(name)
            module.forward = _Remembering(module.forward)
        return model

    @cached_property
    def _batches(self) -> set[bytes]:
        return set()

    @cached_property
    def _folded(self) -> FoldedModel:
        first = torch.from_numpy(self.frames.rgb[:1]), torch.from_numpy(self.frames.depth[:1])
        return folded_model(self.model, rgb_NHWC=first[0], depth_NHW2=first[1])


@dataclass
class _Remembering:
    """A module's `forward` that returns a known output for an input that is equal to a known one.

    Copies, because later operations may work in place.

    Attributes:
        learns: outputs for new inputs become known.
    """

    forward: Callable[..., Any]
    known: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    learns: bool = False

    def __call__(self, *args: Any) -> Any:
        if len(args) != 1:
            return self.forward(*args)
        (x,) = args
        for before, after in self.known:
            if torch.equal(before, x):
                return after.clone()
        before = x.clone() if self.learns else x
        result = self.forward(x)
        if self.learns and isinstance(result, Tensor) and result.nbytes <= MAX_KNOWN_BYTES:
            self.known.append((before, result.clone()))
        return result
