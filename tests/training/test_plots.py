"""Plots stay of a size that opens, whatever the number of classes and the length of their names."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from edgefuse.io.matplotlib_io import shortened
from edgefuse.training.loop import EpochResult
from edgefuse.training.plots import _mistakes, loss_in_words, plot_confusion, plot_training


@pytest.mark.parametrize(
    ("num_classes", "name"),
    [(2, "cup"), (40, "a_class_of_a_name"), (41, "c"), (1000, "c"), (5, "n" * 200), (3, "ä[b]$x$")],
)
def test_a_confusion_plot_has_a_bounded_size(num_classes: int, name: str, tmp_path: Path) -> None:
    labels = [f"{name}{number}" for number in range(num_classes)]
    plot_confusion(np.eye(num_classes, dtype=int).tolist(), labels, tmp_path / "m.png", title="; ".join(labels))
    image = cv2.imread(str(tmp_path / "m.png"))
    assert image is not None and max(image.shape) <= 3600


def test_of_many_classes_the_frequent_mistakes_are_named() -> None:
    counts = np.diag(np.full(60, 9))
    counts[3, 7], counts[5, 1] = 8, 2
    labels = [f"c{number}" for number in range(60)]
    assert _mistakes(counts, labels).splitlines()[1:] == ["predicted c7, true c3: 8", "predicted c1, true c5: 2"]
    assert _mistakes(np.eye(60, dtype=int), labels) == "no mistakes"


def test_long_names_keep_both_ends() -> None:
    assert shortened("short") == "short"
    assert shortened("left" + "x" * 200 + "right", most=11) == "leftx…right" and len(shortened("y" * 99)) <= 30


def test_the_loss_is_called_what_it_is(tmp_path: Path) -> None:
    assert loss_in_words(aux_loss_weight=1.0, has_auxiliary_heads=False, label_smoothing=0.0) == "cross-entropy"
    with_auxiliary_heads = loss_in_words(aux_loss_weight=0.5, has_auxiliary_heads=True, label_smoothing=0.1)
    assert (
        with_auxiliary_heads
        == "sum of 3 cross-entropies, labels smoothed by 0.1:\nfused + 0.5 x (RGB alone + depth alone)"
    )
    history = [EpochResult(epoch=0, train_loss=3.0, train_accuracy=0.5, validation_accuracy=None, learning_rate=1e-3)]
    plot_training(history, tmp_path / "t.png", title="t", loss=with_auxiliary_heads)
    assert (tmp_path / "t.png").read_bytes().startswith(b"\x89PNG")
