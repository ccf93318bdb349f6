"""The background class in data sets: a class folder like any other, and advice where there is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from edgefuse.answers import BACKGROUND, NONE, UNKNOWN, answer_of, confidence, shown_label
from edgefuse.data.check import check
from edgefuse.data.dataset import scan, write_pair

LABELS = ("mug", "bottle", BACKGROUND)


def _data(root: Path, *labels: str) -> Path:
    rng = np.random.default_rng(0)
    for label in labels:
        for number in range(3):
            rgb = rng.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            write_pair(root / label / "a", f"f{number}", rgb, rng.integers(500, 900, (32, 32)).astype(np.uint16))
    return root


def test_it_is_a_class_and_check_advises_to_record_it(tmp_path: Path) -> None:
    with_it, without = _data(tmp_path / "a", "mug", BACKGROUND), _data(tmp_path / "b", "mug", "bottle")
    assert scan([with_it]).labels == (BACKGROUND, "mug")
    assert not [note for note in check([with_it])[0].notes if BACKGROUND in note]
    (note,) = [note for note in check([without])[0].notes if BACKGROUND in note]
    assert "edgefuse record --label _background" in note


@pytest.mark.parametrize("label", [NONE, UNKNOWN])
def test_a_class_with_the_name_of_an_answer_is_warned_of(label: str, tmp_path: Path) -> None:
    dataset = scan([_data(tmp_path / "a", "mug", label)])
    assert [f"class {label} has the name of an answer" in text for text in dataset.warnings] == [True]


def test_answers() -> None:
    mug, background = np.array([0.6, 0.3, 0.1], np.float32), np.array([0.3, 0.2, 0.5], np.float32)
    assert answer_of(mug, LABELS) == answer_of(mug, LABELS, min_confidence=0.6) == "mug"
    assert answer_of(mug, LABELS, min_confidence=0.61) == UNKNOWN
    assert answer_of(background, LABELS) == answer_of(background, LABELS, min_confidence=0.9) == NONE
    assert confidence(np.stack([mug, background]), LABELS) == pytest.approx([0.6, 0])
    assert confidence(np.stack([mug, background]), ("a", "b", "c")) == pytest.approx([0.6, 0.5])
    assert [shown_label(label) for label in LABELS] == ["mug", "bottle", NONE]
