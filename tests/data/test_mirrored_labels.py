"""Class names that contain a side: word by word, in several languages, and together with the other names."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgefuse.data.mirrored_labels import labels_with_sides


@pytest.mark.parametrize(
    "names",
    [
        ("left_glove", "right_glove"),
        ("handschuh_links", "handschuh_rechts"),
        ("glove_L", "glove_R"),
        ("main-gauche", "main-droite"),
        ("mano izquierda", "mano derecha"),
        ("sinistra", "destra"),
        ("mao_esquerda", "mao_direita"),
        ("vänster", "höger"),
        (unicodedata.normalize("NFD", "vänster"), unicodedata.normalize("NFD", "höger")),  # as macOS stores names
        ("лево", "право"),
        ("向左", "向右"),
        ("HandL", "HandR"),
        ("LHand", "RHand"),
        ("L", "R"),
        ("handLeft2", "handRight2"),
        ("TURN-LEFT", "TURN-RIGHT"),
        ("swipeleft", "swiperight"),
        ("handschuhlinks", "handschuhrechts"),
        ("clockwise", "counter-clockwise"),
        ("knob_cw", "knob_ccw"),
        ("mirrored_mug",),
        ("turnleft",),
        ("b", "d"),
        ("letter_P", "letter_q"),
        ("east", "west"),
        ("←", "→"),
        ("swipe_ltr", "swipe_rtl"),
        ("swipe_L2R", "swipe_R2L"),
        ("linksabbiegen", "rechtsabbiegen"),
        ("linkerarm", "rechterarm"),
        ("linke hand", "rechte hand"),
        ("venstrehånd", "høyrehånd"),
        ("venstre", "højre"),
        ("vänsterhand", "högerhand"),
        ("mano_izqda", "mano_dcha"),
        ("ruka levy", "ruka pravy"),
        ("levá", "pravá"),
        ("lijevo", "desno"),
        ("balra", "jobbra"),
        ("bal", "jobb"),
        ("αριστερά", "δεξιά"),
        ("αριστερό_χέρι", "δεξί_χέρι"),
        ("tay_trái", "tay_phải"),
        ("esquerra", "dreta"),
        ("kiri", "kanan"),
        ("hidari", "migi"),
        ("ひだり", "みぎ"),
        ("มือซ้าย", "มือขวา"),
        ("बाएं", "दाएं"),
        ("दायां हाथ",),
        ("چپ", "راست"),
        ("doleva", "doprava"),
        ("vasen", "oikea"),
        ("vasemmalle", "oikealle"),
        ("اليسار", "اليمين"),
        ("bras_droit", "bras_gauche"),
        ("stânga", "dreapta"),
        ("왼손", "오른손"),
        (unicodedata.normalize("NFD", "왼쪽"), unicodedata.normalize("NFD", "오른쪽")),
        ("glove_L1", "glove_R1"),
        ("<", ">"),
    ],
)
def test_names_with_sides(names: tuple[str, ...]) -> None:
    assert labels_with_sides(names) == names
    assert labels_with_sides(("cup", *names, "ball")) == names


@pytest.mark.parametrize(
    "names",
    [
        ("bright", "dark"),
        ("upright", "lying"),
        ("copyright", "leftover", "leftovers", "cleft"),
        ("S", "M", "L", "XL"),
        ("shirt_S", "shirt_L"),
        ("bottle_1l", "bottle_2L"),
        ("a", "b", "c"),
        ("westcoat", "vest"),
        ("mug (blue)", "mug (red)"),
        ("blinks", "stare"),
        ("1", "2", "5"),
        ("오렌지", "푸른_컵"),
        ("left_over", "leftover", "left-overs"),
        ("right_angle", "acute_angle"),
        ("vitamin_b", "vitamin_d"),
        ("bolt_L20", "bolt_L30"),
        ("levy", "tax"),
        ("trái_táo", "cam"),
        ("bal", "ball"),
        ("droit", "loi"),
        ("rechtsanwalt", "richter"),
        ("",),
        (),
    ],
)
def test_names_without_sides(names: tuple[str, ...]) -> None:
    assert labels_with_sides(names) == ()


@given(st.lists(st.text(), max_size=5))
def test_any_name_is_accepted(names: list[str]) -> None:
    assert set(labels_with_sides(names)) <= set(names)
    assert "turn_left" in labels_with_sides([*names, "turn_left"])
