"""What the page of `edgefuse data browse` serves, who may use it, and that changes lose nothing. With real clients."""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import numpy as np
import pytest
from browse_scenes import add_whole_images, browsed, collection, keys_of, small_set
from page_scenes import TOKEN, until
from runtime_scenes import draw_pair

from edgefuse.data.dataset import write_pair
from edgefuse.errors import UserError
from edgefuse.io.images import read_rgb, write_image
from edgefuse.io.new_files import held
from edgefuse_runtime.browse.index import Index
from edgefuse_runtime.browse.label_issues import label_issues
from edgefuse_runtime.browse.serve import browsing
from edgefuse_runtime.browse.sources import open_source
from toy_bundle import make_toy_bundle


def test_images_are_small_and_large_and_are_kept_by_the_browser(tmp_path: Path) -> None:
    root = tmp_path / "objects"
    write_pair(
        root / "a/s", "f", np.zeros((480, 640, 3), np.uint8), np.arange(480 * 640, dtype=np.uint16).reshape(480, 640)
    )
    with browsed(root) as page:
        row = page.row("a/s/f")
        for kind in ("rgb", "depth"):
            for size, width in (("small", 240), ("large", 640)):
                answer = page.get(f"/data/{row['id']}/{kind}.jpg?size={size}&v={row['stamp']}")
                assert read_rgb(Path("x.jpg"), answer.content).shape == (width * 3 // 4, width, 3)
                assert "immutable" in answer.headers["cache-control"]


def test_the_whole_image_of_a_collected_pair_has_its_region_marked(tmp_path: Path) -> None:
    root = collection(tmp_path / "collected")
    add_whole_images(root)
    with browsed(root, bundle=make_toy_bundle(tmp_path / "bundle").folder) as page:
        row, other = page.row("near/live/a"), page.row("far/s1/f0")
        assert (row["has_whole"], other["has_whole"]) == (True, False)
        assert page.get(f"/data/{other['id']}/rgb.jpg?size=whole").status_code == 404
        for kind in ("rgb", "depth"):
            part = read_rgb(Path("x.jpg"), page.get(f"/data/{row['id']}/{kind}.jpg?size=large").content)
            image = read_rgb(Path("x.jpg"), page.get(f"/data/{row['id']}/{kind}.jpg?size=whole").content)
            assert (part.shape, image.shape) == ((48, 64, 3), (120, 160, 3))
            outline = image[30:60, [30, 94]].astype(int).min(axis=2)  # the left and the right side, white
            assert outline.mean() > 180 and image[30:60, 60].astype(int).min(axis=1).mean() < 120
        shutil.rmtree(root / ".frames")
        assert not page.row("near/live/a")["has_whole"]
        assert page.get(f"/data/{row['id']}/rgb.jpg?size=whole").status_code == 404


def test_an_image_is_served_while_a_change_moves_it(tmp_path: Path) -> None:
    """The page asks for a pair's images and labels it right after, so that both arrive together."""
    root = small_set(tmp_path / "objects")
    with browsed(root) as page, ThreadPoolExecutor(3) as pool:
        number = page.row("near/s1/f0")["id"]
        asked = [f"/data/{number}/{kind}.jpg?size=small" for kind in ("rgb", "depth")]
        stopped = threading.Event()

        def ask(path: str) -> set[int]:
            codes = set()
            while not stopped.is_set():
                codes.add(page.get(path).status_code)
            return codes

        answers = [pool.submit(ask, path) for path in asked]
        try:
            for label in ("far", "near") * 20:
                (row,) = (row for row in page.rows() if row["id"] == number)
                assert page.label(label, row).status_code == 200
        finally:
            stopped.set()
        assert [answer.result() for answer in answers] == [{200}, {200}]


def test_whole_images_are_those_of_the_collection(tmp_path: Path) -> None:
    root = collection(tmp_path / "collected")
    add_whole_images(root, whole=".frames/../../outside/a")
    shutil.copytree(root / ".frames/live", tmp_path / "outside")
    with browsed(root) as page:
        row = page.row("near/live/a")
        assert not row["has_whole"] and page.get(f"/data/{row['id']}/rgb.jpg?size=whole").status_code == 404
    add_whole_images(root, roi=(-(10**30), 10, 10**400, 5))
    with browsed(root) as page:
        assert page.get(f"/data/{page.row('near/live/a')['id']}/rgb.jpg?size=whole").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "/data/../changes.jsonl",
        "/data/1/../../../objects/dataset.json",
        "/data/%2e%2e%2f%2e%2e%2fdataset.json",
        "/data/1/..%2frgb.jpg",
        "/data/1/x.jpg",
        "/data/-1/rgb.jpg",
        "/data/99/rgb.jpg",
        "/data/1/rgb.jpg?size=huge",
        "/data/far/s1/f0_rgb.png",
        "/static/..%2fbrowse_app.py",
        "/static/../browse_app.py",
    ],
)
def test_only_images_of_the_data_set_are_served(tmp_path: Path, path: str) -> None:
    with browsed(small_set(tmp_path / "objects")) as page:
        answer = _raw(page.port, path)
        assert answer.startswith(b"HTTP/1.1 404"), answer[:200]


def _raw(port: int, path: str) -> bytes:
    """A request whose path no client has simplified."""
    import socket

    with socket.create_connection(("127.0.0.1", port)) as connection:
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n".encode())
        return b"".join(iter(lambda: connection.recv(65536), b""))


def test_access_rules_hold_for_every_address(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root, token=TOKEN) as page:
        row = page.rows()[0]
        body = {"run": page.state()["run"], "items": [[row["id"], row["version"]]]}
        for path in ("/", "/state", "/pairs", f"/data/{row['id']}/rgb.jpg", "/static/browse.js"):
            assert httpx.get(page.url + path).status_code == 401, path
            assert page.get(path, host="evil.example").status_code == 421, path
        for path in ("/label", "/delete", "/undo"):
            assert httpx.post(page.url + path, json=body).status_code == 401
            from_elsewhere = page.headers | {"origin": "http://evil.example"}
            assert httpx.post(page.url + path, json=body, headers=from_elsewhere).status_code == 403
            as_form = page.headers | {"content-type": "text/plain"}
            assert httpx.post(page.url + path, content=json.dumps(body), headers=as_form).status_code == 415
            for bad in ({}, {"items": "x"}, {"items": [[1]], "label": "x"}, {"items": [["1", 1]]}):
                assert (
                    httpx.post(page.url + path, json={"run": body["run"], **bad}, headers=page.headers).status_code
                    == 400
                )
            large = httpx.post(page.url + path, json={**body, "more": "x" * 20_000}, headers=page.headers)
            assert large.status_code == 400
            assert httpx.post(page.url + path, json={**body, "run": "other"}, headers=page.headers).status_code in (
                400,
                409,
            )
        assert page.get("/pairs?show=x").status_code == page.get("/pairs?start=-1").status_code == 400
        assert page.get("/pairs?ids=1,x").status_code == 400
    assert len(keys_of(root)) == 4 and not (root / "changes.jsonl").exists()
    with pytest.raises(UserError, match="EDGEFUSE_TOKEN is not set"), browsing([root], web="0.0.0.0:8099"):
        pass


@pytest.mark.parametrize(
    "label", ["", "..", ".hidden", "a/b", "a\\b", "a\nb", "x" * 300, "none", "unknown", "_review", "test set"]
)
def test_impossible_classes_are_refused(tmp_path: Path, label: str) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        assert page.label(label, page.rows()[0]).status_code == 400
    assert len(keys_of(root)) == 4


def test_a_name_that_is_taken_gets_a_number(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        first = page.row("far/s1/f0")
        assert page.label("near", first).status_code == 200
        assert keys_of(root) == ["far/s2/f1", "near/s1/f0", "near/s1/f0-2", "near/s1/f2"]
        assert page.label("near", page.row("near/s1/f0-2")).json()["message"] == "They have that label already."
        page.undo()
    assert keys_of(root) == ["far/s1/f0", "far/s2/f1", "near/s1/f0", "near/s1/f2"]


def test_a_failure_in_the_middle_changes_nothing(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        rows = [page.row("far/s1/f0"), page.row("near/s1/f2")]
        (root / ".trash/1/near/s1").mkdir(parents=True)
        (root / ".trash/1/near/s1/f2_rgb.png").write_text("another file")
        answer = page.delete(*rows)
        assert answer.status_code == 409 and "another program has moved files" in answer.text
        assert len(keys_of(root)) == 4 and (root / ".trash/1/near/s1/f2_rgb.png").read_text() == "another file"
        assert page.delete(*rows).status_code == 200  # as change 2
        page.undo()
    assert len(keys_of(root)) == 4


def test_undo_needs_its_files(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        page.delete(page.row("far/s1/f0"))
        last = page.state()["last"]
        shutil.copytree(root / ".trash/1/far/s1", root / "far/s1")  # recorded again
        assert page.undo().status_code == 409
        shutil.rmtree(root / ".trash")
        answer = page.undo()
        assert answer.status_code == 409 and "was moved or removed by another program" in answer.text
        assert page.post("/undo", source=last["source"], number=99).status_code == 409
        assert page.post("/undo", source=7, number=1).status_code == 409
    assert len(keys_of(root)) == 4


def test_two_programs_can_change_a_data_set(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as first, browsed(root) as second:
        rows = [first.row("far/s1/f0"), second.row("far/s1/f0")]
        assert first.label("near", rows[0]).status_code == 200
        assert second.delete(rows[1]).status_code == 409
        assert second.row("near/s1/f0-2")["state"] == "shown"
        assert second.delete(second.row("near/s1/f2")).status_code == 200
        assert first.undo().json()["message"] == "undone: near/s1/f2 deleted"
        assert second.undo().json()["message"] == "undone: far/s1/f0 labelled near"
    assert keys_of(root) == ["far/s1/f0", "far/s2/f1", "near/s1/f0", "near/s1/f2"]


def test_of_many_requests_for_one_pair_one_succeeds(tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page:
        row, statuses = page.row("far/s1/f0"), list[int]()
        threads = [
            threading.Thread(target=lambda n=n: statuses.append(page.label(f"class{n}", row).status_code))
            for n in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert sorted(statuses) == [200] + [409] * 7 and len(keys_of(root)) == 4


def test_a_change_waits_for_the_collector(tmp_path: Path) -> None:
    root = collection(tmp_path / "collected")
    with browsed(root) as page:
        row = next(row for row in page.rows() if row["is_review"])
        thread = threading.Thread(target=page.label, args=("near", row))
        with held(root / "dataset.json"):
            thread.start()
            thread.join(0.5)
            assert thread.is_alive() and "near/live/a" not in keys_of(root)
        thread.join()
    assert len(keys_of(root)) == 3


def test_an_index_of_ten_thousand_pairs_is_fast(tmp_path: Path) -> None:
    """Loose limits: a laptop takes a tenth of them."""
    import time

    source = small_set(tmp_path / "one")
    root = tmp_path / "objects"
    for sequence in range(100):
        (root / f"far/s{sequence}").mkdir(parents=True)
        for number in range(100):
            for kind in ("rgb", "depth"):
                os.link(source / f"far/s1/f0_{kind}.png", root / f"far/s{sequence}/{number}_{kind}.png")
    started_s = time.monotonic()
    index = Index([open_source(root)])
    opened_s = time.monotonic() - started_s
    with browsed(root) as page:
        started_s = time.monotonic()
        rows = page.rows("start=5000&count=60")
        listed_s = time.monotonic() - started_s
        started_s = time.monotonic()
        assert page.label("near", rows[0]).status_code == 200
        labelled_s = time.monotonic() - started_s
    print(f"open {opened_s:.2f} s, page {listed_s:.2f} s, label {labelled_s:.2f} s")
    assert len(index.entries) == 10_000 and len(rows) == 60
    assert opened_s < 20 and listed_s < 3 and labelled_s < 3


def test_datalab_finds_a_wrong_label() -> None:
    pytest.importorskip("cleanlab")
    pytest.importorskip("datasets")
    rng = np.random.default_rng(1)
    labels = [number % 3 for number in range(90)]
    scores = [np.eye(4, dtype=np.float32)[label] * 0.9 + rng.random(4).astype(np.float32) * 0.1 for label in labels]
    scores = [score / score.sum() for score in scores]
    labels[7] = 2  # shows class 1
    assert min(label_issues(labels, scores).items(), key=lambda item: item[1])[0] == 7


def test_without_cleanlab_the_page_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cleanlab", None)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with browsed(small_set(tmp_path / "objects"), bundle=make_toy_bundle(tmp_path / "bundle").folder) as page:
        assert page.rows("show=issues") == []
        until(lambda: "edgefuse[curate]" in page.state()["message"])


def _npy(root: Path) -> None:
    rgb, depth = draw_pair("near")
    write_image(root / "mug/s1/f_rgb.png", rgb)
    np.save(root / "mug/s1/f_depth.npy", depth.astype(np.float32) / 1000)


def _tum(root: Path) -> None:
    rgb, depth = draw_pair("near")
    for kind, image in (("rgb", rgb), ("depth", depth)):
        write_image(root / kind / "1.0.png", image)
        (root / f"{kind}.txt").write_text(f"1.0 {kind}/1.0.png\n")


def _washington(root: Path) -> None:
    rgb, depth = draw_pair("near")
    write_image(root / "mug/mug_1/mug_1_1_1_crop.png", rgb)
    write_image(root / "mug/mug_1/mug_1_1_1_depthcrop.png", depth)


@pytest.mark.parametrize("make", [_npy, _tum, _washington])
def test_the_layout_is_recognised_and_read(tmp_path: Path, make: Callable[[Path], None]) -> None:
    root = tmp_path / "mug"
    make(root)
    source = open_source(root)
    (pair,) = source.pairs()
    rgb, depth = source.read(pair.key)
    assert f"_{source.layout}" == make.__name__ and source.read_only.startswith(f"Read-only: {root} has the layout")
    assert pair.label == "mug" and rgb.shape == (48, 64, 3) and depth.any()


def test_what_is_no_data_set_is_refused(tmp_path: Path) -> None:
    (tmp_path / "_review").mkdir()
    for root, words in (
        (tmp_path / "none", "is not a folder"),
        (tmp_path / "_review", "is the unchecked part of a collection"),
    ):
        with pytest.raises(UserError, match=words):
            open_source(root)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="has no pairs"):
        open_source(tmp_path / "empty")
