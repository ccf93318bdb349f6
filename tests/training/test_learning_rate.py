from __future__ import annotations

import numpy as np
import pytest

from edgefuse.contract import InputContract
from edgefuse.model.classifier import ModelConfig, build_classifier
from edgefuse.training.loop import annealed_adam
from edgefuse.training.recipe import TrainConfig


@pytest.mark.parametrize("warm_up", [0.0, 0.1])
def test_every_rate_rises_over_the_warm_up_and_falls_along_a_cosine_to_a_hundredth(warm_up: float) -> None:
    model = build_classifier(ModelConfig(contract=InputContract(size=32), num_classes=2, rgb="mobilenet_v3_small"))
    model.rgb_features.backbone.pretrained = True  # type: ignore[union-attr]
    optimizer, schedule = annealed_adam(model, TrainConfig(warm_up=warm_up, pretrained_rate_scale=0.3), num_steps=100)
    rates = []
    for _ in range(101):
        rates.append(schedule.get_last_lr())
        optimizer.step()
        schedule.step()
    steps = np.arange(101)
    cosine = 1e-5 + (1e-3 - 1e-5) * 0.5 * (1 + np.cos(np.pi * steps / 100))  # the paper: 1e-3 to 1e-5
    expected = cosine * (np.minimum(1, (steps + 1) / 10) if warm_up else 1)
    np.testing.assert_allclose(rates, np.stack([expected, 0.3 * expected], axis=1), rtol=1e-9)
