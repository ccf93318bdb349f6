"""Load, throttling and clocks during a measurement: from recorded /proc and /sys trees, and from real load."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from edgefuse_benchmarks.machine_state import (
    clocks_mhz,
    counters,
    during,
    gpu_throttle,
    state_notes,
    temperatures_c,
    throttle_events,
)


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n")


def stat_file(path: Path, *, busy_s: float, stolen_s: float) -> Path:
    """A /proc/stat in which each core that this process may use was busy for `busy_s`, and core 9999 for ever."""
    tick = os.sysconf("SC_CLK_TCK")
    values = f"{round(busy_s * tick)} 0 0 500 90 0 0 {round(stolen_s * tick)} 0 0"
    lines = [f"cpu{core} {values}" for core in sorted(os.sched_getaffinity(0))]
    write(path, "\n".join(["cpu  1 2 3 4 5 6 7 8 9 10", *lines, "cpu9999 999999 0 0 0 0 0 0 9999 0 0", "ctxt 1"]))
    return path


def test_the_load_of_others_and_stolen_time_are_of_the_cores_that_this_process_may_use(tmp_path: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    before = counters(sys=tmp_path, proc_stat=stat_file(tmp_path / "stat", busy_s=100, stolen_s=10))
    before["seconds"] -= 10.0
    found = during(before, sys=tmp_path, proc_stat=stat_file(tmp_path / "stat", busy_s=105, stolen_s=11))
    assert found["cores_of_others"] == pytest.approx(0.5 * cores, abs=0.1)
    assert found["cores_stolen"] == pytest.approx(0.1 * cores, abs=0.02)
    notes = " ".join(state_notes({"cpu": {"cores_usable": cores}, "during": found}))
    assert "other processes used" in notes and "away from this virtual machine" in notes


def test_the_load_of_this_process_and_its_children_is_not_that_of_others(tmp_path: Path) -> None:
    before = counters()
    if before["cpu_seconds"] is None:
        pytest.skip("/proc/stat has no times of single cores here")
    end = time.process_time() + 0.4
    while time.process_time() < end:
        pass
    subprocess.run(
        [sys.executable, "-c", "import time\nwhile time.process_time() < 0.4: pass"], check=True, env=dict(os.environ)
    )
    assert counters()["own_cpu_seconds"] - before["own_cpu_seconds"] >= 0.75
    before = counters(proc_stat=stat_file(tmp_path / "stat", busy_s=100, stolen_s=0))
    before["own_cpu_seconds"] -= 5.0 * len(os.sched_getaffinity(0))
    assert during(before, proc_stat=stat_file(tmp_path / "stat", busy_s=105, stolen_s=0))["cores_of_others"] == 0.0


def test_throttling_of_intel_processors_and_of_a_jetson_is_counted(tmp_path: Path) -> None:
    cpu = tmp_path / "devices/system/cpu/cpu0/thermal_throttle"
    write(cpu / "core_throttle_count", "3")
    write(cpu / "package_throttle_count", "7")
    write(tmp_path / "class/hwmon/hwmon2/oc1_event_cnt", "0")
    before = counters(sys=tmp_path)
    assert before["throttle_events"] == {"cpu0 core": 3, "cpu0 package": 7, "over-current oc1": 0}
    assert during(before, sys=tmp_path)["throttle_events"] == {}
    write(cpu / "core_throttle_count", "5")
    write(tmp_path / "class/hwmon/hwmon2/oc1_event_cnt", "1")
    found = during(before, sys=tmp_path)
    assert found["throttle_events"] == {"cpu0 core": 2, "over-current oc1": 1}
    assert state_notes({"during": {"throttle_events": found["throttle_events"]}}) == [
        "the processor was throttled: 3 events (cpu0 core, over-current oc1)"
    ]


def test_clocks_and_temperatures_are_read(tmp_path: Path) -> None:
    for core, kilohertz in enumerate((1_500_000, 2_201_600)):
        write(tmp_path / f"devices/system/cpu/cpu{core}/cpufreq/scaling_cur_freq", str(kilohertz))
    write(tmp_path / "class/devfreq/17000000.ga10b/cur_freq", "918000000")
    write(tmp_path / "class/thermal/thermal_zone0/type", "cpu-thermal")
    write(tmp_path / "class/thermal/thermal_zone0/temp", "48531")
    write(tmp_path / "class/thermal/thermal_zone1/type", "cv0-thermal")  # switched off: its temperature cannot be read
    assert clocks_mhz(tmp_path) == {"cpu_lowest": 1500.0, "cpu_highest": 2201.6, "17000000.ga10b": 918.0}
    assert temperatures_c(tmp_path) == {"cpu-thermal": 48.531}


def test_nothing_readable_is_nothing_to_note(tmp_path: Path) -> None:
    before = counters(sys=tmp_path, proc_stat=tmp_path / "none")
    found = during(before, sys=tmp_path, proc_stat=tmp_path / "none")
    assert (found["cores_of_others"], found["cores_stolen"], throttle_events(tmp_path)) == (None, None, {})
    assert state_notes({"during": found}) == state_notes({}) == []


@pytest.mark.parametrize(
    ("known", "mask", "reasons"),
    [
        ("clocks_event_reasons", "0x0000000000000001", []),  # idle
        ("clocks_event_reasons", "0x0000000000000024", ["power limit", "software thermal slowdown"]),
        ("clocks_throttle_reasons", "0x0000000000000040", ["hardware thermal slowdown"]),  # a driver before 535
        ("clocks_event_reasons", "[N/A]", None),
        ("nothing", "0x0", None),
    ],
)
def test_the_reasons_of_a_gpu_are_decoded(
    known: str, mask: str, reasons: list[str] | None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    script = (
        f"#!/bin/sh\ncase \"$1\" in *{known}.active) echo '0, A GPU, {mask}';; *) echo 'not a field'; exit 2;; esac\n"
    )
    (tmp_path / "nvidia-smi").write_text(script)
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    assert gpu_throttle() == ({} if reasons is None else {"0 A GPU": reasons})
