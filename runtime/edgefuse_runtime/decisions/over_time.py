"""The settings of decisions over time, and what a live run keeps between frames for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgefuse.errors import UserError
from edgefuse_runtime.decisions.consensus import Consensus, Seen, Status
from edgefuse_runtime.decisions.events import ObjectEvent
from edgefuse_runtime.decisions.smoothing import Smoother

MAX_FRAMES = 1000


@dataclass(frozen=True, kw_only=True)
class DecisionConfig:
    """How answers of frames become decisions.

    Attributes:
        min_confidence: a class whose probability is lower is answered with "unknown".
        smooth: frames over which log probabilities are averaged, exponentially; 1 = none.
        agree, of: an answer is decided when at least `agree` of the last `of` frames have it.

    Raises:
        UserError: a value is out of range.
    """

    min_confidence: float = 0.0
    smooth: float = 1.0
    agree: int = 3
    of: int = 5

    def __post_init__(self) -> None:
        check_min_confidence(self.min_confidence)
        if not 1 <= self.smooth <= MAX_FRAMES:
            raise UserError(f"the average is over {self.smooth} frames: 1 to {MAX_FRAMES} were expected")
        if not 1 <= self.agree <= self.of <= MAX_FRAMES:
            raise UserError(
                f"{self.agree} of {self.of} frames have to agree: N of M with 1 <= N <= M <= {MAX_FRAMES} was expected"
            )


def check_min_confidence(min_confidence: float) -> None:
    """Refuse a value that is no probability.

    Raises:
        UserError: it is not from 0 to 1.
    """
    if not 0 <= min_confidence <= 1:
        raise UserError(f"the minimum confidence is {min_confidence}: a probability from 0 to 1 was expected")


def parse_agreement(given: str | Sequence[int]) -> tuple[int, int]:
    """N/M as two numbers; two numbers are returned as they are.

    Raises:
        UserError: it has another form.
    """
    parts = given.split("/") if isinstance(given, str) else given if isinstance(given, Sequence) else ()
    words = [str(part) for part in parts]
    if len(words) != 2 or not all(word.isascii() and word.isdecimal() and len(word) < 6 for word in words):
        raise UserError(f"{given!r}: N/M was expected, such as 3/5: at least 3 of the last 5 frames agree")
    return int(words[0]), int(words[1])


class DecisionsOverTime:
    """The average of each region, and the objects of the run."""

    def __init__(self, config: DecisionConfig) -> None:
        self.config = config
        self._smoothers: dict[int, Smoother] = {}
        self._consensus = Consensus(agree=config.agree, of=config.of)

    def smoothed(self, region: int, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """The average probabilities [C] of a region, with the next frame's."""
        if self.config.smooth == 1:
            return probabilities
        return self._smoothers.setdefault(region, Smoother(self.config.smooth))(probabilities)

    def update(self, seen: Sequence[Seen], *, frame: int) -> list[ObjectEvent]:
        """The events of a frame, from the answers for its regions."""
        if self._smoothers:
            regions = {one.region for one in seen}
            self._smoothers = {region: smoother for region, smoother in self._smoothers.items() if region in regions}
        return self._consensus.update(seen, frame=frame)

    def status(self, region: int) -> Status:
        """The object in a region after the last frame."""
        return self._consensus.status(region)
