"""The fusion core as one Triton kernel for small batches: gate, fusion, both layers and softmax in a single launch.

    program i    rows i * ROWS ... of W: the gate of these features (equation 6), the features that it weighs (equation 7), and what they
                 add to the hidden units. The first layer is stored transposed, so that its weights of a feature lie together.
    the last     program reads the second layer, waits for the others and finishes: ReLU, second layer, softmax.

The others wait for none. The last one is started last on today's GPUs, so they end however few run at once; CUDA does not promise that. Every load of weights is issued before the first result is needed, so
the weights stream at the memory's rate. The sums over programs are atomic additions: their order, and with it the last bit, varies from run
to run. Arithmetic is FP32; the weights of the large layers are FP32 or FP16.

This module imports Triton, which comes with PyTorch's CUDA builds for Linux. With TRITON_INTERPRET=1 set before the import it runs on the
CPU.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
import triton
import triton.language as tl
from torch import Tensor, nn

from edgefuse.model.fusion import GatedFusion, JointFusion

if TYPE_CHECKING:
    from edgefuse.model.fusion import FusionCore

MAX_BATCH = 8
"""The weights are read once for the whole batch; above, a matrix product on tensor cores is the right tool."""

MAX_WIDTH = 4096
"""A program keeps whole rows of W in registers."""

NAIVE, GATED, JOINT = 0, 1, 2


@triton.jit  # type: ignore[untyped-decorator]
def _add_rows(  # type: ignore[no-untyped-def]  # noqa: PLR0917  # long: all loads before the first sum
    F_A,
    F_B,
    W,
    theta,
    first,
    hidden,
    arrived,
    gate,
    d: tl.constexpr,
    num_hidden: tl.constexpr,
    KIND: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
):
    """The gate of this program's features, and what they add to the hidden units."""
    units = tl.arange(0, H)
    is_unit = units < num_hidden
    rows = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    columns = tl.arange(0, D)
    is_row, is_column = rows < d, columns < d
    in_W = is_row[:, None] & is_column[None, :]
    in_first = is_row[:, None] & is_unit[None, :]
    if KIND == 1:
        W_B = tl.load(W + rows[:, None] * d + columns[None, :], mask=in_W, other=0.0)
    if KIND == 2:
        W_A = tl.load(W + rows[:, None] * (2 * d) + columns[None, :], mask=in_W, other=0.0)
        W_B = tl.load(W + rows[:, None] * (2 * d) + d + columns[None, :], mask=in_W, other=0.0)
    if KIND >= 1:
        theta_rows = tl.load(theta + rows, mask=is_row, other=0.0)
    first_A = tl.load(first + rows[:, None] * num_hidden + units[None, :], mask=in_first, other=0.0)
    first_B = tl.load(first + (d + rows[:, None]) * num_hidden + units[None, :], mask=in_first, other=0.0)
    for n in range(BATCH):
        a = tl.load(F_A + n * d + rows, mask=is_row, other=0.0).to(tl.float32)
        b = tl.load(F_B + n * d + rows, mask=is_row, other=0.0).to(tl.float32)
        if KIND >= 1:
            x_B = tl.load(F_B + n * d + columns, mask=is_column, other=0.0).to(tl.float32)
            z = tl.sum(W_B.to(tl.float32) * x_B[None, :], axis=1)
            if KIND == 2:
                x_A = tl.load(F_A + n * d + columns, mask=is_column, other=0.0).to(tl.float32)
                z += tl.sum(W_A.to(tl.float32) * x_A[None, :], axis=1)
            G = tl.sigmoid(z + theta_rows)
            a *= 1 - G
            b *= G
        else:
            G = tl.full((ROWS,), 0.5, tl.float32)
        tl.store(gate + n * d + rows, G, mask=is_row)
        part = tl.sum(first_A.to(tl.float32) * a[:, None] + first_B.to(tl.float32) * b[:, None], axis=0)
        tl.atomic_add(hidden + n * num_hidden + units, part, mask=is_unit, sem="relaxed")
    tl.debug_barrier()  # all additions of this program come before its arrival
    tl.atomic_add(arrived, 1, sem="release")


@triton.jit  # type: ignore[untyped-decorator]
def _finish(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    first_bias,
    second,
    second_bias,
    hidden,
    arrived,
    probabilities,
    num_others,
    num_hidden: tl.constexpr,
    num_classes: tl.constexpr,
    BATCH: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """Read the second layer, wait for the other programs, and compute the probabilities. Sums and count are 0 again afterwards."""
    units = tl.arange(0, H)
    is_unit = units < num_hidden
    classes = tl.arange(0, C)
    is_class = classes < num_classes
    in_second = is_class[:, None] & is_unit[None, :]
    V = tl.load(second + classes[:, None] * num_hidden + units[None, :], mask=in_second, other=0.0).to(tl.float32)
    v = tl.load(second_bias + classes, mask=is_class, other=0.0)
    h_bias = tl.load(first_bias + units, mask=is_unit, other=0.0)
    while tl.atomic_add(arrived, 0, sem="acquire") < num_others:
        pass
    tl.debug_barrier()
    for n in range(BATCH):
        place = hidden + n * num_hidden + units
        h = tl.load(place, mask=is_unit, other=0.0, cache_modifier=".cg")  # from L2, where the additions are
        h = tl.maximum(h + h_bias, 0.0)
        logits = tl.where(is_class, tl.sum(V * h[None, :], axis=1) + v, float("-inf"))
        powers = tl.exp(logits - tl.max(logits, axis=0))
        tl.store(probabilities + n * num_classes + classes, powers / tl.sum(powers, axis=0), mask=is_class)
    tl.debug_barrier()  # every thread has read the sums
    for n in range(BATCH):
        tl.store(hidden + n * num_hidden + units, tl.zeros((H,), tl.float32), mask=is_unit)
    tl.store(arrived, 0)


@triton.jit  # type: ignore[untyped-decorator]
def core_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    F_A,
    F_B,
    W,
    theta,
    first,
    first_bias,
    second,
    second_bias,
    hidden,
    arrived,
    probabilities,
    gate,
    d: tl.constexpr,
    num_hidden: tl.constexpr,
    num_classes: tl.constexpr,
    KIND: tl.constexpr,
    BATCH: tl.constexpr,
    ROWS: tl.constexpr,
    D: tl.constexpr,
    H: tl.constexpr,
    C: tl.constexpr,
):
    """W [d, d or 2 d], first [2 d, num_hidden], second [num_classes, num_hidden]; D, H, C: the next powers of two."""
    last = tl.num_programs(0) - 1
    if tl.program_id(0) < last:
        _add_rows(F_A, F_B, W, theta, first, hidden, arrived, gate, d, num_hidden, KIND, BATCH, ROWS, D, H)
    else:
        _finish(
            first_bias, second, second_bias, hidden, arrived, probabilities, last, num_hidden, num_classes, BATCH, H, C
        )


@triton.jit  # type: ignore[untyped-decorator]
def heads_kernel(  # type: ignore[no-untyped-def]  # noqa: PLR0917
    F_A,
    F_B,
    frame_gate,
    V_A,
    v_A,
    V_B,
    v_B,
    logits,
    arrived,
    probabilities,
    d: tl.constexpr,
    num_classes: tl.constexpr,
    BATCH: tl.constexpr,
    D: tl.constexpr,
    C: tl.constexpr,
):
    """The answer of a core with a frame gate; one program a class."""
    row = tl.program_id(0)
    columns = tl.arange(0, D)
    is_column = columns < d
    w_A = tl.load(V_A + row * d + columns, mask=is_column, other=0.0)
    w_B = tl.load(V_B + row * d + columns, mask=is_column, other=0.0)
    bias_A, bias_B = tl.load(v_A + row), tl.load(v_B + row)
    for n in range(BATCH):
        G = tl.load(frame_gate + n)
        x_A = tl.load(F_A + n * d + columns, mask=is_column, other=0.0).to(tl.float32)
        x_B = tl.load(F_B + n * d + columns, mask=is_column, other=0.0).to(tl.float32)
        logit_A = tl.sum(w_A.to(tl.float32) * x_A, axis=0) + bias_A
        logit_B = tl.sum(w_B.to(tl.float32) * x_B, axis=0) + bias_B
        tl.store(logits + n * num_classes + row, 2 * ((1 - G) * logit_A + G * logit_B))
    tl.debug_barrier()
    if tl.atomic_add(arrived, 1, sem="acq_rel") == num_classes - 1:
        classes = tl.arange(0, C)
        is_class = classes < num_classes
        for n in range(BATCH):
            place = logits + n * num_classes + classes
            found = tl.load(place, mask=is_class, other=float("-inf"), cache_modifier=".cg")
            powers = tl.exp(found - tl.max(found, axis=0))
            tl.store(probabilities + n * num_classes + classes, powers / tl.sum(powers, axis=0), mask=is_class)
        tl.store(arrived, 0)


class FusedCore:
    """A core of any kind for a fixed batch size, with softmax: (F_A, F_B[, frame gate]) -> probabilities [N, C] and gate.

    A call writes into the same two tensors each time, allocates nothing, and can be captured in a CUDA graph. Calls must not overlap.

    Args:
        core: in eval mode, on the device to run on.
        weights: precision of the weights of the gate and of the first layer, torch.float32 or torch.float16.
        rows: rows of W of a program; None = `default_rows`.
    """

    def __init__(
        self, core: FusionCore, *, batch: int, weights: torch.dtype = torch.float32, rows: int | None = None
    ) -> None:
        if not 1 <= batch <= MAX_BATCH:
            raise ValueError(f"batch {batch}: 1 to {MAX_BATCH} was expected")
        self.batch, heads = batch, core.auxiliary_heads
        if core.fusion is None:
            assert heads is not None
            self.width, device = heads.rgb.in_features, heads.rgb.weight.device
            large = [
                (one.weight.detach().to(weights).contiguous(), _plain(one.bias)) for one in (heads.rgb, heads.depth)
            ]
            self._weights = [*large[0], *large[1]]
            self._num_classes, self._num_hidden = heads.rgb.out_features, heads.rgb.out_features
        else:
            assert core.head is not None
            first, second = core.head[0], core.head[3]
            assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
            self.width, device = first.in_features // 2, first.weight.device
            self._kind = {GatedFusion: GATED, JointFusion: JOINT}.get(type(core.fusion), NAIVE)
            gate = getattr(core.fusion, "W", first)  # `naive` has no W: its pointer is not read
            self._weights = [
                gate.weight.detach().to(weights).contiguous(),
                _plain(gate.bias),
                first.weight.detach().to(weights).t().contiguous(),
                _plain(first.bias),
                _plain(second.weight),
                _plain(second.bias),
            ]
            self._num_hidden, self._num_classes = first.out_features, second.out_features
        if self.width > MAX_WIDTH:
            raise ValueError(f"d is {self.width}: at most {MAX_WIDTH} was expected")
        self.rows = rows or default_rows(self.width)
        self._is_spatial = core.fusion is None
        self._sums = torch.zeros(batch, self._num_hidden, device=device)
        self._arrived = torch.zeros(1, dtype=torch.int32, device=device)
        self.probabilities = torch.empty(batch, self._num_classes, device=device)
        self.gate = torch.empty(batch, self.width, device=device)

    def __call__(self, F_A: Tensor, F_B: Tensor, frame_gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """One launch. Features [N, d] and, for a core with a frame gate, that gate [N, 1]; contiguous, on the device of the core."""
        d, D = self.width, triton.next_power_of_2(self.width)
        sizes: dict[str, Any] = {"d": d, "num_classes": self._num_classes, "BATCH": self.batch, "D": D}
        sizes["C"] = triton.next_power_of_2(self._num_classes)
        if self._is_spatial:
            assert frame_gate is not None
            heads_kernel[self._num_classes,](
                *(F_A, F_B, frame_gate, *self._weights, self._sums, self._arrived, self.probabilities),
                **sizes,
                num_warps=min(8, max(1, D // 128)),
            )
            return self.probabilities, frame_gate
        core_kernel[triton.cdiv(d, self.rows) + 1,](
            *(F_A, F_B, *self._weights, self._sums, self._arrived, self.probabilities, self.gate),
            **sizes,
            num_hidden=self._num_hidden,
            KIND=self._kind,
            ROWS=self.rows,
            H=triton.next_power_of_2(self._num_hidden),
            num_warps=num_warps(rows=self.rows, width=D),
        )
        return self.probabilities, self.gate


def default_rows(width: int) -> int:
    """Rows of W of a program: about 128 programs, one for each multiprocessor. The fastest of three on an H100 at each width from 256 to 2048."""
    return int(max(1, min(16, triton.next_power_of_2(width) // 128)))


def num_warps(*, rows: int, width: int) -> int:
    """Warps of a program: 32 weights of W a thread, 8 to 16 warps; 8, because the last program reads the second layer alone."""
    return int(min(16, max(8, triton.next_power_of_2(rows * width) // 1024)))


def _plain(weights: Tensor) -> Tensor:
    return weights.detach().float().contiguous()


@triton.jit
def nothing_kernel(x):  # type: ignore[no-untyped-def]
    """An empty kernel: its time is that of a launch."""


@triton.jit  # type: ignore[untyped-decorator]
def read_kernel(x, sums, num_passes, BLOCK: tl.constexpr, BLOCKS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Read an FP32 buffer of num_programs * BLOCKS * BLOCK values `num_passes` times, past L1, each time by other programs."""
    program, num_programs = tl.program_id(0), tl.num_programs(0)
    offsets = tl.arange(0, BLOCK)
    total = tl.zeros((BLOCK,), tl.float32)
    for number in range(num_passes):
        start = ((program + 17 * number) % num_programs).to(tl.int64) * (BLOCKS * BLOCK)
        for block in tl.static_range(BLOCKS):
            total += tl.load(x + start + block * BLOCK + offsets, cache_modifier=".cg")
    tl.store(sums + program, tl.sum(total, axis=0))
