from __future__ import annotations

import numpy as np
import pytest
import torch

from edgefuse.errors import UserError
from edgefuse.model.choices import FUSION_KINDS
from edgefuse.model.fusion import FusionCore, GatedFusion, JointFusion, build_fusion


def features(n: int = 5, d: int = 12) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    return torch.randn(n, d), torch.randn(n, d)


def test_the_gate_is_equations_6_and_7_of_the_paper() -> None:
    """A NumPy transcription: G = phi(W F^B + theta), F^O = {F^A (1 - G) (x) F^B G}, phi the logistic function."""
    F_A, F_B = features()
    fusion = GatedFusion(12)
    F_O, G = fusion(F_A, F_B)

    W, theta = fusion.W.weight.detach().numpy(), fusion.W.bias.detach().numpy()
    a, b = F_A.numpy(), F_B.numpy()
    expected_G = 1 / (1 + np.exp(-(b @ W.T + theta)))
    expected_F_O = np.concatenate([a * (1 - expected_G), b * expected_G], axis=1)
    np.testing.assert_allclose(G.detach().numpy(), expected_G, atol=1e-6)
    np.testing.assert_allclose(F_O.detach().numpy(), expected_F_O, atol=1e-6)


def test_the_papers_gate_uses_depth_only_and_the_joint_gate_uses_both() -> None:
    F_A, F_B = features()
    gated, joint = GatedFusion(12), JointFusion(12)
    assert torch.equal(gated(F_A, F_B)[1], gated(F_A * 0, F_B)[1])
    assert not torch.equal(joint(F_A, F_B)[1], joint(F_A * 0, F_B)[1])
    assert not torch.equal(joint(F_A, F_B)[1], joint(F_A, F_B * 0)[1])


@pytest.mark.parametrize(("kind", "gate"), [("naive", 0.5), ("rgb", 0.0), ("depth", 1.0)])
def test_fusions_without_a_gate_return_a_constant(kind: str, gate: float) -> None:
    F_A, F_B = features()
    F_O, G = build_fusion(kind, num_features=12)(F_A, F_B)
    assert (gate == G).all() and G.shape == F_A.shape
    if kind != "depth":
        assert torch.equal(F_O[:, :12], F_A)
    if kind != "rgb":
        assert torch.equal(F_O[:, -12:], F_B)


@pytest.mark.parametrize("kind", FUSION_KINDS)
def test_gradients_reach_the_core_through_every_fusion(kind: str) -> None:
    core = FusionCore(kind=kind, num_features=12, num_hidden=8, num_classes=3)  # type: ignore[arg-type]
    F_A, F_B = (f.requires_grad_() for f in features())
    logits, gate = core(F_A, F_B)
    assert logits.shape == (5, 3) and gate.shape == (5, 12)
    assert ((gate >= 0) & (gate <= 1)).all()
    logits.sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in core.parameters())
    assert (F_A.grad is not None) == (kind != "depth") and (F_B.grad is not None) == (kind != "rgb")


def test_spatial_predicts_with_the_gated_sum_of_both_heads() -> None:
    """A NumPy transcription: 2 (V_A (F_A (1 - G)) + V_B (F_B G)) + b_A + b_B."""
    F_A, F_B = features()
    core = FusionCore(kind="spatial", num_features=12, num_hidden=8, num_classes=3, auxiliary_heads=True)
    assert core.auxiliary_heads is not None and core.head is None
    logits, gate = core(F_A, F_B)
    vote_A, vote_B = core.auxiliary_heads.alone(F_A, F_B)
    assert (gate == 0.5).all(), "before it has learned anything both votes count alike"
    torch.testing.assert_close(logits, vote_A + vote_B)

    torch.nn.init.normal_(core.fusion.W.weight)  # type: ignore[union-attr, arg-type]
    logits, gate = core(F_A, F_B)
    G, a, b = gate.detach().numpy(), F_A.numpy(), F_B.numpy()
    V_A, V_B = (layer.weight.detach().numpy() for layer in (core.auxiliary_heads.rgb, core.auxiliary_heads.depth))
    bias = (core.auxiliary_heads.rgb.bias + core.auxiliary_heads.depth.bias).detach().numpy()
    np.testing.assert_allclose(logits.detach().numpy(), 2 * ((a * (1 - G)) @ V_A.T + (b * G) @ V_B.T) + bias, atol=1e-5)


@pytest.mark.parametrize("kind", FUSION_KINDS)
def test_auxiliary_heads_change_only_spatial_and_a_single_modality_has_none(kind: str) -> None:
    core = FusionCore(kind=kind, num_features=12, num_hidden=8, num_classes=3, auxiliary_heads=True)  # type: ignore[arg-type]
    assert (core.auxiliary_heads is None) == (kind in ("rgb", "depth"))
    if core.auxiliary_heads is None or kind == "spatial":
        return
    before = core(*features())[0]
    torch.nn.init.zeros_(core.auxiliary_heads.rgb.weight)
    torch.testing.assert_close(core(*features())[0], before)


def test_an_unknown_fusion_is_named() -> None:
    with pytest.raises(UserError, match="fusion is 'sum'"):
        build_fusion("sum", num_features=4)
