"""What came out when the source was held against one version of the bindings."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Findings:
    """What one version says of the source.

    Attributes:
        problems: "path:line: text".
        guarded: (place, "BuilderFlag.FP16") -> does this version have it?
        num_asked: attributes and calls that were checked.
        names: classes, "Class.member" and functions that the source asks for and this version has.
    """

    problems: set[str] = field(default_factory=set)
    guarded: dict[tuple[str, str], bool] = field(default_factory=dict)
    num_asked: int = 0
    names: set[str] = field(default_factory=set)
