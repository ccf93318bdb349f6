"""The temperature of a missing sensor in ONNX Runtime, whose mean over an image is less exact than PyTorch's."""

from __future__ import annotations

import io

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from edgefuse.contract import InputContract
from edgefuse.model.decode import InputDecoder
from edgefuse.model.sensor_temperature import SensorTemperature

SIZE = 128


class Scaled(nn.Module):
    """Bytes -> logits of 1, scaled."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = InputDecoder(InputContract(size=SIZE))
        self.sensor_temperature = SensorTemperature(both=1.0, no_rgb=4.0, no_depth=2.0)

    def forward(self, rgb: Tensor, depth: Tensor) -> Tensor:
        scaled: Tensor = self.sensor_temperature(torch.ones(1, 1), *self.decode(rgb, depth))
        return scaled


@pytest.mark.parametrize(("level", "code", "factor"), [(0, 3, 1 / 4), (128, 0, 1 / 2), (128, 3, 1.0), (0, 0, 1 / 8)])
def test_a_missing_sensor_scales_the_logits_fully_and_a_present_one_does_not(
    level: int, code: int, factor: float
) -> None:
    rgb = torch.full((1, SIZE, SIZE, 3), level, dtype=torch.uint8)
    depth = torch.full((1, SIZE, SIZE, 2), code, dtype=torch.uint8)
    model, file = Scaled().eval(), io.BytesIO()
    program = torch.onnx.export(model, (rgb, depth), dynamo=True, verbose=False)
    assert program is not None
    program.save(file)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    (found,) = session.run(
        None, dict(zip([i.name for i in session.get_inputs()], (rgb.numpy(), depth.numpy()), strict=True))
    )
    np.testing.assert_allclose(found, factor, rtol=2e-5)
    np.testing.assert_allclose(model(rgb, depth).detach().numpy(), factor, rtol=2e-5)
