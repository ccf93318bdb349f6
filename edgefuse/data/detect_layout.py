"""Guess the layout of a folder from the names in it, for error messages with the next command.

Owns the characteristic names: of other layouts, of the parts of a split, of depth in other formats. Reads no image.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from pathlib import Path

from edgefuse.io.text import printable, quoted

TITLES = {"washington": "the Washington RGB-D Object Dataset", "bu3dfe": "BU-3DFE"}
"""`--layout` of `edgefuse data convert` -> the data set's name."""
_TELLING = {
    "washington": ("*/*/*_depthcrop.png", "rgbd-dataset*/*/*/*_depthcrop.png"),
    "bu3dfe": ("*/*_F3D.wrl", "*/*_f3d.wrl"),
}


def recognised(root: Path) -> str | None:
    """The layout that the names below `root` indicate, or None."""
    for layout, patterns in _TELLING.items():
        if any(next(root.glob(pattern), None) is not None for pattern in patterns):
            return layout
    return None


def other_layout(root: Path, *, expected: str | None = None) -> str:
    """End of the error message for a folder without pairs of the `expected` layout (None = the folder layout); may be ""."""
    layout = recognised(root)
    if layout in (None, expected):
        return ""
    command = (
        f"edgefuse data convert {quoted(root)} OUT --layout {layout}"
        if expected is None
        else f"give {layout} for {expected}"
    )
    return f"; it looks like {TITLES[layout]}: {command}"


def _plain(word: str) -> str:
    """The word in lower case and without accents."""
    kept = (
        character
        for character in unicodedata.normalize("NFKD", word.casefold())
        if not unicodedata.combining(character)
    )
    return unicodedata.normalize("NFKC", "".join(kept))


_SPLIT_WORDS = {
    "train": "train training trn trainval learn learning fit entrainement apprentissage entrenamiento entreno addestramento "
    "treinamento treino trening träning opplæring uczenie treningowy treningowe обучение тренировка обучающая 训练 訓練 학습 훈련",
    "validation": "val valid validate validating validation dev devel development minival validierung validación validacion "
    "validazione validação validacao validatie walidacja валидация 验证 検証 검증",
    "test": "test tests testing tst eval evaluation evaluate evaluating holdout heldout unseen prueba pruebas prova essai essais "
    "teste testes testdev testowy testowe проверка тест тестовая 测试 測試 テスト 평가 시험",
    "fold": "fold split cv subset",
}
_PLAIN_KINDS = {_plain(word): kind for kind, words in _SPLIT_WORDS.items() for word in words.split()}
_FILLERS = frozenset(
    re.findall(
        r"\w+",
        "set sets data dataset datasets split part images image imgs img folder files x the my new ensemble jeu donnees donnée données "
        "d de des daten datensatz satz menge teil bilder datos conjunto dati dados insieme zbior zbiór выборка данные",
    )
)
_HELD_OUT = re.compile(r"(?:hold|held|left)[\W_]*out")
_NO_CLASS = re.compile(r"(?:hold|held)[\W_]*out|set|dat(?:a|en|os|i)|donnees|satz|jeu|ensemble|conjunto")
_TOY = re.compile(r"train[\W_]*sets?")
"""Names that are never classes, and names that may be one, such as "train" in a set of toys."""


def split_folders(names: Sequence[str]) -> dict[str, str]:
    """Names that are parts of a split -> "train", "validation", "test" or "fold"; empty if they may be classes.

    One such name alone may be a class (a toy train). Two kinds of them are not, nor folders that are all folds, nor "test set".
    """
    kinds = {name: kind for name in names if (kind := _split_kind(name))}
    parts = {name: kind for name, kind in kinds.items() if kind != "fold"}
    if len(set(parts.values())) > 1 or (parts and len(parts) == len(names) > 1):
        return parts
    if "train" in parts.values() and len(names) == 1:
        return parts
    plain = {name for name in parts if _NO_CLASS.search(_plain(name)) and not _TOY.fullmatch(_plain(name))}
    if plain:
        return {name: kind for name, kind in parts.items() if name in plain}
    return kinds if len(kinds) == len(names) > 1 else {}


def _split_kind(name: str) -> str | None:
    """The part of a split that a name means, if it has no other meaning: "Training set", "jeu_d_entrainement", "Testdaten"."""
    words = re.findall(r"[^\W\d_]+", _HELD_OUT.sub("holdout", _plain(re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name))))
    words = [_without_filler(word) for word in words]
    meaningful = [word for word in words if word not in _FILLERS] or [word for word in words if word == "split"]
    return _PLAIN_KINDS.get(meaningful[0]) if len(meaningful) == 1 else None


def _without_filler(word: str) -> str:
    """Testdaten -> test, valset -> val; other words are unchanged."""
    for filler in _FILLERS:
        for rest in (word.removesuffix(filler).removesuffix("s"), word.removesuffix(filler), word.removeprefix(filler)):
            if rest != word and rest in _PLAIN_KINDS:
                return rest
    return word


def is_made_by_edgefuse(files: Sequence[str]) -> bool:
    """Whether the files are those of a run or a bundle, which have images of their own."""
    return "run.json" in files or "manifest.json" in files


_AS_PAIRS = (".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")


def depth_elsewhere(names: Sequence[str], *, root: Path) -> str:
    """End of the error message for a file whose partner exists in another format: the command to convert it; "" without names."""
    if not names:
        return ""
    first = printable(min(names))
    suffixes = {Path(name).suffix.lower() for name in names}
    if suffixes & {".jpg", ".jpeg", ".bmp"} and "_depth" in first.lower():
        return f"; {first} exists, but its format has 8 bits: 16-bit PNG or TIFF was expected"
    if suffixes <= set(_AS_PAIRS):
        return f"; {first} exists: edgefuse data convert {quoted(root)} OUT --layout pairs"
    step = f"edgefuse data convert {quoted(root)} OUT --layout npy"
    if suffixes == {".npy"}:
        return f"; {first} exists: {step}"
    stem = Path(first).stem
    return f"; {first} exists: save its array as {stem}.npy (floats in metres, or uint16 codes), then {step}"
