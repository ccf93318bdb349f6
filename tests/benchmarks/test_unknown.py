"""`edgefuse bench unknown`: which pairs are known and foreign, the figures, and one small training."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from edgefuse.answers import BACKGROUND
from edgefuse.data.dataset import load, scan
from edgefuse.errors import UserError
from edgefuse.synth.rendered_set import LABELS, write_dataset
from edgefuse.training.recipe import demo_rgbd, with_values
from edgefuse_benchmarks.suites.unknown import area_under_curve, bench_unknown, split_classes


@pytest.fixture(scope="module")
def rendered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_dataset(
        tmp_path_factory.mktemp("unknown") / "data", num_pairs=72, size=32, frames_per_sequence=3, num_workers=1
    )


def test_left_out_classes_are_in_no_training_pair_and_labels_stay_right(rendered: Path) -> None:
    rgbd = load(scan([rendered]))
    known, foreign = split_classes(rgbd, left_out=("bottle", "bottle_photo"), background=("red_mug_photo",))
    assert known.dataset.labels == (BACKGROUND, "blue_mug", "blue_mug_photo", "red_mug")
    assert len(known.rgb) + len(foreign.rgb) == len(rgbd.rgb)
    for sample in known.dataset.samples:
        folder = sample.rgb_path.parent.parent.name
        assert known.dataset.labels[sample.label] == (BACKGROUND if folder == "red_mug_photo" else folder)
    assert {sample.rgb_path.parent.parent.name for sample in foreign.dataset.samples} == {"bottle", "bottle_photo"}
    for left_out in (("teapot",), (), LABELS[1:]):
        with pytest.raises(UserError, match="classes to leave out|left to train on"):
            split_classes(rgbd, left_out=left_out)


def test_area_under_curve_counts_pairs() -> None:
    rng = np.random.default_rng(0)
    known, foreign = rng.integers(0, 6, 40).astype(np.float32), rng.integers(0, 6, 30).astype(np.float32)
    counted = np.mean([[(k > f) + (k == f) / 2 for f in foreign] for k in known])
    assert area_under_curve(known, foreign) == pytest.approx(counted)


@pytest.mark.slow
def test_a_training_gives_consistent_figures(rendered: Path, tmp_path: Path) -> None:
    config = with_values(demo_rgbd(), ["epochs=4", "size=32"])
    report = bench_unknown([rendered], left_out=[("bottle", "bottle_photo")], config=config, seeds=[0])
    (found,) = report.results
    assert found.num_foreign == 24 and found.num_known == 12
    assert 0 < found.threshold < 1 and 0 <= found.refused <= 1
    kept = [found.curve[f"{t:g}"][0] for t in (0.3, 0.5, 0.7, 0.9)]
    gone = [found.curve[f"{t:g}"][1] for t in (0.3, 0.5, 0.7, 0.9)]
    assert kept == sorted(kept, reverse=True) and gone == sorted(gone)
    path = report.save(tmp_path)
    assert "bottle, bottle_photo" in path.read_text()
    stored = json.loads(path.with_suffix(".json").read_text())
    assert stored["results"][0]["refused"] == found.refused and str(rendered.parent) not in json.dumps(stored)
