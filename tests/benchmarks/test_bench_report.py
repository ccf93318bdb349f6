"""A result's JSON, its text and its picture, from made-up samples."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgefuse.measure import Series, ratio
from edgefuse_benchmarks.console import print_report, ratio_label
from edgefuse_benchmarks.gpu_core import table
from edgefuse_benchmarks.plots import figure_of, save_plot
from edgefuse_benchmarks.report import SCHEMA, Group, Report, dumps, save

WAYS = (
    "torch, 1 thread",
    "ONNX Runtime, 1 thread",
    "read weights",
    *(f"{way}, flushed" for way in ("ONNX Runtime, 1 thread", "read weights")),
)

MEASURED = {
    "model": {"fusion": "gated", "rgb": "small", "depth": "scratch"},
    "input_size": 64,
    "engine": {"engine": "onnxruntime", "precision": "fp32"},
}


def series(name: str, *, around_ns: float, shape: tuple[int, int] = (40, 5)) -> Series:
    rng = np.random.default_rng(len(name))
    return Series(
        name=name, turns_ns=rng.normal(around_ns, around_ns / 50, shape).astype(np.int64), first_call_ns=10**6
    )


def report(benchmark: Any, *groups: Group, load: float = 0.1) -> Report:
    return Report(
        benchmark=benchmark,
        machine={
            "cpu": {"model": "a [fast] chip", "cores_usable": 2},
            "date_utc": "2026-01-02T03:04:05+00:00",
            "load_average_1min": load,
        },
        parameters={"seed": 0} if benchmark == "core" else MEASURED,
        parity=({"max_probability_difference": 1e-7},),
        groups=groups,
        notes=("a [note]",),
    )


def core_group(width: int) -> Group:
    all_series = tuple(
        series(f"{kind}, {way}", around_ns=width * (200 if kind == "gated" else 100))
        for kind in ("gated", "naive")
        for way in WAYS
    )
    by_name = {one.name: one for one in all_series}
    return Group(
        scope="core",
        name=f"d={width}",
        series=all_series,
        ratios=tuple(
            ratio(by_name[f"gated, {way}"], by_name[f"naive, {way}"]) for way in WAYS if "read weights" not in way
        ),
        bytes_read=dict.fromkeys(by_name, 1000 * width),
        facts={"d": width, "weights_bytes": {"gated": 2000, "naive": 1000}},
    )


def live_group(pace: str) -> Group:
    names = ("frame to result", "read", "preprocess", "infer", "wait")
    return Group(
        scope="frame to result", name=pace, series=tuple(series(name, around_ns=1e6, shape=(90, 1)) for name in names)
    )


def engine_groups() -> tuple[Group, ...]:
    one, two = (series(f"onnxruntime, {n} threads", around_ns=5e6, shape=(200, 1)) for n in (1, 2))
    starts = tuple(series(name, around_ns=1e8, shape=(3, 1)) for name in ("import packages", "process, start to end"))
    return (
        Group(scope="engine", name="one pair", series=(one, two), ratios=(ratio(two, one),)),
        Group(scope="cold start", name="one process each", series=starts),
    )


def peers_groups() -> tuple[Group, ...]:
    ours, loop, slow = (
        series(name, around_ns=value, shape=(60, 2))
        for name, value in (("edgefuse, OpenVINO fp32", 4e6), ("OpenCV + ONNX Runtime", 3e6), ("LitServe, HTTP", 9e6))
    )
    facts = {"ours": ours.name, "not_measured": {"Ultralytics classify": "pip install --group peers"}}
    alone = series("OpenCV + ONNX Runtime: network alone", around_ns=2e6, shape=(60, 2))
    return (
        Group(
            scope="raw frame",
            name="640x480, the same network",
            series=(ours, loop, slow),
            ratios=(ratio(loop, ours), ratio(slow, ours)),
            facts=facts,
        ),
        Group(scope="around the network", name="640x480", series=(alone,)),
    )


REPORTS = {
    "core": report("core", core_group(128), core_group(512)),
    "engine": report("engine", *engine_groups()),
    "peers": report("peers", *peers_groups()),
    "live": report("live", live_group("back to back"), live_group("paced")),
}


def test_the_file_has_every_sample(tmp_path: Path) -> None:
    value = json.loads(save(REPORTS["core"], tmp_path).read_text())
    assert (value["schema"], value["benchmark"]) == (SCHEMA, "core")
    assert list(value["scopes"]) == ["core"]
    for group, kept in zip(REPORTS["core"].groups, value["groups"], strict=True):
        for one, found in zip(group.series, kept["series"], strict=True):
            samples = np.array(found["samples_ns"]).reshape(-1, found["calls_per_turn"])
            assert np.array_equal(samples, one.turns_ns)
            assert found["p50_ns"] == pytest.approx(np.median(samples), abs=0.1)
            assert found["gb_per_s"] == pytest.approx(group.bytes_read[one.name] / found["p50_ns"], abs=0.006)
    assert "samples_ns" not in dumps(REPORTS["core"].to_json(raw=False))


def test_a_result_never_replaces_another(tmp_path: Path) -> None:
    paths = [save(REPORTS["engine"], tmp_path / "new") for _ in range(3)]
    assert len({*paths}) == len(list((tmp_path / "new").iterdir())) == 3


def test_lists_of_numbers_take_one_line() -> None:
    value = {"a": [1, -2.5, 3e-07], "b": ["[\n 1\n]", "x"], "c": [[1, 2], []], "d": {"e": [None, 1]}}
    assert json.loads(dumps(value)) == value
    assert '"a": [1,-2.5,3e-07]' in dumps(value)


@pytest.mark.parametrize("name", REPORTS)
def test_text_for_a_file_is_plain_and_complete(name: str) -> None:
    stream = io.StringIO()
    print_report(REPORTS[name], file=stream)
    text = stream.getvalue()
    assert text.isascii()
    assert "\x1b" not in text
    assert "a [fast] chip" in text
    assert "note: a [note]" in text
    for group in REPORTS[name].groups:
        for one in group.series:
            p50 = f"{one.summary().p50_ns / 1e3:,.1f}" if name == "core" else f"{one.summary().p50_ns / 1e6:,.3f}"
            rows = [line.split() for line in text.splitlines() if line.startswith(f"{one.name}  ")]
            assert any(p50 in row and str(one.summary().count) in row for row in rows)


def test_the_text_gives_each_ratio_with_its_interval() -> None:
    stream = io.StringIO()
    print_report(REPORTS["core"], file=stream)
    found = REPORTS["core"].groups[1].ratios[0]
    (row,) = [
        line for line in stream.getvalue().splitlines() if line.startswith("d=512: gated / naive (torch, 1 thread)")
    ]
    assert f"{found.median:.2f}" in row
    assert f"{found.low:.2f}-{found.high:.2f}" in row


@pytest.mark.parametrize(
    ("numerator", "denominator", "label"),
    [
        ("gated, torch, 1 thread", "naive, torch, 1 thread", "gated / naive (torch, 1 thread)"),
        ("gated, ORT, flushed", "gated, read, flushed", "gated, ORT / gated, read (flushed)"),
        ("a", "b", "a / b"),
        ("a, 1", "b, 2", "a, 1 / b, 2"),
    ],
)
def test_the_common_part_of_both_names_is_printed_once(numerator: str, denominator: str, label: str) -> None:
    assert ratio_label(numerator, denominator) == label


def test_a_busy_machine_and_few_samples_are_noted() -> None:
    few = Group(scope="core", name="d=1", series=(series("a", around_ns=1e3, shape=(10, 1)),))
    notes = " ".join(report("core", few, load=1.7).to_json()["notes"])
    assert "load average 1.7 on 2 core(s)" in notes
    assert "10 sample(s)" in notes
    assert report("core", core_group(128)).to_json()["notes"] == ["a [note]"]


def test_unsteady_series_are_noted_as_trtexec_does() -> None:
    rng = np.random.default_rng(0)
    noisy = Series(name="noisy", turns_ns=rng.normal(1e6, 3e5, (200, 1)).astype(np.int64))
    steady = Series(name="steady", turns_ns=rng.normal(1e6, 1e4, (200, 1)).astype(np.int64))
    starts = Group(scope="cold start", name="one process each", series=(noisy,))
    (note,) = report("engine", Group(scope="engine", name="", series=(steady, noisy)), starts).to_json()["notes"][1:]
    assert "over 2.5% in 1 of 2 series, at most 29% (noisy)" in note
    assert len(report("engine", Group(scope="engine", name="", series=(steady,)), starts).to_json()["notes"]) == 1


def test_a_finished_result_has_what_happened_meanwhile() -> None:
    from edgefuse_benchmarks import machine

    one = replace(REPORTS["core"], machine=machine.describe()).finished()
    assert one.machine["during"]["seconds"] >= 0 and REPORTS["core"].finished() is REPORTS["core"]
    assert json.loads(dumps(one.to_json()))["machine"]["during"].keys() == one.machine["during"].keys()


@pytest.mark.parametrize("name", REPORTS)
def test_the_plot_is_a_png(name: str, tmp_path: Path) -> None:
    path = tmp_path / "picture.png"
    save_plot(REPORTS[name], path)
    assert path.read_bytes().startswith(b"\x89PNG")


def texts(axes: Any) -> set[str]:
    return {text.get_text() for text in axes.texts}


def test_the_core_plot_names_at_most_five_lines_a_panel() -> None:
    engines, kinds, limits = figure_of(REPORTS["core"]).axes
    assert texts(engines) == {"torch", "ONNX Runtime", "reading gated's\nweights"}
    assert texts(kinds) == {"gated", "naive"}
    assert texts(limits) == {"torch", "ONNX Runtime", "ONNX Runtime,\ncaches emptied"}
    assert "gated takes 2 times naive" in kinds.get_title()


def gpu_group(d: int, *, kind: str = "gated", batch: int = 1) -> Group:
    names = ("torch", "torch.compile", *(f"{name}{how}" for name in ("CUDA graph of torch", "Triton") for how in HOW))
    times_ns = dict(zip(names, (150e3, 40e3, 20e3, 16e3, 18e3, 6e3, 5e3, 7e3), strict=True))
    limits_ns = {"replay": 5000, "chain": 2500, "cold": 3500}
    facts = {
        "device": "cuda",
        "kind": kind,
        "d": d,
        "batch": batch,
        "precision": "float32",
        "limits_ns": limits_ns,
        "rows": 4,
    }
    all_series = tuple(series(name, around_ns=value) for name, value in times_ns.items())
    return Group(scope="core", name=f"{kind}, d={d}, batch {batch}, float32, GPU", series=all_series, facts=facts)


def streams_group() -> Group:
    names = ("plain order", "two streams", "RGB side", "depth side", "core alone")
    found = tuple(
        series(name, around_ns=value) for name, value in zip(names, (6e5, 3.3e5, 3e5, 2.9e5, 1e4), strict=True)
    )
    facts = {"device": "cuda", "backbone": "resnet18", "longer_side": "RGB side"}
    return Group(
        scope="two streams", name="gated, two resnet18", series=found, ratios=(ratio(found[1], found[2]),), facts=facts
    )


HOW = ("", ", in a chain", ", in a chain, cold")


def test_the_core_plot_of_a_gpu_has_two_rows_with_at_most_five_lines_a_panel() -> None:
    groups = [
        *(gpu_group(d) for d in (512, 256)),
        gpu_group(512, batch=8),
        gpu_group(512, kind="naive"),
        streams_group(),
    ]
    replays, alone, cold, kinds, batches, streams = figure_of(report("core", *groups)).axes
    assert texts(replays) == {"torch", "torch.compile", "CUDA graph\nof torch", "Triton", "limit"}
    assert texts(alone) == texts(cold) == texts(batches) == {"CUDA graph\nof torch", "Triton", "limit"}
    assert texts(kinds) == {"gated", "naive"}
    assert "d = 512: Triton takes 2 times its limit" in alone.get_title()
    assert [float(x) for x in batches.get_lines()[0].get_xdata()] == [1, 8]
    assert len(streams.patches) == 3


def test_the_table_of_a_gpu_has_the_ratios_of_the_goals() -> None:
    text = table([gpu_group(512), streams_group()])
    row = next(line for line in text.splitlines() if line.startswith("gated, d=512"))
    assert [float(one) for one in row.split("rows=4")[1].split()][4:8] == pytest.approx(
        [5.0, 1.2, 0.15, 0.04], abs=0.02
    )
    assert "two streams / RGB side: 1.1" in text


def test_the_live_plot_stacks_the_stages_of_both_paces_and_has_the_frame_budget() -> None:
    figure = figure_of(REPORTS["live"])
    stages, over_time = figure.axes
    assert len(stages.patches) == 2 * 3
    assert [len(line.get_xdata()) for line in over_time.get_lines()] == [90, 90, 2]
    assert over_time.get_lines()[-1].get_ydata() == pytest.approx([33.33, 33.33], abs=0.01)
    assert stages.get_lines()[-1].get_xdata() == pytest.approx([33.33, 33.33], abs=0.01)
    title = figure.get_suptitle()
    assert "gated fusion of small (RGB) and scratch (depth), onnxruntime fp32, input 64 x 64" in title


def test_a_peer_that_was_not_measured_is_in_the_table_with_the_reason() -> None:
    stream = io.StringIO()
    print_report(REPORTS["peers"], file=stream)
    assert "Ultralytics classify: not measured, pip install --group peers" in stream.getvalue()


def test_the_peers_plot_begins_with_the_fastest_and_has_the_ratios() -> None:
    (axes,) = figure_of(REPORTS["peers"]).axes
    names = [label.get_text() for label in axes.get_yticklabels()]
    assert names == ["OpenCV + ONNX Runtime", "edgefuse, OpenVINO fp32", "LitServe, HTTP"]
    blue, *_ = (patch.get_facecolor() for patch in axes.patches[1:2])
    assert blue != axes.patches[0].get_facecolor() == axes.patches[2].get_facecolor()
    first, ours, last = (text.get_text() for text in axes.texts)
    faster, slower = REPORTS["peers"].groups[0].ratios
    assert f", {faster.median:.2f}" in first and "= 1.00" in ours and f", {slower.median:.2f}" in last


def test_the_engine_plot_has_median_and_p99_of_each_engine() -> None:
    calls, cold = figure_of(REPORTS["engine"]).axes
    assert [label.get_text() for label in calls.get_yticklabels()] == [
        "onnxruntime, 1 threads",
        "onnxruntime, 2 threads",
    ]
    assert len(calls.texts) == 4 and all("ms" in text for text in texts(calls))
    assert len(cold.patches) == 2
