"""A headless Chromium for tests, driven by Playwright, which comes without a browser of its own here."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import time
from collections.abc import Iterator
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ["--no-sandbox", "--disable-dev-shm-usage"]
"""Both are needed in containers: as root, and with little shared memory."""
_REFUSED = "ERR_CONNECTION_REFUSED"


def chromium() -> str:
    """The path of Chromium. Without one the test is skipped, or fails where `make test` could have installed it."""
    pytest.importorskip("playwright")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        message = "Chromium is missing: sudo apt-get install chromium"
        if os.environ.get("CI") and os.geteuid() == 0 and shutil.which("apt-get"):
            pytest.fail(message)
        pytest.skip(message)
    return path


@contextlib.contextmanager
def browser() -> Iterator[Any]:
    """A Playwright browser."""
    path = chromium()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        try:
            yield started
        finally:
            started.close()


class Viewer:
    """A page in a context of its own, which notes errors and requests."""

    def __init__(self, browser: Any, url: str, *, before: str = "", **options: Any) -> None:
        """Open a page, as soon as it is served.

        Args:
            before: JavaScript that runs before the page's own.
            options: of the context, such as its viewport.
        """
        self.context = browser.new_context(accept_downloads=True, **options)
        self.page = self.context.new_page()
        self.errors: list[str] = []
        self.hosts: set[str] = set()
        self.page.on("console", self._note)
        self.page.on("pageerror", lambda error: self.errors.append(str(error)))
        self.page.on("request", lambda request: self.hosts.add(request.url.split("/")[2]))
        if before:
            self.page.add_init_script(before)
        for _ in range(300):
            try:
                self.page.goto(url)
                return
            except Exception as error:
                assert _REFUSED in str(error) or "ERR_CONNECTION_RESET" in str(error), error
                time.sleep(0.2)
        raise TimeoutError(f"{url} is not served")

    def _note(self, message: Any) -> None:
        if message.type == "error" and _REFUSED not in message.text:  # a device that is off
            self.errors.append(message.text)

    def wait(self, selector: str, text: str | re.Pattern[str], *, timeout_s: float = 20.0) -> None:
        """Wait until an element contains a text."""
        self.page.locator(selector, has_text=text).first.wait_for(timeout=timeout_s * 1e3)

    def wait_until_shown(self) -> None:
        """Wait for the first frame."""
        self.page.locator("#pause:enabled").wait_for(timeout=30_000)

    def text(self, selector: str) -> str:
        return str(self.page.locator(selector).first.inner_text())
