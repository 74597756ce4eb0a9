"""A real browser for the tests that look at a page: the machine's Chromium, headless, driven by playwright."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SWITCHES = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip


@contextmanager
def chromium() -> Iterator[Any]:
    """Skips the tests where there is none, unless DISTILSEARCH_BROWSER=required says that there has to be."""
    if CHROMIUM is None:
        reason = "no chromium, chromium-browser or google-chrome on this machine"
        pytest.fail(reason) if os.environ.get("DISTILSEARCH_BROWSER") == "required" else pytest.skip(reason)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=list(SWITCHES))
        yield browser
        browser.close()


class Watched:
    """A page, and all that it said, asked for and failed at."""

    def __init__(
        self, browser: Any, url: str, phone: bool = False, dark: bool = False, ready: str = "#front-chart svg"
    ):
        size = {"width": 390, "height": 844} if phone else {"width": 1280, "height": 900}
        self.context = browser.new_context(viewport=size, color_scheme="dark" if dark else "light", has_touch=phone)
        self.page = self.context.new_page()
        self.said: list[str] = []
        self.asked: list[str] = []
        self.page.on("console", lambda message: self.said.append(message.text))
        self.page.on("pageerror", lambda error: self.said.append(str(error)))
        self.page.on("dialog", lambda dialog: (self.said.append(dialog.message), dialog.dismiss()))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(url)
        self.page.wait_for_selector(ready)


def until(holds: Callable[[], Any], seconds: float = 60.0) -> None:
    """Waits in here: the page's policy lets nobody poll in there."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it never came to be"
        time.sleep(0.05)
