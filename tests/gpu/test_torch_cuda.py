"""torch on CUDA against torch on the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from gpu_figures import Record

from edgefuse.contract import InputContract
from edgefuse.model.choices import FUSION_KINDS
from edgefuse_runtime.engines.cuda_device import Gpu

pytestmark = pytest.mark.gpu

TOLERANCE = 1e-4


@pytest.mark.parametrize("fusion", FUSION_KINDS)
def test_every_fusion_answers_on_cuda_as_on_the_cpu(
    gpu: Gpu, fusion: str, record_property: Record, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch", reason="torch is not installed")
    if not torch.cuda.is_available():
        pytest.skip(f"torch {torch.__version__} has no CUDA")
    from edgefuse.model.classifier import ModelConfig, build_classifier
    from edgefuse.training.loop import torch_predictor

    # TF32 rounds to 10 bits of mantissa, and convolutions take it unasked.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    torch.manual_seed(0)
    model = build_classifier(ModelConfig(contract=InputContract(size=64), num_classes=5, fusion=fusion)).eval()  # type: ignore[arg-type]
    rng = np.random.default_rng(0)
    rgb, depth = (rng.integers(0, 256, (8, 64, 64, channels), dtype=np.uint8) for channels in (3, 2))
    expected = torch_predictor(model)(rgb, depth)
    found = torch_predictor(model.to("cuda"))(rgb, depth)
    off = [float(np.abs(a - b).max()) for a, b in zip(expected, found, strict=True)]
    record_property("torch", torch.__version__)
    record_property("cuda", torch.version.cuda)
    record_property("probability_off", off[0])
    record_property("gate_off", off[1])
    assert max(off) <= TOLERANCE
