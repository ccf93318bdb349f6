"""Options whose value may be left out, which Typer does not have."""

from __future__ import annotations

from pathlib import Path

DEFAULTS = {("live", "--web"): "127.0.0.1:8080"}
"""Command and option -> its value if none follows."""


def with_default_values(arguments: list[str]) -> list[str]:
    """Add the values that were left out. An argument that begins with a dash, or is an existing file or folder, is no value.

    Example:
        >>> with_default_values(["live", "bundle", "--web", "--stats"])
        ['live', 'bundle', '--web=127.0.0.1:8080', '--stats']
        >>> with_default_values(["live", "bundle", "--web", "9000"])
        ['live', 'bundle', '--web', '9000']
    """
    given: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":
            return given + arguments[number:]
        default = DEFAULTS.get((arguments[0], argument))
        following = arguments[number + 1 : number + 2]
        is_left_out = default is not None and not (following and _is_value(following[0]))
        given.append(f"{argument}={default}" if is_left_out else argument)
    return given


def _is_value(argument: str) -> bool:
    return not argument.startswith("-") and not Path(argument).exists()
