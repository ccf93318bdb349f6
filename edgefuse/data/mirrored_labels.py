"""Detect class names that contain a side, so that a mirrored image would belong to another class. Owns the words. Standard library only.

Names are split into words ("turn_left", "HandL", "glove-R"), so that "bright", "upright" and "leftover" do not count.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

_WORDS = frozenset(
    re.findall(
        r"\S+",
        """
    right rightward rightwards righthand righthanded rightside
    rightmost clockwise anticlockwise counterclockwise cw ccw acw mirror mirrored lhs rhs lh rh righty sinistral dextral
    ltr rtl l2r r2l uhrzeigersinn gegenuhrzeigersinn gespiegelt
    linke linker linkes linken linkem rechte rechter rechtes rechten rechtem
    gauche droite horaire antihoraire izquierda izquierdo derecha derecho izqda izqdo dcha dcho horario antihorario
    sinistra sinistro destra destro orario antiorario esquerda esquerdo direita direito esquerra esquerre dreta
    medurs moturs lewo prawo lewy prawy lewa prawa vlevo vpravo levá pravá levý pravý levé pravé doleva doprava pravy hoger
    lijevo levo desno lijeva desna lijevi desni balra jobbra sağ sağa stânga dreapta kiri kanan hidari migi
    лево право левый правый левая правая левое правое слева справа влево вправо налево направо ліво ліва права лівий правий
    שמאל ימין שמאלה ימינה
    چپ
    """,
    )
)
_STEMS = re.compile(
    r"links(?!ys)|rechts(?!anw|schutz|staat)|(?:linke|rechte)[rsnm]?(?:hand|hände|arm|bein|fu(?:ß|ss)|auge|ohr|seite|schuh)"
    r"|venstre|høyre|højre|hoyre|hojre|vänst[er]|vanster|höger|högra|vasem|vasen|oike(?!u)|αριστερ|δεξ[ιί]"
    r"|(?:ال|لل|بال|[بل])?(?:يسار|يمين|يسرى|يمنى)$"
)
"""Beginnings of words with a side: German and Scandinavian compounds, Finnish and Greek endings, Arabic articles."""

_INSIDE = re.compile("왼|(?<!떠)오른(?!다)|ซ้าย|ขวา|ひだり|みぎ|[बद]ा(?:ए|य|ई)(?:ं|ँ|ा[ंँ])")
_CHARACTERS = "左右←→⇐⇒⟵⟶⬅➡↖↗↘↙↩↪↰↱↲↳↶↷↺↻⟲⟳⮌⮎⤴⤵👈👉☚☛☜☞◀▶◄►⏪⏩"
"""In scripts without spaces, one or a few characters are a word; and arrows."""

_NO_SIDES = re.compile(
    r"left[\W_]*overs?(?![^\W\d_])|right[\W_]*(?:angle[ds]?|triangles?)(?![^\W\d_])|copy[\W_]*rights?(?![^\W\d_])"
    r"|(?:vitamin[ae]?|hepatitis|typ|type|grade|group|team|block)[\W_]*[a-km-qs-z][\W\d_]*$",
    re.IGNORECASE,
)
"""Phrases of two words that mean no side."""

_PAIRS = tuple(
    frozenset(pair)
    for pair in re.findall(
        r"(\S+)/(\S+)",
        "l/r b/d p/q s/z g/d v/h e/w li/re sx/dx izq/der izq/dcha esq/dir esq/dta droit/gauche sol/sağ sol/sag lt/rt od/os "
        "port/starboard levy/pravy leva/prava bal/jobb stanga/dreapta trái/phải trai/phai چپ/راست شمال/يمين "
        "east/west ost/west est/ouest este/oeste leste/oeste oost/west öst/väst ovest/est восток/запад ne/nw se/sw "
        "slash/backslash forehand/backhand </> (/) [/] {/} «/»",
    )
)
"""Words that mean a side only together with their partner: abbreviations, compass points, and letters that mirror each other."""

_PARTNERS = (
    ("left", "right"),
    ("links", "rechts"),
    ("gauche", "droite"),
    ("izquierda", "derecha"),
    ("sinistra", "destra"),
    ("esquerda", "direita"),
    ("vänster", "höger"),
    ("лев", "прав"),
)
"""Also found inside a word ("turnleft", "handschuhrechts") if the name with the partner in its place is a class too."""

_LEFT = re.compile(r"left(?!over|ist)|.*(?<!c)left$")
"""No other English word than cleft ends in "left", and few begin with it; many end in "right"."""

_SIDE_LETTERS = frozenset("lr")
_NUMBERED = re.compile(r"[lr][0-9]+(?:[\W_]|$)", re.IGNORECASE)
"""bolt_L20 and bolt_L30 mean a length."""
_SIZES = frozenset({"s", "m", "xl", "xs", "xxl"})


def labels_with_sides(names: Sequence[str]) -> tuple[str, ...]:
    """The class names that contain a side, in their order.

    "L" and "R" count at the end or the beginning of a longer name ("glove_L"), unless the names are sizes (S, M, L).
    """
    words = {name: _words(_NO_SIDES.sub("", name)) for name in names}
    everything = {word for found in words.values() for word in found}
    pairs = {word for pair in _PAIRS if pair <= everything for word in pair}
    letters = frozenset() if everything & _SIZES else _SIDE_LETTERS
    has_both = everything >= _SIDE_LETTERS
    lower = {name: unicodedata.normalize("NFKC", name).lower() for name in names}
    partners = {name for name in names if any(partner in lower.values() for partner in _with_partner(lower[name]))}

    def speaks(name: str) -> bool:
        found = words[name]
        at_ends = {found[0], found[-1]} if len(found) > 1 else set()
        return (
            any(word in _WORDS or word in pairs or bool(_LEFT.match(word) or _STEMS.match(word)) for word in found)
            or name in partners
            or (bool(at_ends & letters) and (has_both or not _NUMBERED.search(name)))
            or bool(_INSIDE.search(lower[name]))
            or any(character in _CHARACTERS for character in lower[name])
        )

    return tuple(name for name in names if speaks(name))


def _with_partner(name: str) -> list[str]:
    return [name.replace(this, that) for pair in _PARTNERS for this, that in (pair, pair[::-1]) if this in name]


def _words(name: str) -> list[str]:
    """The words of a name in lower case, split at everything but letters and digits, and at capitals; "left1" is "left"."""
    composed = unicodedata.normalize("NFKC", name)
    parts = re.findall(r"[^\W_]+", composed) or [composed.strip()]
    words = [word.lower() for part in parts for word in _at_capitals(part)]
    return [word.rstrip("0123456789") or word for word in words]


def _at_capitals(part: str) -> list[str]:
    """HandL -> Hand, L; LHand -> L, Hand; HANDLeft -> HAND, Left."""
    starts = [
        i for i in range(1, len(part)) if part[i].isupper() and (part[i - 1].islower() or part[i + 1 : i + 2].islower())
    ]
    return [part[start:end] for start, end in zip([0, *starts], [*starts, len(part)], strict=True)]
