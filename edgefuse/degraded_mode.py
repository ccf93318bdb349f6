"""The degraded mode: with a sensor missing, live either predicts (with a warning) or abstains, as the bundle's manifest says.

Owns the rule that chooses between the two from held-out accuracies, and the manifest's field. Standard library only.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal, get_args

from edgefuse.errors import UserError

Action = Literal["predict", "abstain"]
ACTIONS: tuple[Action, ...] = get_args(Action)
_OLD_VALUES = {"label": "predict", "no_decision": "abstain"}
"""Values in bundles from before 2026-11-25."""

KEPT_FRACTION = 0.9
ABOVE_CHANCE = 0.25
"""Required fraction of the way from chance to an accuracy of 1."""
CHANCE_ERRORS = 2.0
"""Required distance above chance, in standard errors of a random guess on the same number of pairs."""
RULE = (
    f"predict if the accuracy without that sensor is at least {KEPT_FRACTION:g} of the accuracy with both, and clearly above "
    f"chance, which is the fraction of the most frequent class: by {ABOVE_CHANCE:g} of the way from there to 1, and by "
    f"{CHANCE_ERRORS:g} standard errors of guessing on as many pairs"
)


@dataclass(frozen=True, kw_only=True)
class DegradedMode:
    """What is reported with one sensor missing. The default, for bundles without this field, is to abstain.

    Attributes:
        no_rgb, no_depth: with that sensor missing and the other one available. With both missing, live always abstains.
        reason: "no_rgb" and "no_depth" -> why, as text.
        measured: the held-out accuracies 0..1 that the rule used ("both", "no_rgb", "no_depth"), "chance", "num_pairs" and
            "part" ("validation" or "test"); empty if nothing was measured.
    """

    no_rgb: Action = "abstain"
    no_depth: Action = "abstain"
    reason: dict[str, str] = field(default_factory=dict)
    measured: dict[str, Any] = field(default_factory=dict)

    def predicts(self, *, rgb_is_available: bool, depth_is_available: bool) -> bool:
        """Whether to report the model's prediction."""
        if rgb_is_available and depth_is_available:
            return True
        if not rgb_is_available and not depth_is_available:
            return False
        return (self.no_depth if rgb_is_available else self.no_rgb) == "predict"

    def to_json(self) -> dict[str, Any]:
        """The manifest's field, with the rule as text."""
        return {**asdict(self), "rule": RULE}

    @classmethod
    def from_json(cls, value: Any) -> DegradedMode:
        """The inverse of `to_json`. None, as in older bundles, gives the default.

        Raises:
            UserError: a field is missing or has an unknown value.
        """
        if value is None:
            return cls()
        try:
            known = {name.name: value[name.name] for name in fields(cls)}
            for name in ("no_rgb", "no_depth"):
                if isinstance(known[name], str):
                    known[name] = _OLD_VALUES.get(known[name], known[name])
            found = cls(**known)
        except (KeyError, TypeError) as error:
            raise UserError(f"the manifest's degraded_mode is incomplete ({error}): export the run again") from error
        for name in ("no_rgb", "no_depth"):
            if getattr(found, name) not in ACTIONS:
                raise UserError(
                    f"the manifest's degraded_mode has {name} = {getattr(found, name)!r}: one of {', '.join(ACTIONS)} was "
                    "expected; export the run again"
                )
        return found


def choose_degraded_mode(
    metrics: Mapping[str, Any], *, fusion: str, no_rgb: Action | None = None, no_depth: Action | None = None
) -> DegradedMode:
    """The degraded mode of a run.

    With a sensor missing, "predict" requires an accuracy of at least nine tenths (`KEPT_FRACTION`) of the accuracy with both
    sensors and clearly above chance (`least_above_chance`). If it is lower or was not measured, "abstain". The accuracies are
    those of the validation pairs, so that the test pairs can score the choice; without validation pairs those of the test
    pairs, and `reason` says so. A model that uses one sensor only abstains without that sensor and ignores the other one.

    Args:
        metrics: a run's `metrics.json`.
        fusion: the run's fusion kind.
        no_rgb, no_depth: set by the user; None = by the rule.

    Raises:
        UserError: "predict" was requested without the only sensor that the model uses.
    """
    measured = _measured(metrics)
    actions, reason = {}, {}
    for name, sensor, choice in (("no_rgb", "rgb", no_rgb), ("no_depth", "depth", no_depth)):
        if fusion == sensor and choice == "predict":
            raise UserError(
                f"--without-{sensor} predict: the model uses {sensor} only and cannot predict without it; leave the option out"
            )
        actions[name], reason[name] = _by_rule(name, sensor=sensor, fusion=fusion, measured=measured)
        if choice is not None and fusion != sensor:
            actions[name], reason[name] = choice, "set at export"
    return DegradedMode(no_rgb=actions["no_rgb"], no_depth=actions["no_depth"], reason=reason, measured=measured)


def _by_rule(name: str, *, sensor: str, fusion: str, measured: Mapping[str, Any]) -> tuple[Action, str]:
    if fusion in ("rgb", "depth"):
        alone = f"the model uses {fusion} only"
        return ("abstain", alone) if fusion == sensor else ("predict", alone)
    if not measured:
        return "abstain", "no held-out pairs to measure it on"
    if measured["chance"] == 1:
        return (
            "abstain",
            f"all {measured['num_pairs']} {measured['part']} pairs are of one class, so there is no chance level to compare with",
        )
    needed = (
        KEPT_FRACTION * measured["both"] - 1e-9
    )  # the tolerance accepts 0.72 of 0.8, which is below 0.9 * 0.8 in floating point
    least = least_above_chance(measured["chance"], num_pairs=measured["num_pairs"])
    action: Action = "predict" if measured[name] >= max(needed, least - 1e-9) else "abstain"
    figures = f"{measured[name]:.1%} without it, {measured['both']:.1%} with both"
    reason = f"accuracy {figures}, on {measured['num_pairs']} {measured['part']} pairs"
    if measured["part"] == "test":
        reason += " (there are no validation pairs; choosing on the test pairs makes their accuracy optimistic)"
    if needed <= measured[name] < least - 1e-9:
        chance = f"clearly above the chance of {measured['chance']:.1%}"
        reason += f"; {least:.1%} is required, {chance}" if least <= 1 else f"; too few pairs to be {chance}"
    elif action == "abstain":
        reason += f"; {KEPT_FRACTION:.0%} of the accuracy with both is required"
    return action, reason


def least_above_chance(chance: float, *, num_pairs: int) -> float:
    """Lowest accuracy that is clearly better than always predicting the most frequent class; above 1 with too few pairs."""
    error = math.sqrt(chance * (1 - chance) / num_pairs)
    return chance + max(ABOVE_CHANCE * (1 - chance), CHANCE_ERRORS * error)


def _measured(metrics: Mapping[str, Any]) -> dict[str, Any]:
    for part in ("validation", "test"):
        scores = metrics.get(part, {})
        if all(condition in scores for condition in ("both", "no_rgb", "no_depth")):
            by_class = [sum(row) for row in scores["both"]["confusion"]]
            accuracies = {condition: scores[condition]["accuracy"] for condition in ("both", "no_rgb", "no_depth")}
            chance = max(by_class) / sum(by_class)
            return {"part": part, "num_pairs": scores["both"]["num_samples"], "chance": chance, **accuracies}
    return {}
