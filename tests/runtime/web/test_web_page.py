"""The page in a headless Chromium: what it shows, its buttons, and what happens when the camera or the device goes away."""

from __future__ import annotations

import contextlib
import re
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Viewer
from page_scenes import LOST, RUNNING, TOKEN, Kept, Run, free_port, page_of_a_run

from edgefuse.io.images import read_rgb
from edgefuse_runtime.sensor_health import SensorStates

pytestmark = pytest.mark.slow

EVIL = "<img src=x onerror=alert(1)>"


@contextlib.contextmanager
def shown(chromium: Any, *, run: Run, **options: Any) -> Iterator[Viewer]:
    """The page of a run that publishes results. It must cause no error and talk to no other host."""
    with run.publishing():
        viewer = Viewer(chromium, run.url, **options)
        try:
            viewer.wait_until_shown()
            yield viewer
        finally:
            viewer.context.close()
    assert viewer.errors == []
    assert viewer.hosts == {f"127.0.0.1:{run.port}"}


def test_the_page_shows_the_answer_the_sensors_and_the_speed(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        viewer.wait("#latency", "latency")
        assert viewer.text(".label") == "near" and "90 %" in viewer.text(".under") and "0.62 m" in viewer.text(".under")
        assert viewer.text("#camera-text") == "Running" and viewer.text("#title") == "mugs"
        assert (viewer.text("#now-rgb"), viewer.text("#now-depth")) == ("59 %", "41 %")
        row = viewer.page.locator("#latency td").all_inner_texts()
        assert row == ["4.3", "4.3", "4.3", "4.3"]
        assert "infer 3.5" in viewer.text("#stage-key") and "2 dropped" in viewer.text("#rates")
        facts = viewer.text("#run")
        assert "ONNX Runtime, CPU" in facts and "FP16" in facts and "D435" in facts
        assert viewer.page.locator("#minute rect").count() >= 2
        assert viewer.page.locator("#rgb").get_attribute("aria-label") == "Colour image: near · 90 % · 0.62 m"
        pixels = viewer.page.locator("#rgb").screenshot()
        image = read_rgb(Path("x.png"), pixels)
        assert image[-20, 20, 0] > 150 > image[-20, 20, 2]  # the red frame is there


CONTRASTS = """() => {
  const levels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => levels(colour).slice(0, 3).map((v) => v / 255)
    .map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4).reduce((sum, v, i) => sum + v * [.2126, .7152, .0722][i], 0);
  const isPainted = (colour) => (levels(colour)[3] ?? 1) > .5;
  const ground = (one) => {
    while (one && !isPainted(getComputedStyle(one).backgroundColor)) one = one.parentElement;
    return getComputedStyle(one ?? document.body).backgroundColor;
  };
  const texts = [...document.querySelectorAll("body *")].filter((one) => !one.closest(".image, figure, svg, [disabled]") && one.checkVisibility()
    && [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim()));
  return texts.map((one) => {
    const [a, b] = [light(getComputedStyle(one).color), light(ground(one))];
    return [one.textContent.trim().slice(0, 40), (Math.max(a, b) + .05) / (Math.min(a, b) + .05), b];
  });
}"""
"""Text, its contrast to its background, and the background's luminance, of every text on the page that is not over an image."""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_texts_can_be_read_in_both_colour_schemes(chromium: Any, scheme: str) -> None:
    """A contrast of 4.5, as WCAG 2.2 requires (1.4.3)."""
    with page_of_a_run() as run, shown(chromium, run=run, color_scheme=scheme) as viewer:
        viewer.wait("#latency", "latency")
        for changes in ({}, {"label": None, "probability": None, "top": (), "sensors": SensorStates(depth="missing")}):
            run.changes = changes
            viewer.wait("#camera-text", "Depth is missing" if changes else "Running", timeout_s=5)
            found = viewer.page.evaluate(CONTRASTS)
            assert len(found) > 20
            assert [(text, contrast) for text, contrast, _ in found if contrast < 4.5] == []
            usual = sorted(ground for _, _, ground in found)[len(found) // 2]  # not that of buttons
            assert usual < 0.05 if scheme == "dark" else usual > 0.8


def test_labels_change_and_old_images_go(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        viewer.wait(".label", "near")
        run.changes = {"label": "far"}
        viewer.wait(".label", "far", timeout_s=3)
        run.changes = {"label": None, "probability": None, "top": (), "sensors": SensorStates(depth="missing")}
        viewer.wait("#camera-text", "Depth is missing", timeout_s=3)
        assert viewer.text(".label") == "no decision" and "depth is missing" in viewer.text(".warning")
        assert viewer.text("#now-depth") == "missing" and viewer.text("#now-rgb") == "100 %"


def test_a_lost_camera_shows_within_two_seconds_and_recovers(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        viewer.wait("#camera-text", "Running")
        run.camera(LOST)
        viewer.wait("#camera-text", "Camera lost", timeout_s=2)
        viewer.wait("#veil", "Camera lost", timeout_s=2)
        assert "the cable is loose" in viewer.text("#notice")
        run.camera(LOST | {"attempt": 7})
        viewer.wait("#veil", "attempt 7", timeout_s=2)
        run.camera(RUNNING)
        viewer.wait("#camera-text", "Running", timeout_s=2)
        assert not viewer.page.locator("#veil").is_visible()
        run.camera({"state": "degraded", "reason": "the depth sensor sends no images"})
        viewer.wait("#notice", "the depth sensor sends no images", timeout_s=2)


def test_silence_of_a_running_camera_is_shown(chromium: Any) -> None:
    with page_of_a_run() as run:
        viewer = Viewer(chromium, run.url)
        with run.publishing():
            viewer.wait_until_shown()
        viewer.wait("#camera-text", "No result for", timeout_s=5)
        viewer.wait("#rates", "0.0 results/s", timeout_s=2)
        viewer.context.close()


def test_names_with_html_are_text(chromium: Any) -> None:
    facts = {"model": {"labels": [EVIL, "far"]}, "camera": {"name": EVIL, "capture": {"state": {"name": "running"}}}}
    with page_of_a_run(collector=Kept(), **facts) as run, contextlib.ExitStack() as stack:
        run.changes = {"label": EVIL, "top": ((EVIL, 0.9),), "expected": EVIL}
        viewer = stack.enter_context(shown(chromium, run=run))
        dialogs: list[object] = []
        viewer.page.on("dialog", lambda dialog: dialogs.append(dialog.dismiss()))
        viewer.wait(".label", EVIL)
        run.bus.event("decided", EVIL, label=EVIL)
        viewer.wait("#events", EVIL)
        run.camera(LOST | {"reason": EVIL})
        viewer.wait("#notice", EVIL)
        viewer.page.click("#wrong")
        viewer.wait("#dialog-text", EVIL)
        images = viewer.page.locator("img").evaluate_all("(all) => all.map((image) => image.getAttribute('src'))")
        assert all(source.startswith("/thumbnails/") for source in images) and dialogs == []


def test_several_objects_unknown_ones_and_none(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        top = (("far", 0.9), ("near", 0.1))
        run.changes = {"label": "unknown", "top": top, "object": 7, "decided": "near", "region": 2}
        viewer.wait("#regions .label.quiet", "unknown")
        under = viewer.text(".under")
        assert "object 7: near" in under and "far 90 %" in under  # which class it may be
        run.changes = {"label": "none", "probability": None, "top": (), "roi": None, "region": None}
        viewer.wait("#regions", "No object in view.")
        assert viewer.text("#camera-text") == "Running" and not viewer.page.locator("#veil").is_visible()
        assert viewer.page.locator("#rgb").get_attribute("aria-label") == "Colour image: no region"
        run.changes, run.num_regions = {"label": "far"}, 3
        viewer.page.locator("#regions.several .label").nth(2).wait_for()
        found = []
        while 3 not in found and len(found) < 10:
            # On a busy machine, a frame may be shown before its last region comes.
            viewer.page.click("#wrong")
            found.append(viewer.page.locator("#choice-region option").count())
            viewer.page.click("#cancel")
        assert found[-1] == 3, found


def test_an_object_is_an_event_with_its_image(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        run.bus.event("appeared", "object 1 appeared", roi=(4, 10, 12, 14))
        run.bus.event("decided", "object 1 is near", roi=(4, 10, 12, 14))
        run.bus.event("left", "object 1 left")
        viewer.wait("#events", "object 1 left")
        viewer.page.locator("#events img").nth(1).wait_for()
        sizes = viewer.page.locator("#events img").evaluate_all(
            "(all) => all.map((i) => [i.naturalWidth, i.naturalHeight])"
        )
        messages = viewer.page.locator("#events li p").all_inner_texts()
    assert sizes == [[12, 14]] * 2
    assert messages[:3] == ["object 1 left", "object 1 is near", "object 1 appeared"]  # the newest first


def test_pause_keeps_one_frame_while_the_run_goes_on(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        viewer.page.click("#pause")
        run.changes = {"label": "far"}
        viewer.wait("#pause[aria-pressed=true]", "Continue")
        before = viewer.text("#frame")
        viewer.wait("#done", "Paused")
        time.sleep(1)
        assert (viewer.text("#frame"), viewer.text(".label")) == (before, "near")
        assert not run.sink._wants_images  # nobody needs any
        viewer.page.click("#pause")
        viewer.wait(".label", "far", timeout_s=5)


def test_a_snapshot_and_a_clip_are_downloaded(chromium: Any, tmp_path: Path) -> None:
    with page_of_a_run() as run:
        run.scale = 4
        with shown(chromium, run=run) as viewer:
            with viewer.page.expect_download() as snapshot:
                viewer.page.click("#snapshot")
            assert re.fullmatch(r"edgefuse-\w{6}-frame-\d+\.png", snapshot.value.suggested_filename)
            image = read_rgb(Path(snapshot.value.path()).rename(tmp_path / "snapshot.png"))
            assert image.shape == (4 * 48 + 32, 2 * 4 * 64, 3)
            viewer.page.click("#clip")
            viewer.wait("#clip[aria-pressed=true]", "Stop")
            time.sleep(1.5)
            with viewer.page.expect_download() as clip:
                viewer.page.click("#clip")
            data = Path(clip.value.path()).read_bytes()
            assert (
                clip.value.suggested_filename.endswith(".webm") and data[:4] == b"\x1a\x45\xdf\xa3" and len(data) > 2000
            )


def test_a_wrong_answer_is_kept_with_its_class(chromium: Any) -> None:
    kept = Kept()
    with page_of_a_run(collector=kept) as run, shown(chromium, run=run) as viewer:
        viewer.page.click("#wrong")
        frame = int(re.findall(r"\d+", viewer.text("#dialog-text"))[0])
        assert viewer.page.locator("#choice").input_value() == "far"  # the second most likely
        viewer.page.click("#save")
        viewer.wait("#done", "is kept as far")
        viewer.page.click("#wrong")
        viewer.page.select_option("#choice", label="another class")
        viewer.page.click("#save")
        viewer.wait("#dialog-note", "Type the name")
        viewer.page.fill("#other", "spoon")
        viewer.page.keyboard.press("Enter")
        viewer.wait("#done", "is kept as spoon")
    assert kept.asked[0] == (frame - 1, "far") and kept.asked[1][1] == "spoon"
    assert kept.held == [number for number, _ in kept.asked] and kept.num_shown > 1


def test_without_a_collector_the_button_explains(chromium: Any) -> None:
    with page_of_a_run() as run, shown(chromium, run=run) as viewer:
        viewer.page.click("#wrong")
        viewer.wait("#dialog-note", "--collect DIR")
        assert not viewer.page.locator("#save").is_visible()


def test_every_control_works_with_the_keyboard(chromium: Any) -> None:
    with page_of_a_run(collector=Kept()) as run, shown(chromium, run=run) as viewer:
        reached = []
        for _ in range(4):
            viewer.page.keyboard.press("Tab")
            focused = viewer.page.locator(":focus")
            reached.append(focused.get_attribute("id"))
            assert focused.evaluate("(element) => getComputedStyle(element).outlineStyle") == "solid"
        assert reached == ["pause", "snapshot", "clip", "wrong"]
        viewer.page.keyboard.press("Enter")
        viewer.page.locator("#dialog[open]").wait_for()
        viewer.page.keyboard.press("Escape")
        viewer.page.locator("#dialog[open]").wait_for(state="detached")
        assert viewer.page.locator(":focus").get_attribute("id") == "wrong"


@pytest.mark.parametrize("days", [-400, 400])
def test_the_clock_of_the_viewer_does_not_matter(chromium: Any, days: int) -> None:
    before = f"const now = Date.now; Date.now = () => now() + {days} * 86400000;"
    with page_of_a_run() as run:
        options = {"timezone_id": "Pacific/Kiritimati", "locale": "de-DE", "before": before}
        with shown(chromium, run=run, **options) as viewer:
            run.camera(LOST)
            viewer.wait("#veil", re.compile("attempt 1, [012] s"), timeout_s=3)
            ages = viewer.page.locator("#events time").all_inner_texts()
            assert ages and all(re.fullmatch(r"now|\d+ s ago", age) for age in ages)
            run.camera(RUNNING)
            viewer.wait("#camera-text", "Running", timeout_s=3)


def test_two_pages_of_two_cameras_are_shown_at_once(chromium: Any) -> None:
    with page_of_a_run(token=TOKEN) as left, page_of_a_run(token=TOKEN[::-1]) as right:
        left.changes, right.changes = {"label": "near"}, {"label": "far"}
        context = chromium.new_context()  # one browser: both pages send their cookies to both ports
        with left.publishing(), right.publishing():
            pages = []
            for run, token in ((left, TOKEN), (right, TOKEN[::-1])):
                page = context.new_page()
                page.goto(run.url)
                page.fill("input[name=token]", token)
                page.keyboard.press("Enter")
                page.locator(".label").first.wait_for()
                pages.append(page)
            assert [page.locator(".label").first.inner_text() for page in pages] == ["near", "far"]
            pages[0].reload()
            pages[0].locator(".label").first.wait_for()
        context.close()


def test_a_wrong_token_is_refused_with_a_message(chromium: Any) -> None:
    with page_of_a_run(token=TOKEN) as run:
        viewer = Viewer(chromium, run.url)
        viewer.page.fill("input[name=token]", "wrong")
        viewer.page.keyboard.press("Enter")
        viewer.wait("[role=alert]", "That is not the token.")
        viewer.context.close()


@pytest.mark.parametrize("width", [360, 800, 1440])
def test_nothing_is_wider_than_the_screen(chromium: Any, width: int) -> None:
    long = "a_class_whose_name_has_no_place_to_break_" * 2
    with page_of_a_run() as run:
        run.changes = {"label": long, "top": ((long, 0.9), ("far", 0.1))}
        with shown(chromium, run=run, viewport={"width": width, "height": 800}) as viewer:
            wide, visible = viewer.page.locator("html").evaluate("(html) => [html.scrollWidth, html.clientWidth]")
            assert wide <= visible == width


_OLDER = """
new MutationObserver(() => {
  const version = document.querySelector('meta[name="version"]');
  if (version && version.content !== "older") version.content = "older";
}).observe(document, { childList: true, subtree: true });
"""


def test_a_page_of_another_version_is_loaded_again_once(chromium: Any) -> None:
    """Here it stays old, as if a cache kept it."""
    with page_of_a_run() as run, shown(chromium, run=run, before=_OLDER) as viewer:
        kind = viewer.page.evaluate("() => performance.getEntriesByType('navigation')[0].type")
        assert kind == "reload"
        viewer.page.wait_for_timeout(500)
        viewer.wait_until_shown()


def test_a_device_that_does_not_answer_is_shown_and_found_again(chromium: Any) -> None:
    port = free_port()
    with page_of_a_run(port=port) as run, run.publishing():
        viewer = Viewer(chromium, run.url)
        viewer.wait_until_shown()
        assert run.sink._process is not None
        run.sink._process.send_signal(signal.SIGSTOP)  # as if the cable of the network was pulled
        viewer.wait("#camera-text", "No connection", timeout_s=10)
        assert "connects again by itself" in viewer.text("#notice")
        run.sink._process.send_signal(signal.SIGCONT)
        viewer.wait("#camera-text", "Running", timeout_s=15)
        viewer.context.close()
    assert viewer.errors == []
