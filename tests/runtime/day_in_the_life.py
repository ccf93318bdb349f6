"""A day of `edgefuse live` as a service, in a minute: the camera is unplugged and back, colour fails, the disk is full, SIGTERM.

PYTHONPATH=tests python tests/runtime/day_in_the_life.py [SECONDS_UNPLUGGED] prints what each output said. The camera is librealsense's software device.
"""

from __future__ import annotations

import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import test_network_sinks as network
from test_systemd import environment, received

from edgefuse.degraded_mode import DegradedMode
from toy_bundle import make_toy_bundle

Row = dict[str, str]
LIVE_WITH_CAMERA = Path(__file__).with_name("live_with_camera.py")
LIMIT_S = 60.0


class Day:
    """A running `edgefuse live` with JSON lines, text lines, metrics, MQTT and systemd's socket."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.control, self.log, self.text = folder / "control", folder / "log.jsonl", folder / "text.txt"
        self.errors = folder / "errors.txt"
        self.control.write_text("")
        bundle = make_toy_bundle(folder / "bundle", degraded_mode=DegradedMode(no_rgb="predict", no_depth="abstain"))
        self.port, broker = network._free_port(), network._free_port()
        stack.enter_context(network._broker(broker, folder))
        self.topics = stack.enter_context(network._subscriber(broker))
        self.systemd = stack.enter_context(received(str(folder / "notify")))
        arguments = json.dumps({"control": str(self.control)})
        outputs = ["--jsonl", str(self.log), "--metrics", str(self.port), "--mqtt", f"127.0.0.1:{broker}/shelf/left"]
        path = os.pathsep.join([str(LIVE_WITH_CAMERA.parent), *sys.path])
        with self.text.open("w") as text, self.errors.open("w") as errors:
            self.process = subprocess.Popen(
                [sys.executable, str(LIVE_WITH_CAMERA), "ControlledRealSense", arguments, str(bundle.folder), *outputs],
                stdout=text,
                stderr=errors,
                env={**os.environ, "PYTHONPATH": path, **environment(str(folder / "notify"))},
            )
        stack.callback(self.process.kill)
        self._num_seen = self._num_warned = 0

    def lines(self) -> list[dict[str, Any]]:
        """The JSON lines so far, without one that is being written."""
        *found, _ = self.log.read_text().split("\n") if self.log.exists() else [""]
        return [json.loads(line) for line in found]

    def results(self) -> list[dict[str, Any]]:
        return [line for line in self.lines() if line["kind"] == "result"]

    def state(self) -> str:
        """The state of the camera according to the JSON lines."""
        events = [line for line in self.lines() if line.get("event") == "camera"]
        return str(events[-1]["detail"]["state"]) if events else ""

    def limit_files(self, size: int) -> None:
        """Let no file of the process grow beyond this size, as on a full disk; -1 = no limit."""
        resource.prlimit(self.process.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

    def row(self, phase: str, exit_code: str = "") -> Row:
        """What each output says at the end of a phase."""
        results = self.results()
        new, self._num_seen = results[self._num_seen :], len(results)
        last = new[-1] if new else None
        warned = [line for line in self.errors.read_text().splitlines() if line.startswith("warning")]
        news, self._num_warned = warned[self._num_warned :], len(warned)
        topics = dict(self.topics)
        camera = topics.get("shelf/left/camera", {"detail": {"state": ""}})["detail"]["state"]
        status = [line for _, lines in self.systemd.messages for line in lines if not line.startswith("WATCHDOG")]
        decided = "" if last is None else f", {last['label']} {last['sensors']['rgb']}/{last['sensors']['depth']}"
        return {
            "phase": phase,
            "JSON lines": f"{self.state()}; {len(new)} results{decided}",
            "text lines": str(sum(line.startswith("frame ") for line in self.text.read_text().splitlines())),
            "metrics": self._metrics(),
            "MQTT": f"{topics.get('shelf/left/state')}; {camera}",
            "systemd": status[-1].removeprefix("STATUS=") if status else "",
            "standard error": " / ".join(re.sub(r"^warning: |/\S+/", "", line)[:90] for line in news),
            "exit code": exit_code,
        }

    def _metrics(self) -> str:
        try:
            found = network._scrape(self.port)
        except OSError:
            return "closed"
        states = [
            name.split('"')[1] for name, value in found.items() if name.startswith("edgefuse_camera_state") and value
        ]
        sensors = "/".join(
            str(int(found.get(f'edgefuse_sensor_ok{{sensor="{name}"}}', 0))) for name in ("rgb", "depth")
        )
        failed = [name for name, value in found.items() if name.startswith("edgefuse_sink_ok") and not value]
        losses = int(found.get("edgefuse_camera_losses_total", 0))
        return f"{''.join(states)}, losses {losses}, sensors {sensors}, failed outputs {len(failed)}"


def _until(condition: Callable[[], object]) -> None:
    deadline_s = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < deadline_s, "it did not happen in time"
        time.sleep(0.1)


def live_through(folder: Path, *, unplugged_s: float) -> tuple[list[Row], dict[str, Any]]:
    """Run the day. Returns a row for each phase, and the summary."""
    with ExitStack() as stack:
        day = Day(folder, stack)
        _until(lambda: len(day.results()) > 20)
        rows = [day.row("start")]
        day.control.write_text("unplugged")
        _until(lambda: day.state() == "reconnecting")
        time.sleep(unplugged_s)
        rows.append(day.row(f"unplugged for {unplugged_s:g} s"))
        day.control.write_text("")
        _until(lambda: day.state() == "running")
        time.sleep(1)
        rows.append(day.row("plugged in"))
        day.control.write_text("no colour")
        _until(lambda: day.state() == "degraded")
        time.sleep(1)
        rows.append(day.row("colour fails"))
        day.control.write_text("")
        _until(lambda: day.state() == "running")
        time.sleep(1)
        rows.append(day.row("colour is back"))
        day.limit_files(min(day.log.stat().st_size, day.text.stat().st_size))
        time.sleep(3)
        rows.append(day.row("disk full for 3 s"))
        day.limit_files(-1)
        num_before = len(day.results())
        _until(lambda: len(day.results()) > num_before + 60)
        rows.append(day.row("space again"))
        day.process.send_signal(signal.SIGTERM)
        sent_s = time.monotonic()
        code = day.process.wait(LIMIT_S)
        took_s = time.monotonic() - sent_s
        _until(lambda: dict(day.topics).get("shelf/left/state") == "offline")
        rows.append(day.row("SIGTERM", f"{code} after {took_s:.1f} s"))
        return rows, day.lines()[-1]


def main() -> None:
    """Print the table, as Markdown, and the counts of the summary."""
    with tempfile.TemporaryDirectory() as folder:
        rows, summary = live_through(Path(folder), unplugged_s=float(sys.argv[1]) if len(sys.argv) > 1 else 5.0)
    print("| " + " | ".join(rows[0]) + " |\n" + "|---" * len(rows[0]) + "|")
    for row in rows:
        print("| " + " | ".join(row.values()) + " |")
    counts = {name: summary[name] for name in ("received", "processed", "dropped", "stale", "unfinished", "ended")}
    print(
        json.dumps(
            counts | {"sinks": [{**sink, "name": Path(sink["name"]).name} for sink in summary["sinks"]]}, indent=1
        )
    )


if __name__ == "__main__":
    main()
