"""A browser for all tests of a process, and a page for those of a module."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import browser
import pytest
from page_scenes import TOKEN, Run, page_of_a_run


@pytest.fixture(scope="session")
def chromium() -> Iterator[Any]:
    with browser.browser() as started:
        yield started


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    with page_of_a_run() as run:
        yield run


@pytest.fixture(scope="module")
def guarded() -> Iterator[Run]:
    with page_of_a_run(token=TOKEN) as run:
        yield run
