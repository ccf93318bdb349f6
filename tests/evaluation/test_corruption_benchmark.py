from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.contract import InputContract, codes_from_bytes
from edgefuse.data.dataset import RgbdDataset, load, scan
from edgefuse.errors import UserError
from edgefuse.evaluation import corruption_benchmark
from edgefuse.evaluation.corruption_benchmark import CLEAN, Row, evaluate_corruptions, plot_corruptions
from edgefuse.evaluation.corruptions import CORRUPTIONS

CONTRACT = InputContract(size=40)
LABELS = ("blue_near", "red_far", "red_near")


def reader(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Reads colour from RGB and range from depth; its gate is the fraction of valid depth."""
    is_red = rgb[..., 0].max((1, 2)) > rgb[..., 2].max((1, 2))
    codes = codes_from_bytes(depth).astype(int)
    is_near = ((codes > 0) & (codes < 900)).any((1, 2))
    number = np.where(is_red, np.where(is_near, 2, 1), 0)
    return np.eye(3, dtype=np.float32)[number], (codes > 0).mean((1, 2))[:, None].astype(np.float32)


def colour_blind(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Uses depth only."""
    return reader(np.zeros_like(rgb), depth)


@pytest.fixture(scope="module")
def rgbd(colour_and_range: Path) -> RgbdDataset:
    return load(scan([colour_and_range]))


@pytest.fixture(scope="module")
def rows(rgbd: RgbdDataset) -> tuple[Row, ...]:
    return evaluate_corruptions(reader, rgbd, contract=CONTRACT, labels=LABELS, batch_size=16)


def accuracy(rows: tuple[Row, ...], name: str) -> list[float]:
    return [row.scores.accuracy for row in rows if row.corruption == name]


def test_the_table_has_every_corruption_at_every_severity(rows: tuple[Row, ...]) -> None:
    assert (rows[0].corruption, rows[0].scores.accuracy) == (CLEAN, 1.0)
    assert [(r.corruption, r.severity) for r in rows[1:]] == [(c.name, s) for c in CORRUPTIONS for s in c.severities]
    assert len({row.name for row in rows}) == len(rows)


def test_a_corruption_costs_what_the_predictor_needed(rows: tuple[Row, ...]) -> None:
    # Without RGB all are predicted blue, without depth red ones are predicted far: one, and two classes of three, stay correct.
    assert accuracy(rows, "no_rgb") == [pytest.approx(1 / 3)] and accuracy(rows, "no_depth") == [pytest.approx(2 / 3)]
    assert accuracy(rows, "depth_shift")[:4] == [1.0] * 4  # no pixel that it reads leaves the image
    assert accuracy(rows, "frozen_rgb") == [1.0] * 3  # other frames of the sequence have the same colour
    assert accuracy(rows, "foreign_rgb")[0] < 0.9 and accuracy(rows, "foreign_depth")[0] < 0.9
    gates = {row.corruption: row.scores.mean_gate for row in rows}
    assert gates["no_depth"] == 0 and gates["no_rgb"] == gates[CLEAN]


def test_an_unused_sensor_may_fail(rgbd: RgbdDataset) -> None:
    rows = evaluate_corruptions(colour_blind, rgbd, contract=CONTRACT, labels=LABELS)
    clean = rows[0].scores
    sensor = {c.name: c.sensor for c in CORRUPTIONS}
    assert all(row.scores == clean for row in rows[1:] if sensor[row.corruption] == "rgb")
    assert any(row.scores != clean for row in rows[1:] if sensor[row.corruption] == "depth")


def test_the_same_seed_gives_the_same_table_for_any_batch(rgbd: RgbdDataset) -> None:
    some = [c for c in CORRUPTIONS if c.name in {"foreign_depth", "depth_holes", "depth_noise"}]
    seen: list[list[np.ndarray]] = []

    def remember(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen[-1].extend(depth)
        return reader(rgb, depth)

    for seed, batch_size in ((0, 60), (0, 60), (1, 60)):
        seen.append([])
        evaluate_corruptions(
            remember, rgbd, contract=CONTRACT, labels=LABELS, corruptions=some, seed=seed, batch_size=batch_size
        )
    assert np.array_equal(seen[0], seen[1]) and not np.array_equal(seen[0], seen[2])
    small, large = (
        evaluate_corruptions(reader, rgbd, contract=CONTRACT, labels=LABELS, corruptions=some, batch_size=size)
        for size in (7, 60)
    )
    assert small == large


def test_a_stopped_stream_shows_the_right_frame(rgbd: RgbdDataset) -> None:
    """Sequences of five frames: late frames come from the same sequence, foreign ones from another."""
    sequence = [i for i, s in enumerate(rgbd.dataset.samples) if (s.label, s.sequence) == (1, "take2")]
    other = [i for i, s in enumerate(rgbd.dataset.samples) if (s.label, s.sequence) == (0, "take0")]
    two_sequences = rgbd.subset([*sequence, *other])
    framed: dict[str, list[int]] = {}

    def shown(name: str) -> list[list[int]]:
        corruption = next(c for c in CORRUPTIONS if c.name == name)
        seen: list[np.ndarray] = []

        def remember(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            seen.extend(depth)
            return reader(rgb, depth)

        evaluate_corruptions(remember, two_sequences, contract=CONTRACT, labels=LABELS, corruptions=[corruption])
        clean = seen[:10]
        framed[name] = [next(i for i, d in enumerate(clean) if np.array_equal(d, s)) for s in seen]
        return [framed[name][n : n + 10] for n in range(10, len(seen), 10)]

    one, four, sixteen = shown("frozen_depth")
    assert one == [0, 0, 1, 2, 3, 5, 5, 6, 7, 8]
    assert four == [0, 0, 0, 0, 0, 5, 5, 5, 5, 5] == sixteen
    (foreign,) = shown("foreign_depth")
    assert all(i >= 5 for i in foreign[:5]) and all(i < 5 for i in foreign[5:]) and len(set(foreign)) > 2


def test_a_single_sequence_has_no_foreign_frames(rgbd: RgbdDataset) -> None:
    sequence = [i for i, s in enumerate(rgbd.dataset.samples) if (s.label, s.sequence) == (1, "take2")]
    rows = evaluate_corruptions(reader, rgbd.subset(sequence), contract=CONTRACT, labels=LABELS)
    names = {row.corruption for row in rows}
    assert "frozen_rgb" in names and not names & {"foreign_rgb", "foreign_depth"}


def test_unknown_classes_are_refused(rgbd: RgbdDataset) -> None:
    with pytest.raises(UserError, match="red_near"):
        evaluate_corruptions(reader, rgbd, contract=CONTRACT, labels=("blue_near", "red_far"))


def test_the_plot_has_five_models_five_panels_and_chance(
    rows: tuple[Row, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Any] = []
    models = {f"model{number}": rows for number in range(7)}
    with monkeypatch.context() as patch:
        patch.setattr(corruption_benchmark, "save_figure", lambda figure, path: figures.append(figure))
        plot_corruptions(models, tmp_path / "plot.png", title="t")
    bars, *panels = figures[0].axes
    assert len(panels) == 4 and "2 more models" in figures[0].get_suptitle()
    cost = {
        name: max(accuracy(rows, CLEAN)) - min(accuracy(rows, name))
        for name in {row.corruption for row in rows if row.unit}
    }
    dearest = sorted(cost, key=lambda name: (-cost[name], name))[:4]
    assert [panel.get_xlabel() for panel in panels] == [corruption_benchmark._AXES[name] for name in dearest]
    for panel in (bars, *panels):
        assert {text.get_text() for text in panel.texts} == {"chance", *list(models)[:5]}
        assert any(np.allclose(line.get_ydata(), 100 / 3) for line in panel.get_lines())
    for shown in ((CLEAN, "blur_rgb"), (CLEAN, "no_rgb"), (CLEAN, "no_rgb", "blur_rgb")):
        some = tuple(row for row in rows if row.corruption in shown)
        plot_corruptions({"reader": some}, tmp_path / "some.png", title="t")
        assert (tmp_path / "some.png").read_bytes().startswith(b"\x89PNG")


def test_frames_are_late_by_the_numbers_in_their_names(rgbd: RgbdDataset) -> None:
    """frame_2 comes before frame_10, for recorders that do not pad with zeros."""
    names = ["frame_1", "frame_10", "frame_11", "frame_2", "frame_3"]  # in the order of a file system
    sequence = rgbd.subset(range(5))
    samples = tuple(replace(sample, name=name) for sample, name in zip(sequence.dataset.samples, names, strict=True))
    sequence = replace(sequence, dataset=replace(sequence.dataset, samples=samples))
    corruption = next(c for c in CORRUPTIONS if c.name == "frozen_depth")
    seen: list[np.ndarray] = []

    def remember(rgb: np.ndarray, depth: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        seen.extend(depth)
        return reader(rgb, depth)

    evaluate_corruptions(remember, sequence, contract=CONTRACT, labels=LABELS, corruptions=[corruption])
    shown = [next(i for i, d in enumerate(seen[:5]) if np.array_equal(d, s)) for s in seen[5:10]]
    assert [names[i] for i in shown] == ["frame_1", "frame_3", "frame_10", "frame_1", "frame_2"]
