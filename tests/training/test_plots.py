"""Plots have a bounded size for any number of classes and any length of names."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from edgefuse.io.matplotlib_io import shortened
from edgefuse.model.choices import model_in_words
from edgefuse.training import plots
from edgefuse.training.loop import EpochResult
from edgefuse.training.plots import _mistakes, loss_in_words, plot_confusion, plot_training


@pytest.mark.parametrize(
    ("num_classes", "name"),
    [(2, "cup"), (20, "cup"), (60, "a_class_of_a_name"), (61, "c"), (1000, "c"), (5, "n" * 200), (3, "ä[b]$x$")],
)
def test_a_confusion_plot_has_a_bounded_size(num_classes: int, name: str, tmp_path: Path) -> None:
    labels = [f"{name}{number}" for number in range(num_classes)]
    plot_confusion(np.eye(num_classes, dtype=int).tolist(), labels, tmp_path / "m.png", title="; ".join(labels))
    image = cv2.imread(str(tmp_path / "m.png"))
    assert image is not None and max(image.shape) <= 3600


def test_with_many_classes_the_frequent_mistakes_are_named() -> None:
    counts = np.diag(np.full(60, 9))
    counts[3, 7], counts[5, 1] = 8, 2
    labels = [f"c{number}" for number in range(60)]
    assert _mistakes(counts, labels).splitlines()[1:] == ["predicted c7, true c3: 8", "predicted c1, true c5: 2"]
    assert _mistakes(np.eye(60, dtype=int), labels) == "no mistakes"


def test_long_names_keep_both_ends() -> None:
    assert shortened("short") == "short"
    assert shortened("left" + "x" * 200 + "right", most=11) == "leftx…right" and len(shortened("y" * 99)) <= 30


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Collects the saved figures as matplotlib objects."""
    figures: list[Any] = []
    monkeypatch.setattr(plots, "save_figure", lambda figure, path: figures.append(figure))
    return figures


def texts(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts}


@pytest.mark.parametrize("num_epochs", [1, 3, 40])
def test_the_training_plot_has_integer_epochs_both_losses_and_chance(
    num_epochs: int, drawn: list[Any], tmp_path: Path
) -> None:
    history = [
        EpochResult(
            epoch=epoch,
            train_loss=3.0 / (epoch + 1),
            train_accuracy=0.5,
            validation_loss=2.0 / (epoch + 1),
            validation_accuracy=0.6,
            learning_rate=1e-3,
        )
        for epoch in range(num_epochs)
    ]
    plot_training(history, tmp_path / "t.png", title="t", loss="cross-entropy", num_classes=5)
    plot_training(
        [replace(history[0], validation_loss=None, validation_accuracy=None)],
        tmp_path / "t.png",
        title="t",
        loss="",
        num_classes=2,
    )
    loss, accuracy = drawn[0].axes
    assert [line.get_ydata()[-1] for line in loss.get_lines()] == [3.0 / num_epochs, 2.0 / num_epochs]
    assert texts(loss) == {"training\n(augmented)", "validation"} and texts(accuracy) == texts(loss) | {"chance"}
    assert accuracy.get_lines()[-1].get_ydata() == [20, 20]
    for axes in (loss, accuracy):
        low, high = axes.get_xlim()
        ticks = [tick for tick in axes.get_xticks() if low <= tick <= high]
        assert ticks and all(tick == int(tick) and 1 <= tick <= num_epochs for tick in ticks)
    assert texts(drawn[1].axes[0]) == {"training\n(augmented)"}


def test_the_loss_and_the_model_are_named() -> None:
    assert loss_in_words(has_auxiliary_heads=False, label_smoothing=0.0) == "cross-entropy"
    words = loss_in_words(has_auxiliary_heads=True, label_smoothing=0.1)
    assert words == "cross-entropy, 3 heads\n(label smoothing 0.1)"
    assert model_in_words(fusion="rgb", rgb="resnet18", depth="scratch") == "RGB only (resnet18)"
    both = model_in_words(fusion="gated", rgb="resnet18", depth="scratch")
    assert both == "gated fusion of resnet18 (RGB) and scratch (depth)"


def test_cells_have_the_percentage_of_the_row_and_the_count(drawn: list[Any], tmp_path: Path) -> None:
    plot_confusion([[3, 1], [0, 0]], ["cup", "ball"], tmp_path / "c.png", title="t")
    (axes,) = drawn[0].axes
    assert texts(axes) == {"75%\n3", "25%\n1"}
    assert [label.get_text() for label in axes.get_yticklabels()] == ["cup (4)", "ball (0)"]
