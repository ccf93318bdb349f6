"""The page of `edgefuse data browse` in a headless Chromium: filters, keys, undo, conflicts, names with HTML, read-only data."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browse_scenes import Browsed, add_whole_images, browsed, collection, keys_of, small_set, write_set
from browser import Viewer
from page_scenes import TOKEN, until

from edgefuse.bundle import Bundle
from edgefuse.data.dataset import read_pair, scan
from edgefuse.io.json_files import read_json

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>"
LOADED = "(all) => all.every((image) => image.complete && image.naturalWidth > 0)"


@contextlib.contextmanager
def opened(
    chromium: Any, page: Browsed, *, expected: tuple[str, ...] = ("400", "409"), **options: Any
) -> Iterator[Viewer]:
    """The page, which must cause no error but the expected ones and talk to no other host. A change that is refused is expected."""
    viewer = Viewer(chromium, page.url, **options)
    try:
        viewer.page.locator("#grid li").first.wait_for()
        until(lambda: viewer.page.locator("#grid img").evaluate_all(LOADED))
        yield viewer
    finally:
        viewer.context.close()
    assert [error for error in viewer.errors if not any(status in error for status in expected)] == []
    assert viewer.hosts == {f"127.0.0.1:{page.port}"}


def names(viewer: Viewer) -> list[str]:
    """Label and name of the pairs that are shown."""
    text = "(all) => all.map((one) => `${one.querySelector('b').textContent} ${one.querySelector('p').textContent}`)"
    return list(viewer.page.locator("#grid li").evaluate_all(text))


def choose(viewer: Viewer, select: str, value: str) -> None:
    viewer.page.select_option(f"#{select}", value)


def test_pairs_are_filtered_and_sorted_by_loss(chromium: Any, tmp_path: Path, bundle: Bundle) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root, bundle=bundle.folder) as page, opened(chromium, page) as viewer:
        assert names(viewer) == ["far s1/f0", "far s2/f1", "near s1/f0", "near s1/f2"]
        assert viewer.text("#numbers") == "4 pairs, 2 classes"
        viewer.wait("#grid li", "answer: near · 100 % · loss 7.6")
        choose(viewer, "order", "loss")
        until(lambda: names(viewer)[0] == "far s2/f1")
        choose(viewer, "show", "wrong")
        until(lambda: names(viewer) == ["far s2/f1"])
        choose(viewer, "show", "all")
        choose(viewer, "label", "near")
        until(lambda: set(names(viewer)) == {"near s1/f0", "near s1/f2"})
        choose(viewer, "label", "")
        choose(viewer, "answer", "far")
        until(lambda: names(viewer) == ["far s1/f0"])
        choose(viewer, "sequence", "s2")
        viewer.wait("#empty", "No pair matches")
        choose(viewer, "answer", "")
        until(lambda: names(viewer) == ["far s2/f1"])


def test_keys_label_delete_and_undo_also_after_a_restart(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    before = keys_of(root)
    images = read_pair(root / "far/s2/f1_rgb.png", root / "far/s2/f1_depth.png")
    with browsed(root) as page, opened(chromium, page) as viewer:
        viewer.page.locator("#grid li").first.focus()
        for key in ("ArrowRight", "2"):
            viewer.page.keyboard.press(key)
        viewer.wait(".done", "far/s2/f1 labelled near")
        assert keys_of(root) == ["far/s1/f0", "near/s1/f0", "near/s1/f2", "near/s2/f1"]
        assert viewer.page.evaluate("document.activeElement.textContent").startswith("nears1/f0")  # the next one
        for key in (" ", "ArrowRight", " ", "d"):
            viewer.page.keyboard.press(key)
        viewer.wait(".done", "2 pairs deleted")
        assert (
            keys_of(root)
            == ["far/s1/f0", "near/s2/f1"]
            == sorted(
                str(sample.rgb_path.relative_to(root)).removesuffix("_rgb.png") for sample in scan([root]).samples
            )
        )
        viewer.wait("#grid li.out", "deleted")
        viewer.page.keyboard.press("z")
        viewer.wait(".done", "undone: 2 pairs deleted")
        assert viewer.page.locator("#grid li.out").count() == 0
        viewer.page.keyboard.press("d")
        viewer.wait(".done", "near/s1/f0 deleted")
    with browsed(root) as page, opened(chromium, page) as viewer:  # the browser knows nothing any more
        viewer.page.keyboard.press("z")
        viewer.wait(".done", "undone: near/s1/f0 deleted")
        viewer.page.keyboard.press("z")
        viewer.wait(".done", "undone: far/s2/f1 labelled near")
        until(lambda: sorted(names(viewer)) == ["far s1/f0", "far s2/f1", "near s1/f0", "near s1/f2"])
        until(viewer.page.locator(".undo").first.is_disabled)
    assert keys_of(root) == before and not list((root / ".trash").rglob("*.png"))
    again = read_pair(root / "far/s2/f1_rgb.png", root / "far/s2/f1_depth.png")
    assert all((one == other).all() for one, other in zip(images, again, strict=True))


STOPPED = "setInterval = () => 0"
"""A page that does not ask for changes by itself."""


def test_of_two_pages_the_second_gets_a_conflict(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with (
        browsed(root) as page,
        opened(chromium, page) as first,
        opened(chromium, page, before=STOPPED) as second,
    ):
        first.page.locator("#grid li").nth(1).focus()
        first.page.keyboard.press("2")
        first.wait(".done", "far/s2/f1 labelled near")
        second.page.locator("#grid li").nth(1).focus()
        second.page.keyboard.press("d")
        second.wait("#notice", "near/s2/f1 was changed in the meantime, by another page or program: nothing was done")
        second.wait("#grid li:nth-child(2)", "near")  # and it shows how it is now
        assert keys_of(root) == ["far/s1/f0", "near/s1/f0", "near/s1/f2", "near/s2/f1"]
        second.page.keyboard.press("d")
        second.wait(".done", "near/s2/f1 deleted")
        first.wait("#grid li.out", "deleted", timeout_s=10)


def test_a_conflict_with_another_program_is_shown(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    expected = ("400", "409", "404")  # an image that is deleted while the page asks for it
    with browsed(root) as page, opened(chromium, page, expected=expected, before=STOPPED) as viewer:
        (root / "near/s1/f2_rgb.png").write_bytes((root / "near/s1/f0_rgb.png").read_bytes())
        viewer.page.locator("#grid li").nth(3).focus()
        viewer.page.keyboard.press("1")
        viewer.wait("#notice", "near/s1/f2 was changed by another program: nothing was done")
        until(lambda: viewer.page.locator("#grid img").evaluate_all(LOADED))
        viewer.page.keyboard.press("1")  # the page shows the new image by now
        viewer.wait(".done", "near/s1/f2 labelled far")
        viewer.page.keyboard.press("z")
        viewer.wait(".done", "undone")
        until(lambda: viewer.page.locator("#grid img").evaluate_all(LOADED))
        shutil.rmtree(root / "near/s1")
        viewer.page.keyboard.press("1")
        viewer.wait("#notice", "near/s1/f2 was deleted or moved in the meantime: nothing was done")
        viewer.wait("#grid li.out", "moved or removed by another program")
        assert keys_of(root) == ["far/s1/f0", "far/s2/f1"]


def test_new_pairs_of_another_program_appear(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root) as page, opened(chromium, page) as viewer:
        write_set(root, {"cup/s9/f0": "far"})
        viewer.wait("#numbers", "5 pairs, 3 classes", timeout_s=5)
        choose(viewer, "label", "cup")
        until(lambda: names(viewer) == ["cup s9/f0"])
        assert page.state()["labels"] == ["far", "near", "cup"]  # the numbers of the others stay


def test_names_with_html_are_text(chromium: Any, tmp_path: Path) -> None:
    root = write_set(tmp_path / "objects", {f"{EVIL}/{EVIL}/{EVIL}": "far", "near/s1/f0": "near"})
    with browsed(root) as page, opened(chromium, page) as viewer:
        dialogs: list[object] = []
        viewer.page.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
        assert f"{EVIL} {EVIL}/{EVIL}" in names(viewer)
        viewer.page.locator("#grid li").nth(1).click()
        viewer.page.fill("#other", f"{EVIL}2")
        viewer.page.keyboard.press("Enter")
        viewer.wait("#one .done", f"near/s1/f0 labelled {EVIL}2")
        sources = viewer.page.locator("img").evaluate_all("(all) => all.map((image) => image.getAttribute('src'))")
        assert all(source.startswith("/data/") for source in sources) and dialogs == []
    assert keys_of(root) == [f"{EVIL}/{EVIL}/{EVIL}", f"{EVIL}2/s1/f0"]


def test_other_layouts_are_read_only(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    for path in root.rglob("*_rgb.png"):
        path.rename(path.with_name(path.name.replace("_rgb", "_RGB")))
    with browsed(root) as page, opened(chromium, page) as viewer:
        viewer.wait("#remarks", "Read-only: ")
        assert f"has the layout pairs. Labels can be changed after: edgefuse data convert {root} OUT" in viewer.text(
            "#remarks"
        )
        viewer.page.locator("#grid li").first.focus()
        viewer.page.keyboard.press("2")
        viewer.wait("#notice", "Read-only")
        assert not viewer.page.locator("footer .drop").is_visible()
    assert not (root / "changes.jsonl").exists() and len(list(root.rglob("*_RGB.png"))) == 4


def test_a_collection_shows_why_and_labelling_makes_training_data(chromium: Any, tmp_path: Path) -> None:
    root = collection(tmp_path / "collected")
    with browsed(root) as page, opened(chromium, page) as viewer:
        assert viewer.text("#numbers") == "3 pairs, 1 classes, 2 to be checked"
        choose(viewer, "show", "review")
        until(lambda: len(names(viewer)) == 2)
        viewer.wait("#grid li", "answer: unknown · 60 %")
        viewer.wait("#grid li", "kept: low margin")
        viewer.page.locator("#grid li", has_text="near ?").focus()
        viewer.page.keyboard.press("a")
        viewer.wait(".done", "labelled near")
        viewer.page.keyboard.press("z")
        viewer.wait(".done", "undone")
        assert (root / "_review/near/live/a_rgb.png").is_file()
        note = read_json(root / "_review/near/live/a.json", what="")
        assert (note["label"], note["labelled_by"]) == ("near", None)
        viewer.page.keyboard.press("1")
        viewer.wait(".done", "labelled far")
    assert keys_of(root) == ["_review/_unknown/live/b", "far/live/a", "far/s1/f0"]
    note = read_json(root / "far/live/a.json", what="")
    assert (note["label"], note["labelled_by"], note["frame"]) == ("far", "browse", 7)


def test_the_whole_image_around_a_region_is_shown(chromium: Any, tmp_path: Path) -> None:
    root = collection(tmp_path / "collected")
    add_whole_images(root)
    sizes = "(all) => all.map((image) => [image.naturalWidth, image.naturalHeight])"
    with browsed(root) as page, opened(chromium, page) as viewer:

        def shows(*size: int) -> bool:
            return bool(viewer.page.locator("#one-images img").evaluate_all(sizes) == [list(size)] * 2)

        viewer.page.locator("#grid li", has_text="near ?").click()
        until(lambda: shows(64, 48))
        assert viewer.page.get_attribute("#whole", "aria-pressed") == "false"
        viewer.page.keyboard.press("w")
        until(lambda: shows(160, 120))
        assert viewer.page.get_attribute("#whole", "aria-pressed") == "true"
        viewer.page.keyboard.press("ArrowLeft")  # a pair that is no region
        until(lambda: shows(64, 48))
        assert not viewer.page.locator("#whole").is_visible()
        viewer.page.keyboard.press("ArrowRight")
        until(lambda: shows(160, 120))
        viewer.page.click("#whole")
        until(lambda: shows(64, 48))
        viewer.page.keyboard.press("w")
        viewer.page.keyboard.press("1")  # its whole images stay with it
        viewer.wait("#one .done", "labelled far")
        until(lambda: page.row("far/live/a")["has_whole"])


def test_near_duplicates_are_side_by_side(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    (root / "far/s3").mkdir()
    for kind in ("rgb", "depth"):
        shutil.copy(root / f"near/s1/f0_{kind}.png", root / f"far/s3/g_{kind}.png")
    with browsed(root) as page, opened(chromium, page) as viewer:
        for show in ("twins", "elsewhere"):
            choose(viewer, "show", show)
            until(lambda: names(viewer) == ["far s3/g", "near s1/f0"])
        viewer.wait("#grid li", "near-duplicate 1.000")
        viewer.page.locator("#grid li").first.click()
        viewer.wait("#twin-name", "Near-duplicate: near/s1/f0")
        viewer.page.keyboard.press("Delete")
        viewer.wait("#one .done", "far/s3/g deleted")
    assert "far/s3/g" not in keys_of(root)


def test_a_page_with_a_token_asks_for_it_and_fits_on_a_phone(chromium: Any, tmp_path: Path) -> None:
    root = small_set(tmp_path / "objects")
    with browsed(root, token=TOKEN) as page:
        viewer = Viewer(chromium, page.url, viewport={"width": 390, "height": 844}, has_touch=True)
        viewer.page.fill("input[name=token]", TOKEN)
        viewer.page.click("button")
        viewer.page.locator("#grid li").nth(1).tap()
        viewer.page.locator("#buttons button", has_text="near").tap()
        viewer.wait("#one .done", "far/s2/f1 labelled near")
        assert viewer.page.evaluate("document.documentElement.scrollWidth") == 390
        viewer.context.close()
    assert viewer.errors == [] and "near/s2/f1" in keys_of(root)
