"""Readers of energy on recorded /sys trees, the meter, and the benchmark with a counter that is known."""

from __future__ import annotations

import itertools
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from edgefuse.errors import UserError
from edgefuse_benchmarks.energy.ina3221 import find_ina3221
from edgefuse_benchmarks.energy.meter import Meter, total_of
from edgefuse_benchmarks.energy.nvml import find_nvml
from edgefuse_benchmarks.energy.rapl import ALLOW, find_rapl
from edgefuse_benchmarks.energy.source import Counter, Found, Power, Source, find_sources
from edgefuse_benchmarks.plots import save_plot
from edgefuse_benchmarks.suites.energy import BACK_TO_BACK, EnergyPlan, bench_energy


def tree(root: Path, files: dict[str, object]) -> Path:
    for name, value in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def monitor(number: int, rails: dict[str, tuple[int, int]]) -> dict[str, object]:
    """The files of one INA3221: rail -> (mV, mA)."""
    folder = f"class/hwmon/hwmon{number}"
    files: dict[str, object] = {f"{folder}/name": "ina3221", f"{folder}/in7_label": "sum of shunt voltages"}
    for channel, (name, (millivolts, milliamperes)) in enumerate(rails.items(), 1):
        files[f"{folder}/in{channel}_label"] = name
        files[f"{folder}/in{channel}_input"] = millivolts
        files[f"{folder}/curr{channel}_input"] = milliamperes
    return files


def watts(source: Source | str) -> dict[str, float]:
    assert isinstance(source, Source)
    return {rail.name: rail.read_w() for rail in source.rails if isinstance(rail, Power)}


def test_the_rails_of_an_orin_nano_are_read_and_vdd_in_is_the_module(tmp_path: Path) -> None:
    rails = {"VDD_IN": (5072, 1104), "VDD_CPU_GPU_CV": (5072, 208), "VDD_SOC": (5064, 296)}
    found = find_ina3221(tree(tmp_path, {"class/hwmon/hwmon0/name": "nvme", **monitor(3, rails)}))
    assert watts(found) == pytest.approx({"VDD_IN": 5.599, "VDD_CPU_GPU_CV": 1.055, "VDD_SOC": 1.499}, abs=1e-3)
    assert isinstance(found, Source) and (found.total, found.covers) == (("VDD_IN",), "the complete module")


def test_the_rails_of_an_agx_orin_add_up_without_the_one_that_is_part_of_another(tmp_path: Path) -> None:
    first = {"VDD_GPU_SOC": (19000, 200), "VDD_CPU_CV": (19000, 50), "VIN_SYS_5V0": (4960, 800)}
    second = {"NC": (0, 0), "VDDQ_VDD2_1V8AO": (4960, 100)}
    found = find_ina3221(tree(tmp_path, monitor(1, first) | monitor(2, second)))
    assert isinstance(found, Source) and set(watts(found)) == {*first, "VDDQ_VDD2_1V8AO"}
    assert found.total == tuple(first) and total_of(found) == "total of INA3221"


@pytest.mark.parametrize("broken", ["in1_input", "curr1_input"])
def test_a_rail_that_cannot_be_read_is_the_reason(tmp_path: Path, broken: str) -> None:
    files = monitor(1, {"VDD_IN": (5072, 1104)})
    found = find_ina3221(tree(tmp_path, {**files, f"class/hwmon/hwmon1/{broken}": "n/a"}))
    assert isinstance(found, str) and "hwmon1" in found


def zone(name: str, label: str, energy_uj: int, most_uj: int = 262_143_328_850) -> dict[str, object]:
    folder = f"class/powercap/{name}"
    return {f"{folder}/name": label, f"{folder}/energy_uj": energy_uj, f"{folder}/max_energy_range_uj": most_uj}


ZONES = {
    "class/powercap/intel-rapl/enabled": 1,
    **zone("intel-rapl:0", "package-0", 5_000_000),
    **zone("intel-rapl:0:0", "core", 3_000_000),
    **zone("intel-rapl:0:1", "dram", 1_000_000, 65_712_999_613),
    **zone("intel-rapl:1", "psys", 9_000_000),
    **zone("intel-rapl-mmio:0", "package-0", 5_000_000),
}


def test_rapl_counts_packages_and_memory_once(tmp_path: Path) -> None:
    found = find_rapl(tree(tmp_path, ZONES))
    assert isinstance(found, Source)
    joules = {rail.name: rail.read_j() for rail in found.rails if isinstance(rail, Counter)}
    assert joules == {"package-0": 5.0, "package-0 core": 3.0, "package-0 dram": 1.0, "psys": 9.0}
    assert (found.total, found.covers) == (("package-0", "package-0 dram"), "processor and memory")


def test_a_counter_that_restarts_loses_nothing(tmp_path: Path) -> None:
    most_uj = 65_532_610_987
    path = (
        tree(tmp_path, zone("intel-rapl:0", "package-0", most_uj - 1_000_000, most_uj)) / "class/powercap/intel-rapl:0"
    )
    found = find_rapl(tmp_path)
    assert isinstance(found, Source) and found.covers == "the processor, without memory"
    with Meter([found]) as meter:
        (path / "energy_uj").write_text("500000\n")
        assert meter.joules()["package-0"] == pytest.approx(1.5, abs=1e-6)
        (path / "energy_uj").write_text("2500000\n")
        assert meter.joules()["package-0"] == pytest.approx(3.5, abs=1e-6)


@contextmanager
def without_privileges() -> Iterator[None]:
    """As another user than root, for whom permissions hold."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_without_permission_the_reason_has_what_to_type() -> None:
    with tempfile.TemporaryDirectory() as folder:  # not tmp_path, which other users cannot enter
        root = tree(Path(folder), ZONES)
        root.chmod(0o755)
        (root / "class/powercap/intel-rapl:0/energy_uj").chmod(0o000 if os.geteuid() else 0o400)
        with without_privileges():
            found = find_rapl(root)
    assert isinstance(found, str) and "no permission" in found and ALLOW in found


def test_the_meter_integrates_power_and_adds_the_rails_of_a_total() -> None:
    seconds = itertools.count(0.0, 0.5)
    watts_a, watts_b = iter([2.0, 4.0, 4.0]), iter([1.0, 1.0, 1.0])
    rails = (Power(name="a", read_w=lambda: next(watts_a)), Power(name="b", read_w=lambda: next(watts_b)))
    meter = Meter([Source(name="test", covers="", rails=rails, total=("a", "b"))], clock=lambda: next(seconds))
    meter.joules()  # reads a at 0 s, b at 0.5 s
    assert meter.joules() == {"a": 3.0, "b": 1.0, "total of test": 4.0}
    assert meter.joules() == {"a": 7.0, "b": 2.0, "total of test": 9.0}


def test_a_rail_that_disappears_is_an_error_of_the_reader(tmp_path: Path) -> None:
    found = find_ina3221(tree(tmp_path, monitor(1, {"VDD_IN": (5000, 1000)})))
    assert isinstance(found, Source)
    with Meter([found]) as meter:
        time.sleep(0.1)
        assert meter.joules()["VDD_IN"] == pytest.approx(0.5, abs=0.4)
        (tmp_path / "class/hwmon/hwmon1/in1_input").unlink()
        with pytest.raises(FileNotFoundError):
            meter.joules()


NVML = """
class NVMLError(Exception): pass
nvmlInit = lambda: None
nvmlDeviceGetCount = lambda: 2
nvmlDeviceGetHandleByIndex = lambda index: index
nvmlDeviceGetName = lambda handle: b"A GPU" if handle else "A GPU"
def nvmlDeviceGetTotalEnergyConsumption(handle):
    {body}
"""


@pytest.mark.parametrize(
    ("body", "words"),
    [("return 1500 + handle", None), ("raise NVMLError('Not Supported')", "no energy counter here (Not Supported)")],
)
def test_nvml_is_read_or_its_refusal_is_the_reason(
    body: str, words: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "pynvml.py").write_text(NVML.format(body=body))
    (tmp_path / "nvidia0").touch()
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    found = find_nvml(tmp_path)
    monkeypatch.delitem(sys.modules, "pynvml", raising=False)
    if words is not None:
        assert isinstance(found, str) and words in found
        return
    assert isinstance(found, Source)
    assert {rail.name: rail.read_j() for rail in found.rails if isinstance(rail, Counter)} == {
        "GPU 0 A GPU": 1.5,
        "GPU 1 A GPU": 1.501,
    }


def test_a_machine_without_any_has_three_reasons(tmp_path: Path, bench_bundle: Path) -> None:
    found = find_sources(sys=tmp_path, dev=tmp_path)
    assert found.sources == () and [reason.split(":")[0] for reason in found.reasons] == [
        "Jetson rails",
        "NVIDIA GPU",
        "RAPL",
    ]
    with pytest.raises(UserError, match=r"not measurable here:\n  Jetson rails: no ina3221"):
        bench_energy(bench_bundle, found=found)


def test_the_energy_above_idle_is_that_of_the_work(bench_bundle: Path, tmp_path: Path) -> None:
    """A machine that draws 10 W, and 20 W more while this process computes."""
    counter = Counter(name="board", read_j=lambda: 10 * time.monotonic() + 20 * time.process_time())
    source = Source(name="test", covers="the board", rails=(counter,), total=("board",))
    report = bench_energy(
        bench_bundle, num_threads=1, plan=EnergyPlan(rounds=2, phase_s=0.5), found=Found((source,), ("RAPL: none",))
    )
    by_name = {group.name: group for group in report.groups}
    assert list(by_name) == [BACK_TO_BACK, "30 Hz"]
    for group in by_name.values():
        found = group.facts["energy"]["board"]
        assert found["idle_w"] == pytest.approx(10, abs=0.5)
        assert 0 < found["lowest_above_idle"] <= found["mj_per_result_above_idle"] <= found["highest_above_idle"]
        assert found["mj_per_result"] > found["mj_per_result_above_idle"]
        assert sum(group.facts["results"]) == len(group.series[0].samples_ns)
    slow = by_name["30 Hz"].facts
    assert max(slow["results"]) <= 16
    idle_mj = slow["energy"]["board"]["mj_per_result"] - slow["energy"]["board"]["mj_per_result_above_idle"]
    assert idle_mj >= 10 * 1000 / 30 * 0.9
    assert "back to back:" in report.notes[0] and "RAPL: none" in report.notes
    save_plot(report, tmp_path / "energy.png")
    assert (tmp_path / "energy.png").stat().st_size > 1000
