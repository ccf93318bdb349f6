"""Options and values of older versions. They still work, but --help does not list them."""

from __future__ import annotations

OPTIONS: dict[str, dict[str, str]] = {
    "record": {"--take": "--sequence"},
    "train": {"--validation-share": "--validation-fraction", "--test-share": "--test-fraction"},
    "data convert": {"--take": "--sequence-pattern", "--instance": "--sequence"},
    "crossval": {"--approaches": "--variants"},
    "reproduce": {"--approaches": "--variants"},
}
"""Command -> old option -> current option."""

VALUES: dict[str, dict[str, str]] = {
    "--without-rgb": {"label": "predict", "no-decision": "abstain"},
    "--without-depth": {"label": "predict", "no-decision": "abstain"},
    "--by": {"instance": "sequence"},
}
"""Option -> old value -> current value."""


def with_present_names(arguments: list[str]) -> list[str]:
    """Replace old options and values in the arguments of a command line.

    Example:
        >>> with_present_names(["record", "mugs", "--take=left"])
        ['record', 'mugs', '--sequence=left']
    """
    options = OPTIONS.get(" ".join(arguments[:2])) or OPTIONS.get(" ".join(arguments[:1])) or {}
    renamed: list[str] = []
    for number, argument in enumerate(arguments):
        if argument == "--":  # only positional arguments follow
            return renamed + arguments[number:]
        name, equals, value = argument.partition("=")
        if name.startswith("--"):
            name = options.get(name, name)
            renamed.append(f"{name}{equals}{VALUES.get(name, {}).get(value, value)}")
        else:
            before = renamed[-1] if renamed else ""
            renamed.append(VALUES.get(before, {}).get(argument, argument))
    return renamed
