"""Every number of the recipe has a range; values outside are refused from any source."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.data.augmentation import Augmentation
from edgefuse.errors import UserError
from edgefuse.training.recipe import TrainConfig, mobilenet_rgbd, recipe_with_options, small_rgbd, with_values

NUMBERS = [f.name for f in fields(TrainConfig) if f.type in ("float", "int", "int | None")]
AUGMENTATION_NUMBERS = [f"augmentation.{f.name}" for f in fields(Augmentation) if f.type == "float"]


def test_every_number_has_a_range() -> None:
    assert len(NUMBERS) == 22 and len(AUGMENTATION_NUMBERS) == 18


@pytest.mark.parametrize("name", NUMBERS + AUGMENTATION_NUMBERS)
@pytest.mark.parametrize("value", ["nan", "inf", "-inf", "-1", "1e999", "9" * 400, "9" * 5000, "", "None", "0x10"])
def test_numbers_out_of_range_are_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(UserError, match=rf"--set {name}="):
        with_values(small_rgbd(), [f"{name}={value}"])


@pytest.mark.parametrize(
    "text",
    [
        "dropout=1",
        "feature_dropout=5",
        "label_smoothing=7",
        "depth_window_m=0",
        "far_m=0.1",  # below near
        "near_m=2.5",
        "size=8",
        "size=2048",
        "epochs=0",
        "batch_size=0",
        "learning_rate=0",
        "learning_rate=1e-9",  # below the final one
        "validation_fraction=0.6",
        "seed=4294967295",
        "num_threads=99999999999999999999",
        "augmentation.rotation_deg=181",
        "augmentation.rgb_dropout=0.95",  # plus 0.1 of depth
        "augmentation.zoom=1",
        "fusion=sum",
        "rgb=alexnet",
        "encoding=hha",
        "augmentation.flip=maybe",
    ],
)
def test_combinations_that_cannot_be_trained_are_refused(text: str) -> None:
    with pytest.raises(UserError, match=f"--set {text}.*expected"):
        with_values(small_rgbd(), [text])


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, True, "0.5"])
def test_a_recipe_in_python_has_the_same_ranges(name: str, value: object) -> None:
    with pytest.raises(UserError, match=f"{name} is"):
        TrainConfig(**{name: value})  # type: ignore[arg-type]


def test_optional_values_can_be_auto() -> None:
    config = with_values(small_rgbd(), ["num_threads=2", "augmentation.flip=true"])
    assert (config.num_threads, config.augmentation.flip) == (2, True)
    config = with_values(config, ["num_threads=auto", "augmentation.flip=auto"])
    assert (config.num_threads, config.augmentation.flip) == (None, None)
    assert TrainConfig.from_json(config.to_json()) == config


@given(st.floats(0, 0.99), st.integers(1, 10_000))
def test_values_in_range_are_accepted(dropout: float, epochs: int) -> None:
    config = with_values(small_rgbd(), [f"dropout={dropout!r}", f"epochs={epochs}"])
    assert (config.dropout, config.epochs) == (dropout, epochs)
    assert replace(config) == config


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, small_rgbd()),
        ({"name": "mobilenet_rgbd"}, mobilenet_rgbd()),
        ({"background": "keep"}, small_rgbd(augmentation=Augmentation(background=0.0))),
        ({"background": "replace"}, small_rgbd()),
        ({"epochs": 3, "near_m": None, "flip": True}, small_rgbd(epochs=3, augmentation=Augmentation(flip=True))),
        ({"rgb": "mobilenet_v2"}, mobilenet_rgbd()),
        ({"rgb": "mobilenet_v2", "rgb_weights": "none"}, mobilenet_rgbd(rgb_weights="none")),
        ({"rgb": "resnet18", "depth": "scratch"}, small_rgbd(rgb="resnet18", rgb_weights="imagenet")),
        ({"depth": "resnet18"}, small_rgbd(depth="resnet18", depth_weights="imagenet")),
        ({"name": "mobilenet_rgbd", "rgb_weights": "w.pth"}, mobilenet_rgbd(rgb_weights="w.pth")),
        ({"name": "mobilenet_rgbd", "depth": "scratch"}, mobilenet_rgbd(depth="scratch", depth_weights="none")),
        ({"name": "mobilenet_rgbd", "rgb": "small"}, small_rgbd()),
    ],
)
def test_options_change_the_recipe_and_nothing_else(options: dict[str, Any], expected: TrainConfig) -> None:
    assert recipe_with_options(**options) == expected


def test_an_unknown_name_is_refused_with_all_names() -> None:
    for text in ("depth_windo_m=0.2", "augmentation.gray=0"):
        with pytest.raises(UserError, match=r"augmentation\.grey") as refused:
            with_values(small_rgbd(), [text])
        assert ("depth_window_m" in str(refused.value)) == (not text.startswith("augmentation."))


@pytest.mark.parametrize(
    ("depth", "weights"), [("scratch", "none"), ("resnet18", "imagenet"), ("mobilenet_v2", "w.pth")]
)
def test_depth_has_the_weights_of_rgb_only_for_the_same_network(depth: str, weights: str) -> None:
    assert mobilenet_rgbd(depth=depth, rgb_weights="w.pth").depth_weights == weights


def test_an_unknown_recipe_is_refused_with_those_that_are() -> None:
    with pytest.raises(UserError, match="'big': one of small_rgbd, mobilenet_rgbd"):
        recipe_with_options("big")


@pytest.mark.parametrize(
    ("command", "options"),
    [
        ("train", ["--near", "nan"]),
        ("train", ["--recipe", "big"]),
        ("train", ["--rgb", "vit_b_32"]),
        ("crossval", ["--variants", "gated-vit_b_32"]),
        ("train", ["--far", "inf"]),
        ("train", ["--validation-fraction", "nan"]),
        ("train", ["--test-fraction", "nan"]),
        ("train", ["--threads", "99999999999999999999"]),
        ("train", ["--seed", "99999999999999999999"]),
        ("crossval", ["--far", "nan"]),
        ("crossval", ["--set", "dropout=nan"]),
    ],
)
def test_options_are_checked_before_any_data_is_read(command: str, options: list[str]) -> None:
    call = [
        sys.executable,
        "-c",
        "from edgefuse.app.main import main; main()",
        command,
        "/nowhere",
        "--out",
        "/tmp/never",
    ]
    ended = subprocess.run([*call, *options], capture_output=True, text=True, timeout=60)
    assert ended.returncode in (1, 2) and ("expected" in ended.stderr or "should be" in ended.stderr), ended.stderr
    assert "nowhere" not in ended.stderr and "fault in edgefuse" not in ended.stderr
