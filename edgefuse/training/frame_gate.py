"""Trains the frame gate of a finished `spatial` model, on pairs with one corrupted sensor. The rest of the model does not change.

The target of G follows from what was done to a pair:

    both images good                    `TRUSTED`
    RGB corrupted, depth corrupted      towards 1, towards 0: with the square root of the strength, at most `RGB_WAY`, `DEPTH_WAY`
    RGB missing, depth missing          `RGB_MISSING`, `DEPTH_MISSING`

Only a part of the way, because a damaged image still helps: the sum of both heads is right more often than the better head alone. Targets from the
losses of the two heads were tried and do not find the damaged sensor, because the RGB head also sees the outline that depth cuts out and
is right even without RGB (benchmarks/results/gate.md).
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgefuse.contract import InputContract, bytes_from_codes, codes_from_bytes
from edgefuse.data.augmentation import Augmentation, augment
from edgefuse.data.dataset import RgbdDataset
from edgefuse.evaluation.corruptions import CORRUPTIONS, Corruption, Scene, corrupt
from edgefuse.evaluation.metrics import framed_batches
from edgefuse.framing import Framed
from edgefuse.model.classifier import FusionClassifier
from edgefuse.model.frame_gate import TRUSTED, FrameGate

MIN_PAIRS, MAX_PAIRS = 600, 2400
"""Pairs to train on: two for each training pair, within these limits."""
NUM_STEPS = 300
LEARNING_RATE = 0.03
WEIGHT_PENALTY = 1e-3
RGB_MISSING, DEPTH_MISSING = 0.92, 0.06
RGB_WAY, DEPTH_WAY = 0.3, 0.5
"""On held-out sequences, 0.3 for RGB cost the answers less than 0.5, and the gate found the damaged sensor nearly as often."""
_BATCH = 64
_WEAK = {"warm_light": 0.5, "cold_light": 0.5}
"""Coloured light hardly costs accuracy, so its strength counts half."""


def train_frame_gate(
    model: FusionClassifier,
    train: RgbdDataset,
    clean: RgbdDataset,
    *,
    contract: InputContract,
    augmentation: Augmentation,
    seed: int,
) -> None:
    """Train `model.frame_gate` in place.

    Args:
        train: pairs to corrupt.
        clean: pairs whose median G becomes `TRUSTED`, such as the validation pairs; the median, for some may lack a sensor.
        augmentation: of the recipe; its backgrounds, turning, colours of other pairs, holes, blur, misalignment and dropout are left out, because they
            are corruptions or look like one.
    """
    gate, device = model.frame_gate, next(model.parameters()).device
    assert gate is not None
    rng = np.random.default_rng((seed, 0x6A7E))
    plain = _Framer(train, contract=contract, augmentation=augmentation)
    pairs, targets = list[Framed](), list[float]()
    statistics = list[Tensor]()
    num_pairs = min(max(2 * len(train.rgb), MIN_PAIRS), MAX_PAIRS)
    for number in range(num_pairs):
        pair, target = _corrupted(plain, rng, number=number)
        pairs.append(pair)
        targets.append(target)
        if len(pairs) == _BATCH or number == num_pairs - 1:
            rgb, depth = np.stack([one.rgb for one in pairs]), np.stack([one.depth for one in pairs])
            statistics.append(_statistics(model, torch.from_numpy(rgb).to(device), torch.from_numpy(depth).to(device)))
            pairs.clear()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        _fit(gate, torch.cat(statistics), torch.tensor(targets, device=device))
    of_clean = [
        gate.logit(_statistics(model, torch.from_numpy(rgb).to(device), torch.from_numpy(depth).to(device))).detach()
        for rgb, depth, _ in framed_batches(clean, contract=contract, batch_size=_BATCH)
    ]
    with torch.no_grad():
        gate.W.bias.add_(_logit(TRUSTED) - torch.cat(of_clean).quantile(0.5))


class _Framer:
    """Augmented pairs of a data set that are not corrupted."""

    def __init__(self, rgbd: RgbdDataset, *, contract: InputContract, augmentation: Augmentation) -> None:
        self.rgbd, self.size = rgbd, contract.size
        self.augmentation = replace(
            augmentation,
            background=0.0,
            turn_deg=0.0,
            style=0.0,
            holes=0.0,
            misalignment=0.0,
            blur=0.0,
            rgb_dropout=0.0,
            depth_dropout=0.0,
        )

    def __call__(self, position: int, rng: np.random.Generator) -> Framed:
        return augment(
            self.rgbd.rgb[position],
            self.rgbd.depth[position],
            size=self.size,
            depth_unit_m=self.rgbd.dataset.samples[position].depth_unit_m,
            augmentation=self.augmentation,
            rng=rng,
        )


def _corrupted(framed: _Framer, rng: np.random.Generator, *, number: int) -> tuple[Framed, float]:
    """A random pair, unchanged or with RGB or depth corrupted, each with probability 1/3; and the target of its G."""
    num_pairs = len(framed.rgbd.rgb)
    pair = framed(int(rng.integers(num_pairs)), rng)
    sensor = (None, "rgb", "depth")[rng.integers(3)]
    if not pair.depth.any() or not pair.rgb.any():  # as recorded
        return pair, DEPTH_MISSING if pair.rgb.any() else RGB_MISSING
    if sensor is None:
        return pair, TRUSTED
    kinds = [corruption for corruption in CORRUPTIONS if corruption.sensor == sensor and corruption.stale != "late"]
    corruption = kinds[rng.integers(len(kinds))]
    other = framed(int(rng.integers(num_pairs)), rng) if corruption.stale == "another" else pair
    strength = float(rng.random()) if len(corruption.severities) > 1 else 1.0
    steps = np.linspace(0, 1, len(corruption.severities))
    scene = Scene(pair.rgb, codes_from_bytes(pair.depth), other.rgb, codes_from_bytes(other.depth))
    severity = float(np.interp(strength, steps, corruption.severities))
    rgb, codes = corrupt(corruption, scene, severity=severity, seed=(number,))
    return Framed(np.ascontiguousarray(rgb), bytes_from_codes(codes)), _target(corruption, strength)


def _target(corruption: Corruption, strength: float) -> float:
    """G for a pair with this corruption; `strength` is 0..1 over its severities."""
    if corruption.name in ("no_rgb", "no_depth"):
        return RGB_MISSING if corruption.sensor == "rgb" else DEPTH_MISSING
    way = math.sqrt(strength) * _WEAK.get(corruption.name, 1.0)
    return TRUSTED + way * (RGB_WAY * (1 - TRUSTED) if corruption.sensor == "rgb" else -DEPTH_WAY * TRUSTED)


@torch.no_grad()
def _statistics(model: FusionClassifier, rgb_NHWC: Tensor, depth_NHW2: Tensor) -> Tensor:
    assert model.frame_gate is not None
    statistics: Tensor = model.frame_gate.statistics(*model.decode(rgb_NHWC, depth_NHW2))
    return statistics


def _fit(gate: FrameGate, statistics: Tensor, targets: Tensor) -> None:
    """Fit both layers on standardised statistics, then fold the standardisation into the first layer."""
    mean, deviation = statistics.mean(0), statistics.std(0) + 1e-3
    standard = (statistics - mean) / deviation
    gate.V.reset_parameters()
    nn.init.zeros_(gate.W.weight)
    nn.init.constant_(gate.W.bias, _logit(TRUSTED))
    gate.requires_grad_(True)
    optimizer = torch.optim.Adam(gate.parameters(), lr=LEARNING_RATE)
    with torch.enable_grad():
        for _ in range(NUM_STEPS):
            penalty = WEIGHT_PENALTY * (gate.V.weight.square().sum() + gate.W.weight.square().sum())
            loss = functional.binary_cross_entropy_with_logits(gate.logit(standard)[:, 0], targets) + penalty
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    with torch.no_grad():
        gate.V.weight.div_(deviation)
        gate.V.bias.sub_(gate.V.weight @ mean)


def _logit(probability: float) -> float:
    return math.log(probability / (1 - probability))
