"""Cross-validation: results do not depend on the number of jobs or on a kill, and a failure affects no other training."""

from __future__ import annotations

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from edgefuse.data.dataset import Dataset, load, scan
from edgefuse.data.folds import Folds, make_folds
from edgefuse.errors import UserError
from edgefuse.io.environment import git_revision, git_revision_text
from edgefuse.training.recipe import TrainConfig
from edgefuse.training.run import open_run
from edgefuse.training.trainer import train_on_dataset
from edgefuse_benchmarks.paper.crossval import (
    MAX_FOLDS,
    CrossValidation,
    Failure,
    FoldResult,
    cross_validate,
    fold_seed,
)
from edgefuse_benchmarks.paper.reports import corrected_t_test, paired_tests, write_report
from edgefuse_benchmarks.paper.variants import (
    PAPER_ROWS,
    choose_weights,
    paper_accuracy,
    parse_variant,
    variant_config,
)

QUICK = TrainConfig(size=32, epochs=2, batch_size=16, num_features=16, num_hidden=16)
VARIANTS = ("gated-small", "naive-small")
EDGEFUSE = (sys.executable, "-c", "from edgefuse.app.main import main; main()")


def by_sequence(num_folds: int = 4, by: str = "sequence", **more: float) -> Callable[[Dataset], Folds]:
    return partial(make_folds, num_folds=num_folds, by=by, **more)  # type: ignore[arg-type]


def figures(done: CrossValidation) -> dict[str, list[tuple[int, float, float, float]]]:
    return {
        name: [(r.fold, r.accuracy, r.accuracy_no_rgb, r.accuracy_no_depth) for r in results]
        for name, results in done.results.items()
    }


@pytest.fixture(scope="module")
def reference(colour_and_range: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[CrossValidation, Path]:
    out = tmp_path_factory.mktemp("crossval") / "reference"
    config = replace(TrainConfig(), size=32, epochs=2, batch_size=16)  # as the command with the same options
    done = cross_validate([colour_and_range], out, variants=VARIANTS, folds_of=by_sequence(), config=config)
    return done, out


def test_every_variant_is_scored_on_every_fold(reference: tuple[CrossValidation, Path], tmp_path: Path) -> None:
    done, out = reference
    assert [len(results) for results in done.results.values()] == [4, 4] and not done.failures and not done.num_leaking
    assert all(
        result.num_test == 15 and result.num_train == 45 for results in done.results.values() for result in results
    )
    assert len({figure for results in figures(done).values() for figure in results}) > 2
    made_by = git_revision_text(git_revision())
    assert {result.commit for results in done.results.values() for result in results} == {made_by}
    assert f"- Commit: {made_by}." in write_report(done, tmp_path, title="t").read_text()
    assert len(list((out / "folds").glob("*.json"))) == 8 and not list((out / "runs").glob("*"))


@pytest.mark.slow
def test_after_a_kill_it_resumes_with_the_same_results(
    reference: tuple[CrossValidation, Path], colour_and_range: Path, tmp_path: Path
) -> None:
    """Two workers, SIGKILL after the first result, the same command again: the same as one uninterrupted process."""
    out = tmp_path / "out"
    command = [*EDGEFUSE, "crossval", str(colour_and_range), "--out", str(out), "--variants", ",".join(VARIANTS)]
    command += ["--folds", "4", "--epochs", "2", "--size", "32", "--batch-size", "16", "--jobs", "2"]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline_s = time.monotonic() + 90
    while not list(out.glob("folds/[!.]*.json")):
        assert process.poll() is None and time.monotonic() < deadline_s
        time.sleep(0.01)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.send_signal(signal.SIGKILL)
    process.wait()
    finished = {path: path.stat().st_mtime_ns for path in out.glob("folds/[!.]*.json")}
    assert 1 <= len(finished) < 8 and len(children) >= 2
    while any(is_running(pid) for pid in children):
        assert time.monotonic() < deadline_s, "workers outlived the process that started them"
        time.sleep(0.05)
    finished |= {path: path.stat().st_mtime_ns for path in out.glob("folds/[!.]*.json")}

    again = subprocess.run([*command, "--json"], capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert again.returncode == 0, again.stderr
    assert f"{len(finished)} training(s) were already finished" in again.stderr
    assert all(path.stat().st_mtime_ns == modified for path, modified in finished.items())
    results = json.loads(again.stdout)["results"]
    assert {
        name: [(r["fold"], r["accuracy"], r["accuracy_no_rgb"], r["accuracy_no_depth"]) for r in rows]
        for name, rows in results.items()
    } == figures(reference[0])
    assert (out / "report.md").is_file() and (out / "report.png").read_bytes().startswith(b"\x89PNG")


def is_running(pid: str) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state != "Z"


def test_results_of_other_settings_are_not_mixed_in(colour_and_range: Path, tmp_path: Path) -> None:
    run = partial(cross_validate, [colour_and_range], tmp_path / "out", variants=["depth-scratch"])
    first = run(folds_of=by_sequence(2), config=replace(QUICK, epochs=1))
    assert run(folds_of=by_sequence(2), config=replace(QUICK, epochs=1)).num_resumed == 2
    with pytest.raises(UserError, match=r"depth-scratch.fold01.json was made with other settings \(epochs\)"):
        run(folds_of=by_sequence(2), config=QUICK)
    with pytest.raises(UserError, match=r"\(by, split\)|\(.*split.*\)"):
        run(folds_of=by_sequence(2, by="frame"), config=replace(QUICK, epochs=1))
    forced = run(folds_of=by_sequence(2), config=QUICK, force=True)
    assert forced.num_resumed == 0 and [r.num_epochs for r in forced.results["depth-scratch"]] == [2, 2]
    assert [r.num_epochs for r in first.results["depth-scratch"]] == [1, 1]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter.tex").touch()
    with pytest.raises(UserError, match="exists already"):
        cross_validate([colour_and_range], tmp_path / "thesis", variants=VARIANTS, folds_of=by_sequence(), config=QUICK)


def test_a_variant_with_a_nan_loss_is_named_and_the_others_continue(colour_and_range: Path, tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    state = mobilenet_v2(weights=None).state_dict()
    state["features.1.conv.1.weight"].fill_(3e38)  # finite, and infinite times two
    torch.save(state, tmp_path / "corrupted.pth")
    command = [*EDGEFUSE, "crossval", str(colour_and_range), "--out", str(tmp_path / "out"), "--folds", "2"]
    command += ["--variants", "rgb-mobilenet_v2,depth-scratch", "--epochs", "1", "--size", "32", "--json"]
    command += ["--rgb-weights", str(tmp_path / "corrupted.pth")]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ended.returncode == 1 and "Traceback" not in ended.stderr
    assert "failed: rgb-mobilenet_v2 fold 1, rgb-mobilenet_v2 fold 2" in ended.stderr
    assert re.search(r"the loss is nan in batch 1 of \d in epoch 1 \(first pairs ", ended.stderr)
    value = json.loads(ended.stdout)
    assert [len(value["results"][name]) for name in ("rgb-mobilenet_v2", "depth-scratch")] == [0, 2]
    assert "rgb-mobilenet_v2: -, 0 fold(s)" in ended.stderr and "nan%" not in ended.stderr
    assert "runs" not in ended.stderr.split("failed: ")[1]  # nothing was learned, so nothing is kept
    report = (tmp_path / "out/report.md").read_text()
    assert (
        "| rgb-mobilenet_v2 | - | - | - | 0 of 2 |" in report and "rgb-mobilenet_v2, fold 2: the loss is nan" in report
    )


def test_if_a_worker_dies_only_unfinished_trainings_fail(colour_and_range: Path, tmp_path: Path) -> None:
    ended: list[FoldResult | Failure] = []

    def on_done(result: FoldResult | Failure, done: int, total: int) -> None:
        ended.append(result)
        if len(ended) == 1:
            for pid in Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split():
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    os.kill(int(pid), signal.SIGKILL)

    run = partial(
        cross_validate, [colour_and_range], tmp_path / "out", variants=["depth-scratch"], folds_of=by_sequence()
    )
    done = run(config=replace(QUICK, epochs=12), num_jobs=2, on_done=on_done)
    assert isinstance(ended[0], FoldResult) and done.failures and "a worker process died" in done.failures[0].message
    assert len(done.results["depth-scratch"]) + len(done.failures) == 4


def test_early_stop_keeps_the_best_epoch(colour_and_range: Path, tmp_path: Path) -> None:
    rgbd = load(scan([colour_and_range]))
    parts = make_folds(rgbd.dataset, num_folds=4, by="sequence", validation_fraction=0.3).splits[0]
    config = replace(QUICK, epochs=40, rgb="small", fusion="rgb")
    summary = train_on_dataset(rgbd, tmp_path / "run", config=config, parts=parts, early_stop=3)
    history = [epoch["validation_accuracy"] for epoch in summary.metrics["history"]]
    assert len(history) < 40 and len(history) == int(np.argmax(history)) + 1 + 3
    assert summary.metrics["validation"]["both"]["accuracy"] == max(history)
    info = open_run(tmp_path / "run").info
    assert (info["epochs_done"], info["epoch_kept"]) == (len(history), int(np.argmax(history)) + 1)
    with pytest.raises(UserError, match="early stop needs validation samples"):
        train_on_dataset(rgbd, tmp_path / "other", config=config, parts=replace(parts, validation=()), early_stop=3)


def test_cross_validations_of_different_seeds_have_no_common_training_seed(
    colour_and_range: Path, tmp_path: Path
) -> None:
    used = []
    for seed in (0, 1):
        out = tmp_path / str(seed)
        config = replace(QUICK, epochs=1, seed=seed)
        cross_validate(
            [colour_and_range], out, variants=["depth-scratch"], folds_of=by_sequence(2, seed=seed), config=config
        )
        settings = [json.loads(path.read_text())["settings"] for path in sorted(out.glob("folds/*.json"))]
        assert {value["crossval_seed"] for value in settings} == {seed}
        used.append([value["seed"] for value in settings])
    assert used == [[1, 2], [1001, 1002]]
    seeds = [fold_seed(seed, fold) for seed in range(20) for fold in range(1, MAX_FOLDS + 1)]
    assert len(set(seeds)) == len(seeds)


def test_settings_that_cannot_work_are_refused_before_any_work(colour_and_range: Path, tmp_path: Path) -> None:
    for options, words in (
        (("--near", "2", "--far", "1"), "depth range is 2.0 to 1.0 m"),
        (("--set", "near_m=3"), "depth range is 3.0 to 2.0 m"),
        (("--variants", "rgb-small,fused"), "<fusion>-<backbone> was expected"),
        (("--variants", "rgb-resnet18", "--rgb-weights", "absent.pth"), "absent.pth does not exist"),
    ):
        command = [*EDGEFUSE, "crossval", str(colour_and_range), "--out", str(tmp_path / "out"), *options]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
        assert ended.returncode == 1 and words in ended.stderr and "FAILED" not in ended.stderr, ended.stderr
    assert not (tmp_path / "out").exists()


def test_every_note_on_the_folds_is_reported(colour_and_range: Path, tmp_path: Path) -> None:
    """A class of two sequences is tested by two of four folds."""
    for name in ("red_near", "red_far"):
        shutil.copytree(colour_and_range / name, tmp_path / "data" / name)
    for sequence in ("take0", "take1"):
        shutil.copytree(colour_and_range / "blue_near" / sequence, tmp_path / "data/blue_near" / sequence)
    command = [*EDGEFUSE, "crossval", str(tmp_path / "data"), "--out", str(tmp_path / "out"), "--folds", "4", "--json"]
    command += ["--variants", "depth-scratch", "--epochs", "1", "--size", "32"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120, stdin=subprocess.DEVNULL)
    assert ended.returncode == 0, ended.stderr
    notes = json.loads(ended.stdout)["notes"]
    assert notes[0].startswith("2 folds have classes without a test pair: fold ")
    assert notes[0].endswith(" tests no pair of blue_near") and len(notes) == 2
    assert notes[1].startswith("half of the images are mirrored: no class name contains a side")
    report = (tmp_path / "out/report.md").read_text()
    assert all(f"note: {note}" in ended.stderr and f"- Note: {note}." in report for note in notes)
    assert report.startswith("# data, 4 folds by sequence\n") and "inputs of 32 px, 1 epoch of batches" in report


def test_names_define_the_model() -> None:
    parsed = {name: parse_variant(name) for name in (*PAPER_ROWS, "joint-small", "gated-mobilenet_v2")}
    assert [(a.fusion, a.rgb, a.depth) for a in parsed.values()][:6] == [
        ("depth", None, "resnet50"),
        ("depth", None, "vgg19"),
        ("depth", None, "scratch"),
        ("rgb", "resnet50", None),
        ("rgb", "vgg19", None),
        ("naive", "resnet50", "scratch"),
    ]
    assert (parsed["gated-mobilenet_v2"].rgb, parsed["joint-small"].fusion) == ("mobilenet_v2", "joint")
    for name in ("gated", "gated-", "gated-lenet", "fused-small", "depth-small", "rgb-scratch", ""):
        with pytest.raises(UserError, match="<fusion>-<backbone> was expected"):
            parse_variant(name)
    both = parse_variant("spatial-resnet18+mobilenet_v2")
    assert (both.rgb, both.depth, both.pretrained_names()) == ("resnet18", "mobilenet_v2", ["resnet18", "mobilenet_v2"])
    for name in ("rgb-small+scratch", "depth-scratch+scratch", "gated-small+", "gated-small+lenet"):
        with pytest.raises(UserError, match=r"for a fusion of both sensors, <fusion>-<backbone>\+<depth backbone>"):
            parse_variant(name)


def test_weights_go_to_the_backbone_that_they_fit(tmp_path: Path) -> None:
    from torchvision.models import mobilenet_v2

    file = tmp_path / "mobilenet.pth"
    torch.save(mobilenet_v2(weights=None).state_dict(), file)
    variants = [parse_variant(name) for name in ("gated-mobilenet_v2", "depth-resnet18", "rgb-small")]
    chosen = choose_weights(variants, given=["none", str(file)])
    assert chosen == {"mobilenet_v2": str(file), "resnet18": "none"}
    config = variant_config(variants[0], QUICK, weights=chosen)
    assert (config.fusion, config.rgb_weights, config.depth_weights) == ("gated", str(file), "none")
    with pytest.raises(UserError, match="fits none of the backbones resnet18"):
        choose_weights(variants[1:], given=["none", str(file)])
    with pytest.raises(UserError, match="does not exist"):
        choose_weights(variants, given=["none", str(tmp_path / "absent.pth")])


def test_the_corrected_test_widens_the_plain_one() -> None:
    from scipy import stats

    differences = [0.02, 0.05, -0.01, 0.03, 0.04]
    plain = stats.ttest_1samp(differences, 0.0)
    assert corrected_t_test(differences, test_to_train=0.0) == pytest.approx((plain.statistic, plain.pvalue))
    corrected = corrected_t_test(differences, test_to_train=0.25)
    assert corrected is not None
    assert corrected[0] == pytest.approx(plain.statistic * (0.2 / 0.45) ** 0.5)
    assert corrected[1] == pytest.approx(2 * stats.t.sf(corrected[0], df=4)) and corrected[1] > plain.pvalue
    assert corrected_t_test([0.1], test_to_train=0.25) is None
    assert corrected_t_test([0.1, 0.1, 0.1], test_to_train=0.25) is None
    assert corrected_t_test([0.0, 0.0], test_to_train=0.25) == (0.0, 1.0)


def fold(variant: str, number: int, accuracy: float) -> FoldResult:
    return FoldResult(
        variant=variant,
        fold=number,
        accuracy=accuracy,
        accuracy_no_rgb=0.1,
        accuracy_no_depth=0.2,
        num_train=90,
        num_test=10,
        num_epochs=1,
        seconds=1.0,
    )


def test_the_report_has_the_papers_accuracies_the_spread_and_the_tests(tmp_path: Path) -> None:
    gated = [0.9, 0.8, 0.95, 0.85, 0.9, 0.7]
    naive = [0.8, 0.75, 0.9, 0.8, 0.7, 0.6]
    results = {
        name: tuple(fold(name, number, value) for number, value in enumerate(values, start=1))
        for name, values in (("naive-vgg19", naive), ("gated-vgg19", gated), ("rgb-vgg19", gated[:5]))
    }
    (test,) = paired_tests(results)
    assert (test.variant, test.baseline, test.num_folds) == ("gated-vgg19", "naive-vgg19", 6)
    assert test.mean_difference == pytest.approx(np.mean(gated) - np.mean(naive)) and test.p_wilcoxon == pytest.approx(
        2 / 2**6
    )
    assert paired_tests({name: rows[:5] for name, rows in results.items()})[0].p_wilcoxon is None
    done = CrossValidation(
        results=results,
        failures=(Failure(variant="rgb-vgg19", fold=6, message="no memory"),),
        num_folds=6,
        num_resumed=0,
        by="frame",
        num_leaking=6,
        notes=(),
        config=QUICK,
        data={"digest": "0" * 64, "num_pairs": 100, "labels": ["a", "b"], "num_groups": 8},
    )
    text = write_report(done, tmp_path, title="t", paper=paper_accuracy(3), leak_free="run --by sequence").read_text()
    mean, spread = 100 * np.mean(naive), 100 * np.std(naive, ddof=1)
    assert f"(NF: RGB-VGG19+DepthMap-scratch) | 90.56 | {mean:.2f} ± {spread:.2f} | 10.00 | 20.00 | 6 of 6 |" in text
    assert "**Leaks**" in text and "6 of 6 folds" in text and "unseen sequences: run --by sequence." in text
    assert "rgb-vgg19, fold 6: no memory" in text and "gated-vgg19 - naive-vgg19 | +9.17" in text
    with (tmp_path / "report.csv").open() as file:
        rows = {row["variant"]: row for row in csv.DictReader(file)}
    assert float(rows["gated-vgg19"]["paper"]) == pytest.approx(0.9954) and rows["rgb-vgg19"]["fold_6"] == ""
    assert float(rows["gated-vgg19"]["mean"]) == pytest.approx(np.mean(gated))
    assert "Leaks" not in write_report(replace(done, num_leaking=0), tmp_path, title="t").read_text()
    assert "- Commit: unknown." in text
    later = {**results, "naive-vgg19": tuple(replace(row, commit="0123456789ab") for row in results["naive-vgg19"])}
    text = write_report(replace(done, results=later), tmp_path, title="t").read_text()
    assert "- Commits: unknown (11 trainings), 0123456789ab (6 trainings)." in text


def test_a_result_without_a_commit_is_still_used(colour_and_range: Path, tmp_path: Path) -> None:
    run = partial(cross_validate, [colour_and_range], tmp_path, variants=["depth-scratch"], folds_of=by_sequence(2))
    config = replace(QUICK, epochs=1)
    run(config=config)
    path = tmp_path / "folds/depth-scratch.fold01.json"
    path.write_text(json.dumps({key: value for key, value in json.loads(path.read_text()).items() if key != "commit"}))
    again = run(config=config)
    assert again.num_resumed == 2 and again.results["depth-scratch"][0].commit == "unknown"


def test_the_papers_accuracies() -> None:
    assert paper_accuracy(1)["gated-vgg19"] == 0.9069 and paper_accuracy(4)["rgb-resnet50"] == 0.2976
    # 60 subjects, six expressions, two levels: an assumption of the conversion of BU-3DFE.
    assert all(abs(value * 720 - round(value * 720)) < 0.04 for value in paper_accuracy(1).values())
