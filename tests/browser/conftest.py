"""A browser, and where its pictures go."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.acceptance.conftest import faulty_study, server  # noqa: F401 - fixtures
from tests.support import chromium


@pytest.fixture(scope="session")
def browser():
    """Chromium of this machine."""
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed: make browser-test")
    if chromium.program() is None:
        pytest.skip("neither Chromium nor Chrome is installed")
    with chromium.chromium() as opened:
        yield opened


@pytest.fixture
def page(browser):
    """A window of its own cookies, in which no page has an error of its own."""
    with browser.new_context(viewport={"width": 1400, "height": 1000}) as context:
        opened, errors = context.new_page(), []
        opened.on("pageerror", lambda error: errors.append(error))  # noqa: PLW0108 - it takes no built-in
        yield opened
        assert errors == []


@pytest.fixture
def shoot(page, tmp_path):
    """Takes a picture of the window, for people: into SCREENSHOTS, or the folder of the test."""
    folder = Path(os.environ.get("SCREENSHOTS") or tmp_path)

    def take(name, **options):
        folder.mkdir(parents=True, exist_ok=True)
        page.screenshot(path=folder / f"{name}.png", **options)

    return take
