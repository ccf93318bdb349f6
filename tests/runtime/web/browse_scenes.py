"""Small data sets with labels, and their page, served as `edgefuse data browse` does."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from page_scenes import free_port, until
from runtime_scenes import draw_pair

from edgefuse.data.dataset import write_description, write_pair
from edgefuse.io.json_files import read_json, write_json
from edgefuse_runtime.browse.serve import browsing


def write_set(root: Path, pairs: dict[str, str]) -> Path:
    """A data set with pairs "class/sequence/name" that show a class of the toy bundle. No two are alike."""
    write_description(root)
    for number, (key, shown) in enumerate(pairs.items()):
        rgb, depth = draw_pair(shown, brightness=number % 50)
        noise = np.random.default_rng(number).integers(0, 256, (6, 8), dtype=np.uint8)
        rgb[..., 1] = np.kron(noise, np.ones((8, 8), np.uint8))
        write_pair(root / Path(key).parent, Path(key).name, rgb, depth)
    return root


def small_set(root: Path) -> Path:
    """Four pairs; far/s2/f1 shows "near", so that its label is wrong."""
    return write_set(root, {"far/s1/f0": "far", "far/s2/f1": "near", "near/s1/f0": "near", "near/s1/f2": "near"})


def collection(root: Path) -> Path:
    """A collection of live frames: one labelled pair, and two to be checked."""
    write_set(root, {"far/s1/f0": "far"})
    write_set(root / "_review", {"near/live/a": "near", "_unknown/live/b": "far"})
    for label, name in (("near", "a"), (None, "b")):
        noted = {
            "kind": "collected",
            "schema": 1,
            "label": label,
            "labelled_by": None,
            "reasons": ["low margin"],
            "value": 2,
            "time": "",
        }
        folder = root / "_review" / (label or "_unknown") / "live"
        write_json(folder / f"{name}.json", {**noted, "answer": label or "unknown", "probability": 0.6, "frame": 7})
    return root


def add_whole_images(root: Path, *, roi: tuple[int, ...] = (30, 20, 64, 48), whole: str = ".frames/live/a") -> None:
    """Whole images of 160x120 for the pair "a" of a `collection`."""
    rgb, depth = draw_pair("near")
    write_pair(root / ".frames/live", "a", np.resize(rgb, (120, 160, 3)), np.resize(depth, (120, 160)))
    note = root / "_review/near/live/a.json"
    write_json(note, {**read_json(note, what="the description"), "roi": list(roi), "whole": whole})


def keys_of(root: Path) -> list[str]:
    """The complete pairs below a folder, except deleted ones."""
    paths = [path for path in root.rglob("*_rgb.png") if ".trash" not in path.parts]
    assert all(path.with_name(path.name.replace("_rgb", "_depth")).is_file() for path in paths)
    return sorted(str(path.relative_to(root)).removesuffix("_rgb.png") for path in paths)


class Browsed:
    """A page that is served, and a client of its own."""

    def __init__(self, port: int, token: str | None) -> None:
        self.port, self.url = port, f"http://127.0.0.1:{port}"
        self.headers = {} if token is None else {"authorization": f"Bearer {token}"}

    def get(self, path: str, **headers: str) -> httpx.Response:
        return httpx.get(self.url + path, headers=self.headers | headers, timeout=30)

    def state(self) -> dict[str, Any]:
        return dict(self.get("/state").json())

    def rows(self, query: str = "") -> list[dict[str, Any]]:
        return list(self.get(f"/pairs?{query}").json()["rows"])

    def row(self, key: str) -> dict[str, Any]:
        return next(row for row in self.rows() if f"{row['label']}/{row['sequence']}/{row['name']}" == key)

    def post(self, path: str, **value: Any) -> httpx.Response:
        body = {"run": self.state()["run"], **value}
        return httpx.post(self.url + path, json=body, headers=self.headers, timeout=30)

    def label(self, label: str, *rows: dict[str, Any]) -> httpx.Response:
        return self.post("/label", label=label, items=[[row["id"], row["version"]] for row in rows])

    def delete(self, *rows: dict[str, Any]) -> httpx.Response:
        return self.post("/delete", items=[[row["id"], row["version"]] for row in rows])

    def undo(self) -> httpx.Response:
        last = self.state()["last"]
        return self.post("/undo", source=last["source"], number=last["number"])


@contextlib.contextmanager
def browsed(*roots: Path, token: str | None = None, bundle: Path | None = None, **options: Any) -> Iterator[Browsed]:
    port = free_port()
    with pytest.MonkeyPatch.context() as patch:
        if token is not None:
            patch.setenv("EDGEFUSE_TOKEN", token)
        with browsing(roots, web=f"127.0.0.1:{port}", bundle=bundle, **options):
            page = Browsed(port, token)
            until(lambda: _answers(page))
            yield page


def _answers(page: Browsed) -> bool:
    try:
        page.get("/static/icon.svg")
    except httpx.TransportError:
        return False
    return True
