"""Fusion of two feature vectors: the paper's gate, its baseline, and single modalities, behind one interface.

    F_A  float [N, d]   features of the RGB image
    F_B  float [N, d]   features of the depth map
    G    float [N, d]   the gate: 0 = this feature comes from RGB, 1 = it comes from depth
    F_O  float [N, m]   input of the fully connected layers (m = `num_outputs`)

Every fusion maps (F_A, F_B) to (F_O, G). Fusions without a gate return a constant G.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from edgefuse.errors import UserError
from edgefuse.model.choices import FUSION_KINDS, SINGLE_MODALITIES, FusionKind
from edgefuse.model.full_precision import in_fp32


class GatedFusion(nn.Module):
    """The paper's modality gate, equations 6 and 7. Its "log-sigmoid" is the logistic function."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.W = nn.Linear(num_features, num_features)  # weight W and bias theta
        self.num_outputs = 2 * num_features

    def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        G = torch.sigmoid(self.W(F_B))  # equation 6
        F_O = torch.cat([F_A * (1 - G), F_B * G], dim=1)  # equation 7
        return F_O, G


class JointFusion(nn.Module):
    """Equation 6 with both features in the gate, so that it can also react to a dark or missing RGB image (ours)."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.W = nn.Linear(2 * num_features, num_features)
        self.num_outputs = 2 * num_features

    def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        G = torch.sigmoid(self.W(torch.cat([F_A, F_B], dim=1)))
        return torch.cat([F_A * (1 - G), F_B * G], dim=1), G


class NaiveFusion(nn.Module):
    """Plain concatenation, the paper's baseline "NF". It returns a constant gate of 0.5."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = 2 * num_features

    def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        return torch.cat([F_A, F_B], dim=1), torch.full_like(F_B, 0.5)


class RgbOnly(nn.Module):
    """RGB only; it returns a constant gate of 0."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features

    def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        return F_A, torch.zeros_like(F_A)


class DepthOnly(nn.Module):
    """Depth only; it returns a constant gate of 1."""

    def __init__(self, num_features: int) -> None:
        super().__init__()
        self.num_outputs = num_features

    def forward(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        return F_B, torch.ones_like(F_B)


class AuxiliaryHeads(nn.Module):
    """One linear classifier for each modality. `spatial` predicts with their gated sum.

        logits_A = V_A F_A + b_A,  logits_B = V_B F_B + b_B                [N, C] each
        logits = 2 (V_A (F_A * (1 - G)) + V_B (F_B * G)) + b_A + b_B      equation 7, then one linear layer

    At G = 0.5 this is logits_A + logits_B, a product of both probabilities. Each head has its own loss
    (`TrainConfig.aux_loss_weight`), so each backbone learns to classify without the other. With a frame gate, G is one number [N, 1]
    and weighs the biases too: logits = 2 ((1 - G) logits_A + G logits_B).
    """

    def __init__(self, num_features: int, *, num_classes: int) -> None:
        super().__init__()
        self.rgb = nn.Linear(num_features, num_classes)
        self.depth = nn.Linear(num_features, num_classes)

    def forward(self, F_O: Tensor) -> Tensor:
        """The gated sum, from equation 7's features: [N, 2 d] -> logits [N, C]."""
        of_rgb, of_depth = (2 * F_O).chunk(2, dim=1)
        return self.rgb(of_rgb) + self.depth(of_depth)  # type: ignore[no-any-return]

    def alone(self, F_A: Tensor, F_B: Tensor) -> tuple[Tensor, Tensor]:
        """The logits of each head, [N, C] each."""
        return self.rgb(F_A), self.depth(F_B)


class WeightedSum(nn.Module):
    """The answer of a core with a frame gate. A module of its own, in FP32, so that the core only passes the features on."""

    @in_fp32
    def forward(self, logits_A: Tensor, logits_B: Tensor, G: Tensor) -> Tensor:
        """Logits of both heads [N, C] and the frame gate [N, 1] -> logits [N, C]."""
        return 2 * ((1 - G) * logits_A + G * logits_B)


class FusionCore(nn.Module):
    """Gate, fusion and the last layers: everything after the features. The core benchmark measures this part alone.

    The last layers are the paper's two fully connected ones or, for `spatial` with auxiliary heads, their gated sum. With `frame_gate`, the
    gate comes from `edgefuse.model.frame_gate` and not from the features.

    Attributes:
        auxiliary_heads: a classifier for each modality; None if disabled, or with a single modality. All fusions but `spatial` use
            them in training only, and do not export them.
    """

    def __init__(
        self,
        *,
        kind: FusionKind,
        num_features: int,
        num_hidden: int,
        num_classes: int,
        dropout: float = 0.0,
        auxiliary_heads: bool = False,
        frame_gate: bool = False,
    ) -> None:
        super().__init__()
        fusion = None if frame_gate else build_fusion(kind, num_features=num_features)
        self.fusion = fusion
        self.auxiliary_heads = (
            AuxiliaryHeads(num_features, num_classes=num_classes)
            if auxiliary_heads and kind not in SINGLE_MODALITIES
            else None
        )
        self.head = None
        self.weighted_sum = WeightedSum() if fusion is None else None
        if fusion is None:
            assert self.auxiliary_heads is not None
        elif kind == "spatial" and self.auxiliary_heads is not None:
            assert isinstance(fusion, JointFusion)
            nn.init.zeros_(fusion.W.weight)  # the gate starts at 0.5: both heads have equal weight
            nn.init.zeros_(fusion.W.bias)
        else:
            self.head = nn.Sequential(
                nn.Linear(fusion.num_outputs, num_hidden),
                nn.ReLU(),
                nn.Dropout(dropout),
                nn.Linear(num_hidden, num_classes),
            )

    def forward(self, F_A: Tensor, F_B: Tensor, frame_gate: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Features [N, d] of both images, and the frame gate [N, 1] of a core that has one -> logits [N, C] and gate [N, d or 1]."""
        if self.fusion is None:
            assert self.auxiliary_heads is not None and self.weighted_sum is not None and frame_gate is not None
            return self.weighted_sum(*self.auxiliary_heads.alone(F_A, F_B), frame_gate), frame_gate
        F_O, G = self.fusion(F_A, F_B)
        if self.head is not None:
            return self.head(F_O), G
        assert self.auxiliary_heads is not None
        return self.auxiliary_heads(F_O), G


_FUSIONS: dict[str, type[GatedFusion | JointFusion | NaiveFusion | RgbOnly | DepthOnly]] = {
    "gated": GatedFusion,
    "naive": NaiveFusion,
    "rgb": RgbOnly,
    "depth": DepthOnly,
    "joint": JointFusion,
    "spatial": JointFusion,  # after `edgefuse.model.spatial_gate` has masked the image
}


def build_fusion(kind: str, *, num_features: int) -> GatedFusion | JointFusion | NaiveFusion | RgbOnly | DepthOnly:
    """The fusion of that name over feature vectors of width d = `num_features`.

    Raises:
        UserError: no fusion has that name.
    """
    if kind not in _FUSIONS:
        raise UserError(f"fusion is {kind!r}: one of {', '.join(FUSION_KINDS)} was expected")
    return _FUSIONS[kind](num_features)
