"""Typer wants a default written at its option; the recipe is where it comes from, and both must say the same."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import pytest

from edgefuse.training.commands import train
from edgefuse.training.recipe import small_rgbd
from edgefuse_benchmarks.paper.commands import crossval

FIELDS = {"near": "near_m", "far": "far_m"}


@pytest.mark.parametrize("command", [train, crossval])
def test_a_default_is_the_recipes(command: Callable[..., Any]) -> None:
    recipe = asdict(small_rgbd())
    recipe |= recipe["augmentation"]
    compared = {}
    for name, parameter in inspect.signature(command).parameters.items():
        value = recipe.get(FIELDS.get(name, name))
        if value is not None and parameter.default not in (inspect.Parameter.empty, None):
            compared[name] = (parameter.default, value)
    assert {"size", "epochs", "batch_size", "near", "far"} <= compared.keys()
    assert all(default == value for default, value in compared.values()), compared
