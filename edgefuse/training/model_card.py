"""The text of `model_card.md`: what a trained model decides, on which data, how well, and its limits.

The sections follow Mitchell et al., "Model Cards for Model Reporting" (2019). Everything is read from the contents of `run.json` and
`metrics.json`; nothing is computed again. Owns the text; only `edgefuse.training.trainer` imports it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from edgefuse.answers import BACKGROUND
from edgefuse.evaluation.metrics import CONDITIONS
from edgefuse.io.text import markdown_cell, some_of
from edgefuse.model.choices import SINGLE_MODALITIES, model_in_words
from edgefuse.model.classifier import ModelConfig

WORDS = {"both": "both sensors", "no_rgb": "no RGB", "no_depth": "no depth"}
MAX_CLASSES = 30
"""Rows of the table of recalls; the classes with the lowest are shown."""
FEW_PAIRS = 30
"""The limits name the fewest pairs of a class if there are fewer."""
_PARTS = {"train": "training", "validation": "validation", "test": "test"}


def model_card(
    name: str, *, labels: Sequence[str], model_config: ModelConfig, info: Mapping[str, Any], metrics: Mapping[str, Any]
) -> str:
    """The card of a finished run, as Markdown.

    Args:
        name: of the run.
        info: `run.json` without labels, model and files.
        metrics: `metrics.json`.
    """
    sections = {
        "What it decides": _decision(labels, model_config, info["data"]),
        "Data": _data(info),
        "Protocol": _protocol(info),
        "Accuracy": _accuracy(metrics),
        "Calibration": _calibration(metrics),
        "Gate": _gate(model_config, metrics),
        "Training": _training(info, metrics),
        "Limits": [f"- {line}" for line in _limits(model_config, info, metrics)],
        "To be filled in by the author": [
            "- Intended use:",
            "- Not intended for:",
            "- Licence of the data and of the model:",
            "- Contact:",
        ],
    }
    lines = [f"# Model card: {name}", ""]
    lines.append("Written by `edgefuse train` from `run.json` and `metrics.json`, except for the last section.")
    for title, section in sections.items():
        lines += ["", f"## {title}", "", *section]
    return "\n".join(lines) + "\n"


def _decision(labels: Sequence[str], config: ModelConfig, data: Mapping[str, Any]) -> list[str]:
    contract, region = config.contract, data.get("region")
    named = [label for label in labels if label != BACKGROUND]
    rest = "Or none of them: no object." if len(named) < len(labels) else "It has no class for anything else."
    return [
        f"- One of {len(named)} classes for a region of an RGB-D image: {', '.join(named)}. {rest}",
        f"- Input: RGB and depth aligned to {contract.align}, {contract.size} x {contract.size} pixels, depth from "
        f"{contract.near_m:g} to {contract.far_m:g} m; recorded region: {region or 'unknown'}.",
        f"- Model: {model_in_words(fusion=config.fusion, rgb=config.rgb, depth=config.depth)}.",
    ]


def _data(info: Mapping[str, Any]) -> list[str]:
    data = info["data"]
    people: Mapping[str, Mapping[str, int]] = data.get("people") or {}
    sequences = {
        "train": {name.split("/", 1)[1] for name in data["train_instances"]},
        "validation": data["validation_groups"],
        "test": data["test_groups"],
    }
    lines = [
        f"- Folders: {', '.join(Path(root).name for root in data['roots'])}; digest {data['digest'][:12]}. Left out as bad: "
        f"{data['num_left_out']} pairs."
    ]
    if not people:
        lines.append("- People: not recorded (`edgefuse train --person`).")
    lines += ["", *_table_head("part", "pairs", "sequences", *people)]
    for part, words in _PARTS.items():
        own = [people[name][part] for name in people]
        lines.append(_row(words, data[f"num_{part}"], len(sequences[part]), *own))
    return lines


def _protocol(info: Mapping[str, Any]) -> list[str]:
    data, training = info["data"], info["training"]
    lines = [f"- Split by sequence, never by image; seed {training['seed']}."]
    if training["exclude"]:
        lines.append(f"- Held out for testing by name: {', '.join(training['exclude'])}.")
    test_use = "these figures only" if data["validation_groups"] else "these figures and the degraded mode"
    for part, use in (("validation", "the temperatures and the degraded mode"), ("test", test_use)):
        held = data[f"{part}_groups"]
        lines.append(
            f"- {part.capitalize()}, used for {use}: {some_of(held)}." if held else f"- {part.capitalize()}: none."
        )
    return lines


def _reported(metrics: Mapping[str, Any]) -> str | None:
    """The part whose figures are shown: test, or validation without one."""
    return next((part for part in ("test", "validation") if part in metrics), None)


def _accuracy(metrics: Mapping[str, Any]) -> list[str]:
    part = _reported(metrics)
    if part is None:
        return ["Not measured: nothing was held out."]
    scores = metrics[part]
    lines = [
        f"On {scores['both']['num_samples']} {part} pairs. A missing sensor is simulated by a black or empty image."
    ]
    lines += ["", *_table_head("", *(WORDS[condition] for condition in CONDITIONS))]
    lines.append(_row("**accuracy**", *(f"{scores[condition]['accuracy']:.1%}" for condition in CONDITIONS)))
    recall: Mapping[str, float | None] = scores["both"]["recall"]
    known = sorted((value, label) for label, value in recall.items() if value is not None)
    for _, label in known[:MAX_CLASSES]:
        lines.append(_row(label, *(f"{scores[condition]['recall'][label]:.1%}" for condition in CONDITIONS)))
    lines += ["", "Below the accuracy: recall of each class, the lowest first."]
    if len(known) > MAX_CLASSES:
        lines[-1] += f" {len(known) - MAX_CLASSES} more classes are in `metrics.json`."
    if part == "test" and "validation" in metrics:
        accuracy = metrics["validation"]["both"]["accuracy"]
        lines[-1] += f" Validation accuracy with both sensors: {accuracy:.1%}."
    return lines


def _calibration(metrics: Mapping[str, Any]) -> list[str]:
    found, part = metrics["calibration"], _reported(metrics)
    if not found["fitted_on_validation_pairs"]:
        lines = ["Not calibrated: there are no validation pairs, so the temperature is 1."]
    else:
        lines = [
            f"Temperatures were fitted on {found['fitted_on_validation_pairs']} validation pairs, augmented. Expected calibration error on "
            f"the {part} pairs{' (the same pairs, optimistic)' if part == 'validation' else ''}:"
        ]
    if part is None:
        return lines
    lines += ["", *_table_head("", "temperature", "calibration error", "with temperature 1")]
    for condition in CONDITIONS:
        key = "temperature" if condition == "both" else f"temperature_{condition}"
        value = found["temperature"] if found.get(key) is None else found[key]
        own = found[part] if condition == "both" else found[part][condition]
        errors = (f"{own[when]['expected_calibration_error']:.3f}" for when in ("after", "before"))
        lines.append(_row(WORDS[condition], f"{value:.2f}", *errors))
    return [*lines, "", "Plot: [reliability.png](reliability.png) in the folder of the run."]


def _gate(config: ModelConfig, metrics: Mapping[str, Any]) -> list[str]:
    if config.fusion == "naive" or config.fusion in SINGLE_MODALITIES:
        return ["This fusion has no gate."]
    part = _reported(metrics)
    lines = []
    if part is not None:
        means = ", ".join(f"{WORDS[condition]} {metrics[part][condition]['mean_gate']:.2f}" for condition in CONDITIONS)
        lines.append(f"- Mean on the {part} pairs: {means}. 0 = RGB, 1 = depth.")
    if config.frame_gate:
        lines.append("- It reports which image is damaged: two good images are near 0.55 by construction.")
        lines.append(
            "- It does not see images of another scene or moment, nor small shifts, and is no probability of a right answer."
        )
    else:
        lines.append(
            "- It weighs features. It was not trained to report a damaged image, and need not move if a sensor fails."
        )
    return [*lines, "- More: docs/gate.md of edgefuse."]


def _training(info: Mapping[str, Any], metrics: Mapping[str, Any]) -> list[str]:
    training = info["training"]
    weights = {sensor: training[f"{sensor}_weights"] for sensor in ("rgb", "depth")}
    return [
        f"- {len(metrics['history'])} of {training['epochs']} epochs of batches of {training['batch_size']}; weights of epoch "
        f"{info['epoch_kept']}. Adam, learning rate {training['learning_rate']:g} to {training['final_learning_rate']:g}.",
        f"- Initial weights: {', '.join(f'{sensor} {Path(value).name}' for sensor, value in weights.items())}.",
        f"- Versions: {', '.join(f'{package} {version}' for package, version in info['versions'].items())}.",
        "- All settings are in `run.json`.",
    ]


def _limits(config: ModelConfig, info: Mapping[str, Any], metrics: Mapping[str, Any]) -> Iterator[str]:
    data, part = info["data"], _reported(metrics)
    yield from _limits_of_people(data.get("people") or {})
    if part is None:
        yield "Nothing was held out: the accuracy is unknown."
    else:
        if part == "validation":
            yield "There are no test pairs, and validation figures are optimistic: the temperatures were fitted on these pairs."
        untested = metrics["untested_classes" if part == "test" else "unvalidated_classes"]
        if untested:
            yield f"No {part} pair of {some_of(untested)}: the figures do not cover these classes."
        fewest = min(filter(None, map(sum, metrics[part]["both"]["confusion"])))
        if fewest < FEW_PAIRS:
            yield f"Some recalls come from few {part} pairs, one of them from {fewest}."
    if config.fusion not in SINGLE_MODALITIES:
        yield "Only missing sensors were tested, no other damage; `edgefuse evaluate --corruptions` tests it."
    if len(metrics["history"]) < info["training"]["epochs"]:
        yield f"The training ended after {len(metrics['history'])} of {info['training']['epochs']} epochs."
    for warning in info["warnings"]:
        yield f"Warning before the training: {_without_folders(warning, data['roots'])}."


def _without_folders(text: str, roots: Sequence[str]) -> str:
    """`text` with the names of data folders in place of their paths, because the card is given to others."""
    for root in roots:
        if Path(root).name:
            text = text.replace(root, Path(root).name)
    return text


def _limits_of_people(people: Mapping[str, Mapping[str, int]]) -> Iterator[str]:
    learned = {name for name, counts in people.items() if counts["train"]}
    held_out = {name for name, counts in people.items() if counts["validation"] or counts["test"]}
    if not people:
        yield "Whether the held-out sequences show people, objects or places that were not trained on is not recorded."
    elif len(learned) > 1 and held_out and held_out <= learned:  # of one person, there is a warning
        yield f"All held-out pairs are of people who were trained on ({', '.join(sorted(held_out))}): expect less on others."


def _table_head(*titles: str) -> list[str]:
    return [_row(*titles), "|---" + "|--:" * (len(titles) - 1) + "|"]


def _row(*cells: object) -> str:
    return f"| {' | '.join(markdown_cell(str(cell)) for cell in cells)} |"
