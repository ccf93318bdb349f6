"""edgefuse evaluate"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from edgefuse.cli.options import AsJson, DataFolders, NumThreads, SkipBad

if TYPE_CHECKING:
    from edgefuse.contract import InputContract
    from edgefuse.evaluation import Condition, Predictor, Scores


def evaluate(
    model: Annotated[Path, typer.Argument(help="A bundle (ONNX Runtime answers) or a run (torch answers).")],
    data: DataFolders,
    only: Annotated[
        list[str] | None,
        typer.Option(help="Evaluate on these instances alone: a glob such as 's1_clip02'. Repeatable."),
    ] = None,
    threads: NumThreads = None,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Score a model on a data set: accuracy, recall by class, calibration, and the same with either sensor dead."""
    import json

    from edgefuse.cli.progress import say
    from edgefuse.data.folder import load, scan
    from edgefuse.data.splits import matching
    from edgefuse.evaluation import evaluate as score

    dataset = scan(data, skip_bad=skip_bad)
    if only:
        dataset = dataset.subset(matching(dataset, only))
    with _opened(model, num_threads=threads) as answering:
        pictures = load(dataset, skip_bad=skip_bad)
        scores = score(answering.predictor, pictures, contract=answering.contract, labels=answering.labels)
    trained_on = answering.training.get("data", {})
    groups = {sample.instance for sample in pictures.dataset.samples}
    held_out = {*trained_on.get("test_groups", ()), *trained_on.get("validation_groups", ())}
    if as_json:
        report = {
            "answered_by": answering.name,
            "data_digest": pictures.dataset.digest,
            "conditions": {name: value.to_json() for name, value in scores.items()},
        }
        typer.echo(json.dumps(report))
        return
    if trained_on.get("digest") == pictures.dataset.digest and not groups <= held_out:
        say("note: the model was trained on some of these pairs; --only names held-out instances")
    _print_scores(scores, answering.name)


class _Answering(NamedTuple):
    name: str
    predictor: Predictor
    contract: InputContract
    labels: tuple[str, ...]
    training: dict[str, Any]


@contextmanager
def _opened(model: Path, *, num_threads: int | None) -> Iterator[_Answering]:
    """A run answers with torch; everything else must be a bundle."""
    if not (model / "run.json").is_file():
        from edgefuse.bundle import MODEL_NAME, open_bundle
        from edgefuse_runtime.engines import open_engine
        from edgefuse_runtime.engines.predictor import engine_predictor

        bundle = open_bundle(model)
        with open_engine(bundle, num_threads=num_threads) as engine:
            name = f"{MODEL_NAME} in ONNX Runtime"
            yield _Answering(name, engine_predictor(engine), engine.contract, engine.labels, bundle.manifest.training)
        return
    from edgefuse.errors import require

    require("torch", extra="train")
    from edgefuse.training.loop import best_device, torch_predictor
    from edgefuse.training.run import open_run

    run = open_run(model)
    network = run.build_model().to(best_device())
    yield _Answering("the run in torch", torch_predictor(network), run.model_config.contract, run.labels, run.info)


def _print_scores(scores: dict[Condition, Scores], answered_by: str) -> None:
    from rich.console import Console
    from rich.table import Table

    both = scores["both"]
    table = Table(title=f"{both.num_samples} pairs, answered by {answered_by}")
    table.add_column("")
    for name in scores:
        table.add_column(name.replace("_", " "), justify="right")
    for title, cells in (
        ("accuracy", [f"{s.accuracy:.1%}" for s in scores.values()]),
        ("expected calibration error", [f"{s.expected_calibration_error:.3f}" for s in scores.values()]),
        ("mean gate (0 RGB, 1 depth)", [f"{s.mean_gate:.2f}" for s in scores.values()]),
    ):
        table.add_row(title, *cells)
    table.add_section()
    for label in both.recall:
        recalls = [s.recall[label] for s in scores.values()]
        table.add_row(f"recall of {label}", *["-" if r is None else f"{r:.1%}" for r in recalls])
    Console().print(table)
