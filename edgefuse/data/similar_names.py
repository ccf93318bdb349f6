"""Class names that probably mean the same class: they differ in spaces, underscores, number, or letters of other scripts that look alike.

Owns what counts as similar.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence

from edgefuse.io.text import some_of

_LOOK_ALIKES = str.maketrans("авекмнорстухіјѕһԁԛԝαβεηικμνορτυχγζѵɡı", "abekmhopctyxijshdqwabehikmvoptuxyzvgi")
"""Cyrillic and Greek letters in lower case, and the Latin letters that look like them."""

_SEPARATOR = r"(?:[\s_.]|-(?!\d)|(?<=[^\W_])-)+"
_SEPARATORS = re.compile(rf"(?<=[^\W\d_]){_SEPARATOR}|{_SEPARATOR}(?=[^\W\d_])|^\s+|\s+$")
"""Characters that are optional next to a letter. Between two digits they matter (1_2, 12), and so does a minus (-1, 1)."""
_ALONE = re.compile("ss$|us$|is$")
"""Endings of words that are not plurals: glass, cactus, tennis."""


def alike_names(labels: Sequence[str]) -> Iterator[str]:
    """One warning for class names that differ only in case, Unicode form, separators, look-alike letters or number."""
    alike: dict[str, list[str]] = {}
    for label in labels:
        alike.setdefault(_skeleton(label), []).append(label)
    twins = [names for names in alike.values() if len(names) > 1]
    if twins:
        shown = some_of([" and ".join(ascii(name) for name in names) for names in twins], most=3)
        yield (
            f"{len(twins)} class(es) have several names: {shown} differ only in case, in spaces, in number, or in characters that look "
            "the same; rename them if they are one class"
        )


def _skeleton(label: str) -> str:
    plain = unicodedata.normalize("NFKC", label).casefold().translate(_LOOK_ALIKES)
    joined = _SEPARATORS.sub("", plain)
    if len(joined) > 3 and joined.endswith("s") and joined.isascii() and not _ALONE.search(joined):
        return _singular(joined)
    return joined


def _singular(word: str) -> str:
    """mugs -> mug, boxes -> box, berries -> berry."""
    for ending, singular in (("ies", "y"), ("xes", "x"), ("ches", "ch"), ("shes", "sh"), ("sses", "ss"), ("s", "")):
        if word.endswith(ending):
            return word.removesuffix(ending) + singular
    return word
