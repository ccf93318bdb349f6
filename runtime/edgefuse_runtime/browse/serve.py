"""`browsing`: opens data sets and a bundle, and serves their page."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgefuse.console.interrupts import raise_if_interrupted
from edgefuse.errors import UserError, require
from edgefuse.io.files import real_path
from edgefuse_runtime.browse.analysis import Analysis
from edgefuse_runtime.browse.browse_app import browse_app
from edgefuse_runtime.browse.index import Index
from edgefuse_runtime.browse.page import Page
from edgefuse_runtime.browse.sources import DataSource, open_source
from edgefuse_runtime.classifier import Classifier
from edgefuse_runtime.web.address import web_address
from edgefuse_runtime.web.server import serving
from edgefuse_runtime.web.static_files import StaticFiles

POLL_S = 0.2


@dataclass(frozen=True, kw_only=True)
class Browsing:
    """A page that is served. `notes`: what cannot be changed or shown, one sentence each."""

    url: str
    num_pairs: int
    notes: tuple[str, ...]

    def wait(self) -> None:
        """Wait for the signal that ends the command.

        Raises:
            KeyboardInterrupt: it has arrived.
        """
        while True:
            raise_if_interrupted()
            time.sleep(POLL_S)


@contextmanager
def browsing(
    data: Sequence[Path],
    *,
    web: str,
    bundle: Path | None = None,
    layout: str | None = None,
    unit: str | None = None,
    engine: str = "auto",
    num_threads: int | None = None,
) -> Iterator[Browsing]:
    """Serve the page of some data sets until the block ends.

    Args:
        web: [HOST:]PORT.
        layout, unit: see `open_source`.
        bundle, engine, num_threads: see `edgefuse.Classifier`.

    Raises:
        UserError: no data set, a bundle that does not fit, or an address that cannot be served.
    """
    require("starlette", extra="web")
    address = web_address(web)
    real = [real_path(root) for root in data]
    if len(set(real)) < len(real):
        raise UserError("a data set is given twice")
    classifier = None if bundle is None else Classifier(bundle, engine=engine, num_threads=num_threads)
    sources = [open_source(root, layout=layout, unit=unit) for root in data]
    if classifier is not None:
        _refuse_other_align(sources, classifier)
    index = Index(sources, labels=() if classifier is None else classifier.labels)
    range_m = None if classifier is None else (classifier.contract.near_m, classifier.contract.far_m)
    files = StaticFiles()
    notes = [source.read_only for source in sources if source.read_only]
    notes += [problem for source in sources for problem in source.problems]
    with Analysis(index, classifier) as analysis, address.listen() as listening:
        page = Page(index, analysis, title=", ".join(path.name for path in real), version=files.version)
        with serving(browse_app(page, files, address, range_m=range_m), listening):
            yield Browsing(url=f"http://{address.text}/", num_pairs=len(index.shown()), notes=tuple(notes))


def _refuse_other_align(sources: Sequence[DataSource], classifier: Classifier) -> None:
    needed = classifier.contract.align
    for source in sources:
        if source.align != needed:
            raise UserError(
                f"{source.root} is aligned to {source.align}, but the bundle needs pairs aligned to {needed}"
            )
