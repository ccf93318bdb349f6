"""`Collector`: keeps frames that someone has marked as wrong, to train with them later."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from edgefuse_runtime.camera import Frame
    from edgefuse_runtime.results import Result


class Collector(Protocol):
    """What the page calls, in threads of its own."""

    def shown(self, result: Result, frame: Frame) -> None:
        """A frame was sent to viewers; called for each of its results, one after the other."""

    def hold(self, index: int) -> None:
        """A viewer has paused at the frame of a result, or chooses its class: it may be marked later than others."""

    def mark_wrong(self, index: int, label: str) -> str:
        """Keep the frame and region of a result with its true class.

        Args:
            index: `Result.index`.
            label: the true class, chosen or typed by the viewer: up to 100 printable characters.

        Returns:
            A sentence for the viewer.

        Raises:
            UserError: the frame is not kept any more, or the class is not a possible name.
        """
