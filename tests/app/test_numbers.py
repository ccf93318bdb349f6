"""Numeric options: each has limits; NaN, infinity and values out of range are wrong usage, exit code 2."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import typer
from typer.testing import CliRunner

from edgefuse.app.main import build_app
from edgefuse.console.options import finite

APP = build_app()
REASONS: dict[tuple[str, str], str] = {}
"""Command and parameter -> why it has no limits."""


def commands(group: typer.Typer, words: tuple[str, ...] = ()) -> Iterator[tuple[str, Callable[..., Any]]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield " ".join((*words, command.name or command.callback.__name__)), command.callback
    for sub in group.registered_groups:
        assert sub.typer_instance is not None and sub.name is not None
        yield from commands(sub.typer_instance, (*words, sub.name))


def numbers() -> Iterator[tuple[str, str, type, Any]]:
    """Command, parameter, int or float, and typer's description of the option."""
    for words, function in commands(APP):
        for name, hint in typing.get_type_hints(function, include_extras=True).items():
            if typing.get_origin(hint) is not typing.Annotated:
                continue
            kind, option = typing.get_args(hint)[:2]
            kinds = {kind, *typing.get_args(kind)}
            kinds |= {inner for one in kinds for inner in typing.get_args(one)}
            for number in {int, float} & kinds:
                yield words, name, number, option


NUMBERS = list(numbers())


def test_all_numeric_options_are_found() -> None:
    found = {(words, name) for words, name, _, _ in NUMBERS}
    assert {("live", "threads"), ("train", "near"), ("data convert", "levels"), ("bench learning", "seeds")} <= found
    assert len(found) > 40


@pytest.mark.parametrize(
    ("words", "name", "kind", "option"), NUMBERS, ids=[f"{words} {name}" for words, name, _, _ in NUMBERS]
)
def test_every_number_has_limits(words: str, name: str, kind: type, option: Any) -> None:
    if (words, name) in REASONS:
        return
    assert option.min is not None and option.max is not None
    assert kind is int or option.callback is finite


def switch(words: str, name: str) -> str:
    option = next(option for found, other, _, option in NUMBERS if (found, other) == (words, name))
    return next((one for one in option.param_decls or () if one.startswith("--")), f"--{name.replace('_', '-')}")


@pytest.mark.parametrize(
    ("words", "name", "kind"),
    [number[:3] for number in NUMBERS],
    ids=[f"{words} {name}" for words, name, _, _ in NUMBERS],
)
def test_absurd_numbers_are_wrong_usage(words: str, name: str, kind: type) -> None:
    function = dict(commands(APP))[words]
    needed = {
        other: parameter
        for other, parameter in inspect.signature(function).parameters.items()
        if parameter.default is inspect.Parameter.empty
    }
    others = []
    for other in needed:
        hint = typing.get_type_hints(function, include_extras=True)[other]
        is_option = type(typing.get_args(hint)[1]).__name__ == "OptionInfo"
        others += [f"--{other.replace('_', '-')}", "x"] if is_option else ["x"]
    absurd = ["99999999999999999999", "-1", "9" * 5000, "1e99"] + (["nan", "inf", "-inf"] if kind is float else ["nan"])
    for value in absurd:
        result = CliRunner().invoke(APP, [*words.split(), *others, f"{switch(words, name)}={value}"])
        assert result.exit_code == 2, (value, result.output, result.exception)
        assert len(result.output) < 8000
