"""From wrong answers of a running model to a better one: python examples/improve.py OUT

Records the built-in camera, trains, runs live with --web and --collect, marks three wrong frames on the page with a headless
Chromium, trains again, and scores both models: on these frames, and on all others of the camera's scenes.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import edgefuse
from edgefuse.framing import ANY_CROP
from edgefuse_runtime.camera import Frame
from edgefuse_runtime.cameras.synthetic import FRAMES_PER_SCENE, NUM_SCENES, Synthetic
from edgefuse_runtime.recording.record import record
from edgefuse_runtime.regions.region import Region

NUM_FRAMES = NUM_SCENES * FRAMES_PER_SCENE
"""Then the camera shows the same frames again."""
NUM_COPIES = 4
"""The corrected frames are a few among many: each is in the training data so many times."""
WRONG = """({ objects, places }) => {
  const text = document.querySelector(".under .bad")?.textContent ?? "";
  const place = (Number(document.querySelector("#frame").textContent.replace(/\\D/g, "")) - 1) % NUM_FRAMES;
  const object = Math.floor(place / FRAMES_PER_SCENE);
  const isLikeAnother = places.some((other) => Math.abs(place - other) < 6);
  if (!text.startsWith("wrong: ") || !objects.includes(object) || isLikeAnother) return null;
  document.querySelector("#wrong").click();
  return { place, object, truth: text.slice("wrong: ".length) };
}""".replace("NUM_FRAMES", str(NUM_FRAMES)).replace("FRAMES_PER_SCENE", str(FRAMES_PER_SCENE))
"""Waits on the page for a wrong answer to a frame of one of some objects, and presses the button at once."""


class KnownRegion:
    """The region that the built-in camera knows for each frame."""

    word = ANY_CROP

    def __call__(self, frame: Frame) -> tuple[Region]:
        assert frame.roi is not None
        return (Region(frame.roi),)


@dataclass(frozen=True)
class Scores:
    """Fractions of right answers."""

    marked: float
    others: float


@dataclass(frozen=True)
class Improvement:
    """The marked frames, and the scores of both models."""

    marked: tuple[str, ...]
    before: Scores
    after: Scores


def record_scenes(root: Path, *, num_scenes: int) -> None:
    """Record objects of the built-in camera, one sequence each. Live sees other objects."""
    with Synthetic(seed=1, num_scenes=num_scenes) as camera:
        for number in range(num_scenes):
            first = camera.read(0)
            assert first is not None and first.label is not None
            record(
                camera=camera,
                root=root,
                label=first.label,
                sequence=f"object_{number}",
                num_frames=(FRAMES_PER_SCENE - 1) // 2,
                every=2,
                region=KnownRegion(),
            )
            camera.read(0)


def train_and_export(data: list[Path], out: Path, *, epochs: int) -> Path:
    """Train on data sets and export; returns the bundle."""
    recipe = edgefuse.recipes.small_rgbd(size=64, epochs=epochs, batch_size=8, validation_fraction=0.0, num_threads=1)
    run = edgefuse.train([str(path) for path in data], out / "run", recipe=recipe)
    return edgefuse.export(run, out / "bundle").folder


@contextlib.contextmanager
def live(bundle: Path, collected: Path) -> Iterator[str]:
    """Run `edgefuse live`; yields the address of its page."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["live", bundle, "--camera", "synthetic", "--web", port, "--collect", collected]
    with subprocess.Popen([sys.executable, "-m", "edgefuse", *map(str, command)], stdout=subprocess.DEVNULL) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


def answers(bundle: Path) -> list[str]:
    """For each frame of the camera "right", "wrong", or "none": without a sensor, a model may have no answer."""
    found: list[str] = []
    with edgefuse.Classifier(bundle) as classifier, Synthetic() as camera:
        for _ in range(NUM_FRAMES):
            frame = camera.read(0)
            assert frame is not None
            label = classifier(frame.rgb, frame.depth, depth_unit_m=frame.depth_unit_m, roi=frame.roi).label
            found.append("none" if label is None else "right" if label == frame.label else "wrong")
    return found


def mark_wrong_frames(url: str, *, objects: list[int], num_frames: int) -> list[dict[str, Any]]:
    """Mark wrong answers for some objects on the page, one object after the other, with their true classes."""
    from playwright.sync_api import Error, sync_playwright

    marked: list[dict[str, Any]] = []
    with sync_playwright() as playwright:
        path = shutil.which("chromium") or shutil.which("google-chrome")
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-dev-shm-usage"])
        page = browser.new_page()
        for _ in range(200):  # until live serves it
            with contextlib.suppress(Error):
                page.goto(url)
                break
            page.wait_for_timeout(200)
        while len(marked) < num_frames:
            counts = Counter(one["object"] for one in marked)
            fewest = min(counts[number] for number in objects)
            asked = {
                "objects": [number for number in objects if counts[number] == fewest],
                "places": [one["place"] for one in marked],
            }
            found = page.wait_for_function(WRONG, arg=asked, polling=20, timeout=120_000).json_value()
            page.select_option("#choice", found["truth"])
            page.click("#save")
            page.locator("#done", has_text=f"is kept as {found['truth']}").wait_for()
            marked.append(found)
        browser.close()
    return marked


def score(found: list[str], marked: list[dict[str, Any]]) -> Scores:
    """Fractions of right answers to the marked frames, and to all other frames of the camera."""
    places = {one["place"] for one in marked}
    others = [answer for place, answer in enumerate(found) if place not in places]
    return Scores(sum(found[place] == "right" for place in places) / len(places), others.count("right") / len(others))


def improve(out: Path, *, num_scenes: int = 12, epochs: int = 24, num_frames: int = 3) -> Improvement:
    """The whole loop; writes everything to `out`."""
    data, collected = out / "data", out / "collected"
    record_scenes(data, num_scenes=num_scenes)
    first = train_and_export([data], out / "first", epochs=epochs)
    before = answers(first)
    wrong = sorted({place // FRAMES_PER_SCENE for place, answer in enumerate(before) if answer == "wrong"})
    with live(first, collected) as url:
        marked = mark_wrong_frames(url, objects=wrong, num_frames=num_frames)
    copies = [collected, *(out / f"copy_{number}" for number in range(1, NUM_COPIES))]
    for copy in copies[1:]:
        shutil.copytree(collected, copy)
    after = answers(train_and_export([data, *copies], out / "second", epochs=epochs))
    names = tuple(f"frame {one['place'] + 1}: {one['truth']}" for one in marked)
    return Improvement(names, score(before, marked), score(after, marked))


def main() -> None:
    result = improve(Path(sys.argv[1]))
    print("marked as wrong: " + ", ".join(result.marked))
    for name, scores in (("first model", result.before), ("second model", result.after)):
        print(f"{name}: {scores.marked:.0%} of the marked frames are right, {scores.others:.1%} of the others")


if __name__ == "__main__":
    main()
