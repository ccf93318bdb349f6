"""Cross-validation of several variants on the same folds, resumable, in parallel worker processes.

    OUT/crossval.json                        variants, folds and data
    OUT/folds/<variant>.fold<number>.json    the result of one training, with its settings
    OUT/runs/<variant>.fold<number>/         the run during its training; kept only if the training failed

Owns these files. A finished fold is not trained again. Each training uses one thread, so that the results do not depend on the number
of workers.
"""

from __future__ import annotations

import hashlib
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from edgefuse.data.dataset import Dataset, RgbdDataset, load, scan
from edgefuse.data.folds import BY_SEQUENCE, Folds
from edgefuse.data.image_cache import Budget
from edgefuse.data.splits import Split
from edgefuse.errors import UserError
from edgefuse.io.environment import TRAINING_PACKAGES, git_revision, git_revision_text, versions
from edgefuse.io.files import refuse_existing, sha256_of_file
from edgefuse.io.json_files import Optional, check_fields, read_json, with_new_names, write_json
from edgefuse.io.new_files import only_writer
from edgefuse.io.workers import begin_worker
from edgefuse.training.callbacks import Callback
from edgefuse.training.loop import best_device
from edgefuse.training.preflight import data_notes
from edgefuse.training.recipe import OLD_NAMES, TrainConfig
from edgefuse.training.trainer import NothingLearnedError, train_on_dataset
from edgefuse_benchmarks.paper.fold_corruptions import score_under_corruptions
from edgefuse_benchmarks.paper.variants import ModelVariant, checked_variants, variant_config

PLAN_NAME = "crossval.json"
FORMAT = 1
MAX_FOLDS = 999
"""So that `fold_seed` is unique among cross-validations."""
UNKNOWN_COMMIT = "unknown"
"""For results of older versions, which have no commit."""


_RESULT = {
    **dict.fromkeys(("accuracy", "accuracy_no_rgb", "accuracy_no_depth", "seconds"), float),
    **dict.fromkeys(("fold", "num_train", "num_test", "num_epochs"), int),
    "variant": str,
    "commit": Optional(str),
}


@dataclass(frozen=True, kw_only=True)
class FoldResult:
    """One variant on one fold.

    Attributes:
        fold: number of the fold, from 1.
        accuracy: on the test pairs, 0..1.
        accuracy_no_rgb, accuracy_no_depth: the same with one sensor missing.
        num_epochs: epochs that were trained.
        commit: of the source that trained it, from `edgefuse.io.environment.git_revision_text`.
    """

    variant: str
    fold: int
    accuracy: float
    accuracy_no_rgb: float
    accuracy_no_depth: float
    num_train: int
    num_test: int
    num_epochs: int
    seconds: float
    commit: str = UNKNOWN_COMMIT


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A variant that could not be trained on a fold, and why."""

    variant: str
    fold: int
    message: str


@dataclass(frozen=True, kw_only=True)
class CrossValidation:
    """The results of a cross-validation.

    Attributes:
        results: finished folds of each variant, in the order of the folds; fewer than `num_folds` if some failed.
        num_resumed: number of results that existed before.
        data: digest, number of pairs, classes and groups.
    """

    results: dict[str, tuple[FoldResult, ...]]
    failures: tuple[Failure, ...]
    num_folds: int
    num_resumed: int
    by: str
    num_leaking: int
    notes: tuple[str, ...]
    config: TrainConfig
    data: dict[str, Any]
    early_stop: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Task:
    """What a worker needs in addition to the images; everything that affects the result is in `settings` too."""

    variant: str
    fold: int
    config: TrainConfig
    parts: Split
    early_stop: int | None
    digest: str
    out: Path
    settings: dict[str, Any]
    commit: str
    corruptions_every: int = 0

    @property
    def name(self) -> str:
        return f"{self.variant}.fold{self.fold:02d}"

    @property
    def result_path(self) -> Path:
        return self.out / "folds" / f"{self.name}.json"


def cross_validate(  # long: the steps of the work in order
    roots: Sequence[Path],
    out: Path,
    *,
    variants: Sequence[str],
    folds_of: Callable[[Dataset], Folds],
    config: TrainConfig,
    weights: Iterable[str] = (),
    early_stop: int | None = None,
    corruptions_every: int = 0,
    num_jobs: int = 1,
    skip_bad: bool = False,
    force: bool = False,
    on_notes: Callable[[tuple[str, ...]], None] = lambda notes: None,
    on_done: Callable[[FoldResult | Failure, int, int], None] = lambda result, done, total: None,
    callback: Callback | None = None,
) -> CrossValidation:
    """Train every variant on every fold. Finished results in `out` are reused, failed trainings are tried again.

    Args:
        folds_of: makes the folds of the loaded data, such as `edgefuse.data.folds.make_folds`.
        config: the recipe; its fusion, backbones, weights, split fractions and threads are not used. Fold k trains with
            `fold_seed`, the same for every variant.
        weights: as in `choose_weights`.
        early_stop: as in `train_on_dataset`; the folds must have validation samples.
        corruptions_every: also score each model under every corruption, on every n-th test pair; 0 = not. The rows are in the fold's file.
        num_jobs: worker processes.
        force: discard results of other settings instead of raising an error.
        on_notes: called before the first training with the notes on data and folds.
        on_done: called after each training with (result, trainings done, trainings in total).
        callback: called at each batch and epoch if num_jobs is 1.

    Raises:
        UserError: from `checked_variants`; bad data; folds that cannot be made; or results of other settings in `out`.
    """
    parsed, chosen = checked_variants(variants, config, weights=weights)
    refuse_existing(out, force=force or (out / PLAN_NAME).is_file(), marker=PLAN_NAME)
    rgbd = load(scan(roots, skip_bad=skip_bad), skip_bad=skip_bad)
    if len((dataset := rgbd.dataset).labels) < 2:
        raise UserError(f"the data has one class only ({', '.join(dataset.labels)}): two or more were expected")
    folds = folds_of(dataset)
    tasks = _tasks(dataset, folds, parsed, out, config=config, weights=chosen, early_stop=early_stop)
    tasks = [replace(task, corruptions_every=corruptions_every) for task in tasks]
    finished = _finished(tasks, force=force)
    data = {"digest": dataset.digest, "num_pairs": len(dataset.samples), "labels": list(dataset.labels)}
    data["num_groups"] = len(set(dataset.groups()))
    with only_writer(out):
        plan = {"format": FORMAT, "variants": [a.name for a in parsed], "folds": len(folds.splits), "by": folds.by}
        write_json(out / PLAN_NAME, {**plan, "data": data})
        notes = (*dataset.warnings, *folds.notes, *data_notes(rgbd, config))
        on_notes(notes)
        results = dict(finished)
        failures = []
        waiting = [task for task in tasks if task.name not in finished]
        shutil.rmtree(out / "runs", ignore_errors=True)
        ended: Iterator[tuple[_Task, FoldResult | Failure]]
        if num_jobs == 1 or len(waiting) < 2:
            ended = ((task, _train_fold(task, rgbd, callback)) for task in waiting)
        else:
            ended = _side_by_side(waiting, roots, num_jobs=min(num_jobs, len(waiting)), skip_bad=skip_bad)
        for done, (task, result) in enumerate(ended, start=len(finished) + 1):
            if isinstance(result, Failure):
                failures.append(result)
            else:
                results[task.name] = result
            on_done(result, done, len(tasks))
    return CrossValidation(
        results={a.name: _of(a, tasks, results) for a in parsed},
        failures=tuple(sorted(failures, key=lambda failure: (failure.variant, failure.fold))),
        num_folds=len(folds.splits),
        num_resumed=len(finished),
        by=folds.by,
        num_leaking=folds.num_leaking,
        notes=notes,
        config=config,
        data=data,
        early_stop=early_stop,
    )


def fold_seed(seed: int, fold: int) -> int:
    """The training seed of fold k of the cross-validation with `seed`: 1000 seed + k.

    It is unique among cross-validations. With seed + k - 1, the second fold of seed 0 and the first fold of seed 1 could be the same
    training, and the seeds would not be independent.
    """
    return 1000 * seed + fold


def _of(variant: ModelVariant, tasks: Sequence[_Task], results: dict[str, FoldResult]) -> tuple[FoldResult, ...]:
    return tuple(results[task.name] for task in tasks if task.variant == variant.name and task.name in results)


def _tasks(
    dataset: Dataset,
    folds: Folds,
    variants: Sequence[ModelVariant],
    out: Path,
    *,
    config: TrainConfig,
    weights: dict[str, str],
    early_stop: int | None,
) -> list[_Task]:
    """The trainings, fold by fold, so that variants can be compared before the last fold is done."""
    digests = {value: sha256_of_file(Path(value)) for value in weights.values() if Path(value).is_file()}
    if len(folds.splits) > MAX_FOLDS:
        raise UserError(f"there are {len(folds.splits)} folds: at most {MAX_FOLDS} were expected")
    tasks, commit = [], git_revision_text(git_revision())
    for fold, parts in enumerate(folds.splits, start=1):
        for variant in variants:
            own = variant_config(variant, config, weights=weights)
            own = replace(own, seed=fold_seed(config.seed, fold), num_threads=1, exclude=(), person=None)
            settings = {
                **{name: value for name, value in own.to_json().items() if name != "person"},
                "rgb_weights": digests.get(own.rgb_weights, own.rgb_weights),
                "depth_weights": digests.get(own.depth_weights, own.depth_weights),
                "exclude": [],
                "by": folds.by,
                "fold": fold,
                "crossval_seed": config.seed,
                "early_stop": early_stop,
                "data": dataset.digest,
                "split": _split_digest(dataset, parts),
            }
            tasks.append(
                _Task(
                    variant=variant.name,
                    fold=fold,
                    config=own,
                    parts=parts,
                    early_stop=early_stop,
                    digest=dataset.digest,
                    out=out,
                    settings=settings,
                    commit=commit,
                )
            )
    return tasks


def _split_digest(dataset: Dataset, parts: Split) -> str:
    digest = hashlib.sha256()
    for side in ("train", "validation", "test"):
        for i in getattr(parts, side):
            sample = dataset.samples[i]
            digest.update(f"{side}/{dataset.labels[sample.label]}/{sample.sequence}/{sample.name}\n".encode())
    return digest.hexdigest()


def read_result(path: Path) -> dict[str, Any]:
    """A stored result of a fold; fields of older versions get their present names."""
    stored = read_json(path, what="a fold's result", spec={"settings": dict})
    settings = with_new_names(stored["settings"], OLD_NAMES)
    if settings.get("by") == "instance":
        settings["by"] = BY_SEQUENCE
    return {**with_new_names(stored, {"approach": "variant"}), "settings": settings}


def _finished(tasks: Sequence[_Task], *, force: bool) -> dict[str, FoldResult]:
    """The results that exist in the folder.

    Raises:
        UserError: a result has other settings, without `force`.
    """
    finished = {}
    for task in tasks:
        if not task.result_path.is_file():
            continue
        stored = read_result(task.result_path)
        made_with = stored["settings"]
        if stored.get("format") == FORMAT and made_with == task.settings:
            check_fields(stored, _RESULT, what=f"a fold's result ({task.result_path})")
            complete = {"commit": UNKNOWN_COMMIT, **stored}
            finished[task.name] = FoldResult(**{f.name: complete[f.name] for f in fields(FoldResult)})
        elif not force:
            other = [key for key, value in task.settings.items() if made_with.get(key) != value] or ["format"]
            raise UserError(
                f"{task.result_path} was made with other settings ({', '.join(other)}): choose another --out, "
                "or add --force to train again"
            )
    return finished


def _train_fold(task: _Task, rgbd: RgbdDataset, callback: Callback | None = None) -> FoldResult | Failure:
    """Train one fold and write its result. Errors are returned as a `Failure`; Ctrl-C is raised."""
    run = task.out / "runs" / task.name
    start_s = time.monotonic()
    try:
        if rgbd.dataset.digest != task.digest:
            raise UserError("the data changed during the cross-validation")
        summary = train_on_dataset(
            rgbd, run, config=task.config, callback=callback, parts=task.parts, early_stop=task.early_stop
        )
    except NothingLearnedError:
        raise KeyboardInterrupt from None
    except Exception as error:  # a failed training must not stop the others
        kind = "" if isinstance(error, UserError) else f"{type(error).__name__}: "
        return Failure(variant=task.variant, fold=task.fold, message=f"{kind}{error}")
    if summary.interrupted:
        raise KeyboardInterrupt
    scores = summary.metrics["test"]
    result = FoldResult(
        variant=task.variant,
        fold=task.fold,
        accuracy=scores["both"]["accuracy"],
        accuracy_no_rgb=scores["no_rgb"]["accuracy"],
        accuracy_no_depth=scores["no_depth"]["accuracy"],
        num_train=len(task.parts.train),
        num_test=len(task.parts.test),
        num_epochs=len(summary.metrics["history"]),
        seconds=round(time.monotonic() - start_s, 2),
        commit=task.commit,
    )
    more = {"settings": task.settings, "versions": versions(TRAINING_PACKAGES), "device": str(best_device())}
    if task.corruptions_every:
        more |= score_under_corruptions(run, rgbd.subset(task.parts.test[:: task.corruptions_every]))
    write_json(task.result_path, {"format": FORMAT, **vars(result), **more, "scores": scores})
    shutil.rmtree(run, ignore_errors=True)
    return result


_worker_rgbd: RgbdDataset | None = None


def _side_by_side(
    tasks: Sequence[_Task], roots: Sequence[Path], *, num_jobs: int, skip_bad: bool
) -> Iterator[tuple[_Task, FoldResult | Failure]]:
    """Train in worker processes; yields results as they finish. If a worker dies, all unfinished trainings fail."""
    pool = ProcessPoolExecutor(
        num_jobs,
        mp_context=multiprocessing.get_context("spawn"),  # torch's threads do not survive a fork
        initializer=_start_worker,
        initargs=(tuple(roots), skip_bad, Budget().left // num_jobs),
    )
    try:
        futures = {pool.submit(_work, task): task for task in tasks}
        for future in as_completed(futures):
            task = futures[future]
            try:
                yield task, future.result()
            except BrokenProcessPool:
                message = "a worker process died, possibly for lack of memory: repeat the command with fewer --jobs"
                yield task, Failure(variant=task.variant, fold=task.fold, message=message)
    except BaseException:
        for process in multiprocessing.active_children():
            process.terminate()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(roots: tuple[Path, ...], skip_bad: bool, num_bytes: int) -> None:
    """Load the images once per worker, with a cache of `num_bytes`. The worker ends with its parent and ignores Ctrl-C."""
    global _worker_rgbd  # noqa: PLW0603  (a worker process keeps its images between tasks)
    begin_worker()
    _worker_rgbd = load(scan(roots, skip_bad=skip_bad), skip_bad=skip_bad, budget=Budget(num_bytes))


def _work(task: _Task) -> FoldResult | Failure:
    assert _worker_rgbd is not None
    return _train_fold(task, _worker_rgbd)
