"""The requested engine, or for "auto" the first that works on this machine, with the reason for each that was skipped."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import TracebackType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgefuse.bundle import Bundle
from edgefuse.errors import MissingPackageError, UserError
from edgefuse_runtime.engines.engine import Decision, Engine, OfBundle, Tensor
from edgefuse_runtime.engines.engine_cache import NoPlanError
from edgefuse_runtime.engines.openvino_parity import NoSamplesError

NOT_AVAILABLE = (MissingPackageError, NoPlanError, NoSamplesError)
"""Errors of an engine that was not prepared here: nothing is wrong. Any other means that one failed, which is a warning."""

_log = logging.getLogger(__name__)


class AutoEngine(OfBundle):
    """One of several engines, chosen by `with`. See `Engine` for the protocol."""

    def __init__(
        self, bundle: Bundle, *, candidates: Mapping[str, Engine], reasons: Mapping[str, str] | None = None
    ) -> None:
        """List the engines; `with` opens the first that works.

        Args:
            candidates: value of `--engine` -> engine, best first. An error of the last one is raised; errors of the others are
                the reasons for skipping them.
            reasons: value of `--engine` -> why it is at its place, for the description.
        """
        self._reasons = reasons or {}
        self._bundle = bundle
        self._candidates = candidates
        self._engine: Engine | None = None
        self._description: dict[str, Any] = {}

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        return self._engine.inputs if self._engine is not None else ()

    @property
    def outputs(self) -> tuple[Tensor, ...]:
        return self._engine.outputs if self._engine is not None else ()

    @property
    def batch_size(self) -> int | None:
        return self._engine.batch_size if self._engine is not None else self._bundle.manifest.batch_size

    @property
    def description(self) -> dict[str, Any]:
        """The engine's own; `passed_over`: value of `--engine` -> reason for skipping it; `reason` for this one, if it has one."""
        return self._description

    def __enter__(self) -> AutoEngine:
        errors: dict[str, UserError] = {}
        *others, last = self._candidates
        for word in others:
            try:
                self._open(word, errors)
            except UserError as error:
                errors[word] = error
            else:
                return self
        self._open(last, errors)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        engine = self._engine
        if engine is not None:
            engine.__exit__(kind, error, trace)
            self._engine = None

    def run(self, rgb: NDArray[np.uint8], depth: NDArray[np.uint8]) -> Decision:
        """See `Engine.run`."""
        if self._engine is None:
            raise RuntimeError("run outside of `with`")
        return self._engine.run(rgb, depth)

    def _open(self, word: str, errors: Mapping[str, UserError]) -> None:
        """Open one engine, and log it together with the errors of those before it."""
        self._engine = None
        engine = self._candidates[word].__enter__()
        self._engine = engine
        why = {"reason": self._reasons[word]} if word in self._reasons else {}
        passed_over = {one: str(error) for one, error in errors.items()}
        self._description = {**engine.description, **why, "passed_over": passed_over}
        if any(not isinstance(error, NOT_AVAILABLE) for error in errors.values()):
            level = logging.WARNING
        else:
            level = logging.INFO if len(self._candidates) > 1 else logging.DEBUG
        reasons = "; ".join(f"{one}: {_first_sentence(str(error))}" for one, error in errors.items())
        _log.log(level, "engine: %s%s", word, f" ({reasons})" if reasons else "")


def _first_sentence(reason: str) -> str:
    """The problem without the remedy: the user did not request the skipped engines."""
    return reason.split(". ", maxsplit=1)[0].rstrip(".")
