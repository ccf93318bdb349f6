"""Every example in a docstring (`>>>`) runs, in a folder with the data set, run and bundle of mugs that the examples use."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

import edgefuse
from edgefuse.data.dataset import write_description, write_pair
from toy_bundle import make_toy_bundle

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ROOTS = (ROOT, ROOT / "export", ROOT / "runtime", ROOT / "benchmarks")
PACKAGES = ("edgefuse", "edgefuse_export", "edgefuse_runtime", "edgefuse_benchmarks")
LABELS = ("blue_mug", "red_mug")

TRAIN, EXPORT = "edgefuse.app.api.train", "edgefuse.app.api.export"


class Documented(NamedTuple):
    """A docstring with examples."""

    module: str
    name: str
    text: str
    path: Path
    line: int

    def __str__(self) -> str:
        return f"{self.module}.{self.name}".rstrip(".")


def _sources() -> list[tuple[str, Path]]:
    """Module name and file of each source file that has an example."""
    paths = [(root, path) for root in SOURCE_ROOTS for name in PACKAGES for path in sorted((root / name).rglob("*.py"))]
    return [
        (".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"), path)
        for root, path in paths
        if ">>>" in path.read_text(encoding="utf-8")
    ]


def _documented(module: str, path: Path) -> Iterator[Documented]:
    def below(node: Any, name: str) -> Iterator[Documented]:
        text = ast.get_docstring(node) or ""
        if ">>>" in text:
            yield Documented(module, name, text, path, node.body[0].lineno)
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef):
                yield from below(child, f"{name}.{child.name}".lstrip("."))

    yield from below(ast.parse(path.read_text(encoding="utf-8")), "")


DOCUMENTED = [found for module, path in _sources() for found in _documented(module, path)]


def mug_pair(*labels: str) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """480x640; from left to right a view of each label: blue is near and red is far, as classified by the toy bundle."""
    rgb = np.random.default_rng(0).integers(60, 100, (30, 40, 3), np.uint8).repeat(16, axis=0).repeat(16, axis=1)
    depth = np.hstack([np.full((480, 640 // len(labels)), 1200 if label == "red_mug" else 300) for label in labels])
    return rgb, depth.astype(np.uint16)


@pytest.fixture(scope="module")
def mugs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the data set `mugs`; two of the twenty pairs of the sequences `left_*` have the other label."""
    root = tmp_path_factory.mktemp("mugs")
    for label in LABELS:
        for sequence in ("left_1", "left_2", "right_1", "right_2"):
            for frame in range(6 if sequence == "left_1" else 4):
                is_odd = (label, sequence) == ("blue_mug", "left_1") and frame < 2
                rgb, depth = mug_pair("red_mug" if is_odd else label)
                write_pair(root / "mugs" / label / sequence, f"frame_{frame}", rgb[:120, :160], depth[:120, :160])
    write_description(root / "mugs")
    return root


@pytest.fixture
def folder(mugs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """The working folder: the data set, and files that the example needs."""
    (tmp_path / "mugs").symlink_to(mugs / "mugs")
    name = str(request.getfixturevalue("found"))
    if name == EXPORT:
        recipe = edgefuse.recipes.small_rgbd(epochs=1, size=32, num_threads=1)
        edgefuse.train(tmp_path / "mugs", tmp_path / "runs" / "mugs", recipe=recipe)
    elif name != TRAIN:
        make_toy_bundle(tmp_path / "bundles" / "mugs", labels=LABELS)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("found", DOCUMENTED, ids=str)
def test_examples_in_docstrings_run(found: Documented, folder: Path) -> None:
    assert "+SKIP" not in found.text
    rgb, depth = mug_pair(*(LABELS if found.name.endswith(".batch") else ("red_mug",)))
    names = {**vars(importlib.import_module(found.module)), "rgb": rgb, "depth": depth}
    examples = doctest.DocTestParser().get_doctest(found.text, names, str(found), str(found.path), found.line - 1)
    report: list[str] = []
    doctest.DocTestRunner(verbose=False).run(examples, out=report.append)
    assert not report, "".join(report)


def test_every_example_is_found() -> None:
    written = sum(path.read_text(encoding="utf-8").count(">>> ") for _, path in _sources())
    assert sum(found.text.count(">>> ") for found in DOCUMENTED) == written > 0


def test_public_names_have_an_example() -> None:
    public = {name: getattr(edgefuse, name) for name in edgefuse.__all__ if name != "recipes"}
    recipes = edgefuse.recipes
    public |= {
        name: value
        for name, value in vars(recipes).items()
        if inspect.isfunction(value) and value.__module__ == recipes.__name__ and name.endswith("_rgbd")
    }
    public["Classifier.batch"] = edgefuse.Classifier.batch
    assert [name for name, value in public.items() if ">>> " not in (value.__doc__ or "")] == []


def test_a_wrong_example_fails() -> None:
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, 0)
    assert doctest.DocTestRunner(verbose=False).run(wrong, out=lambda _text: None).failed == 1
