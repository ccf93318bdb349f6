"""The whole `gated` model with both backbones at once: the gate depends on depth alone (equation 6).

    depth side   decode, encode, backbone, gate G, and what F_B * G adds to the first fully connected layer
    RGB side     decode, backbone: F_A
    end          F_A * (1 - G) through the other half of the first layer, ReLU, second layer

On a GPU the depth side runs on a second stream, both captured in one CUDA graph, so the whole takes little longer than the longer side.
Scope "two streams": from framed bytes on the GPU to logits on the GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import InputContract
from edgefuse.measure import Plan, Series, measure, ratio
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.model.fusion import GatedFusion
from edgefuse_benchmarks.report import Group
from edgefuse_benchmarks.suites.core_gpu import captured, replayed

if TYPE_CHECKING:
    from edgefuse.model.classifier import FusionClassifier

PLAN = Plan(warmup_s=0.02, min_warmup_calls=2, measure_s=0.6, min_rounds=20, max_rounds=60)
REPLAYS = 10
TOLERANCE = 1e-3
"""Of logits: the first layer is summed in two halves."""

PLAIN, TWO_STREAMS, RGB_SIDE, DEPTH_SIDE, CORE = "plain order", "two streams", "RGB side", "depth side", "core alone"


class TwoSides:
    """A `gated` model in eval mode, in two sides that do not need each other.

    Raises:
        ValueError: another fusion.
    """

    def __init__(self, model: FusionClassifier) -> None:
        fusion, head = model.core.fusion, model.core.head
        if not isinstance(fusion, GatedFusion) or head is None:
            raise ValueError("only the gate of `gated` depends on depth alone")
        first, second = head[0], head[3]
        assert isinstance(first, nn.Linear) and isinstance(second, nn.Linear)
        assert model.rgb_features is not None and model.depth_features is not None
        self.model, self.fusion, self.first, self.second = model, fusion, first, second
        self.rgb_features, self.depth_features = model.rgb_features, model.depth_features

    def rgb_side(self, rgb_NHWC: Tensor) -> Tensor:
        """RGB bytes -> F_A [N, d]."""
        return self.rgb_features(self.model.decode.of_rgb(rgb_NHWC))  # type: ignore[no-any-return]

    def depth_side(self, depth_NHW2: Tensor) -> tuple[Tensor, Tensor]:
        """Depth bytes -> gate [N, d], and its half of the first layer with the bias [N, hidden]."""
        depth = self.model.decode.of_depth(depth_NHW2)
        F_B = self.depth_features(self.model.encode(depth, self.model.nearest_surface(depth)))
        G = torch.sigmoid(self.fusion.W(F_B))
        return G, functional.linear(F_B * G, self.first.weight[:, G.shape[1] :], self.first.bias)

    def end(self, F_A: Tensor, G: Tensor, half: Tensor) -> Tensor:
        """Both sides -> logits."""
        other_half = functional.linear(F_A * (1 - G), self.first.weight[:, : G.shape[1]])
        return self.second(torch.relu(half + other_half))  # type: ignore[no-any-return]

    def __call__(
        self, rgb_NHWC: Tensor, depth_NHW2: Tensor, *, aside: torch.cuda.Stream | None = None
    ) -> tuple[Tensor, Tensor]:
        """Framed bytes -> logits and gate; the depth side runs on the stream `aside`, None = one side after the other."""
        if aside is None:
            G, half = self.depth_side(depth_NHW2)
            F_A = self.rgb_side(rgb_NHWC)
        else:
            aside.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(aside):
                G, half = self.depth_side(depth_NHW2)
            F_A = self.rgb_side(rgb_NHWC)
            torch.cuda.current_stream().wait_stream(aside)
        return self.end(F_A, G, half), G


@torch.no_grad()
def bench_streams(
    backbone: str, *, size: int = 224, plan: Plan = PLAN, seed: int = 0
) -> tuple[Group, list[dict[str, Any]]]:
    """Measure a model with this torchvision network for both sensors, on the GPU, at batch 1.

    Raises:
        ParityError: the two streams give other logits than the plain order; nothing was measured.
    """
    torch.manual_seed(seed)
    config = ModelConfig(
        contract=InputContract(size=size),
        num_classes=51,
        fusion="gated",
        rgb=backbone,
        depth=backbone,
        num_features=512,
        num_hidden=256,
    )
    model = build_classifier(config).eval().to("cuda")
    sides = TwoSides(model)
    aside = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    rgb, depth = (
        torch.randint(0, 256, (1, size, size, channels), dtype=torch.uint8, device="cuda") for channels in (3, 2)
    )
    F_A, F_B = torch.rand(2, 1, 512, device="cuda").unbind()

    runs: dict[str, Callable[[], Any]] = {
        PLAIN: lambda: model(rgb, depth)[:2],
        TWO_STREAMS: lambda: sides(rgb, depth, aside=aside),
        RGB_SIDE: lambda: sides.rgb_side(rgb),
        DEPTH_SIDE: lambda: sides.depth_side(depth),
        CORE: lambda: model.core(F_A, F_B),
    }
    replays = {name: captured([run]) for name, run in runs.items()}
    off: list[float] = []

    def check() -> list[str]:
        expected = [one.clone() for one in replays[PLAIN]()]
        off.extend(float((a - b).abs().max()) for a, b in zip(replays[TWO_STREAMS](), expected, strict=True))
        return [] if all(one <= TOLERANCE for one in off) else [f"{backbone}: logits and gate differ by {off}"]

    series = measure([replayed(name, run, count=REPLAYS) for name, run in replays.items()], plan=plan, check=check)
    compared = {
        "reference": f"{backbone}, {PLAIN}",
        "candidate": f"{backbone}, {TWO_STREAMS}",
        "max_logit_difference": off[0],
        "max_gate_difference": off[1],
        "tolerance": TOLERANCE,
    }
    return _group(backbone, size, series), [compared]


def _group(backbone: str, size: int, series: tuple[Series, ...]) -> Group:
    by_name = {one.name: one for one in series}
    longer = max((by_name[name] for name in (RGB_SIDE, DEPTH_SIDE)), key=lambda one: one.summary().p50_ns)
    whole, plain = by_name[TWO_STREAMS], by_name[PLAIN]
    return Group(
        scope="two streams",
        name=f"gated, two {backbone}, {size} x {size}, batch 1, CUDA graphs",
        series=series,
        ratios=(ratio(whole, longer), ratio(whole, plain), ratio(by_name[CORE], plain)),
        facts={"device": "cuda", "backbone": backbone, "size": size, "longer_side": longer.name},
    )
