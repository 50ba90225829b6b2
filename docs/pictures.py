"""Takes the pictures of the README from a real search: `make pictures`, some minutes on two CPU cores.

Runs `hpo demo` in build/pictures, under a host name that is nobody's, and shows what it prints. The terminal's table is
drawn in the middle of the search; the dashboard and the report are looked at in Chromium at its end. A demo that has
ended there already is only looked at.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from contextlib import contextmanager
from io import BytesIO, StringIO
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image
from rich.console import Console

import hpo
from hpo.study.status_table import render
from tests.support.chromium import chromium

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, FloatRect, Locator, Page

    from hpo.study.status import Snapshot

ROOT = Path(__file__).parent.parent
PICTURES, FOLDER = ROOT / "docs/pictures", ROOT / "build/pictures"
STUDY = "demo/study.toml"
SITE = 'import socket\n\nsocket.gethostname = lambda: "laptop"\n'  # which each Python process imports when it starts
PASSWORD = "a password for a minute"  # noqa: S105 - of a dashboard that ends with the pictures
SHOWN_AFTER, SHOWN_EPOCH = 12, 4  # the table is drawn when so many trials have ended, and those at work are so far
LOOK_SECONDS = 0.2
HEIGHT = 3600  # of a window, pixels: as high as all that is shown
MARGIN = 8  # pixels around what is shown
COLOURS = 128  # of a picture, so that it is small


def main() -> None:
    """Search, look, and write the pictures."""
    for folder in (PICTURES, FOLDER):
        folder.mkdir(parents=True, exist_ok=True)
    (FOLDER / "sitecustomize.py").write_text(SITE, encoding="utf-8")
    if not (FOLDER / "demo/predictions.csv").exists():
        search_and_draw()
    with chromium() as browser:
        photograph_dashboard(browser)
        photograph_report(browser)


@contextmanager
def started(*arguments: str) -> Iterator[Iterator[str]]:
    """The lines that a command of hpo prints, which ends with the block."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HPO_")}
    command = subprocess.Popen(
        [sys.executable, "-m", "hpo", *arguments],
        cwd=FOLDER,
        env={**environment, "HPO_DASHBOARD_PASSWORD": PASSWORD, "PYTHONPATH": f"{FOLDER}{os.pathsep}{ROOT}"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert command.stdout
    try:
        yield iter(command.stdout)
    finally:
        command.terminate()
        command.wait()


def search_and_draw() -> None:
    """Run the demo, and write search.svg: what `hpo search` shows in a terminal when some trials have ended."""
    ended, drawn = 0, False
    with started("demo", "demo") as lines:
        for line in lines:
            print(line, end="", flush=True)
            ended += line.startswith("trial ")
            if ended >= SHOWN_AFTER and not drawn:
                drawn = True
                draw_table()
    if not drawn or not (FOLDER / "demo/predictions.csv").exists():
        sys.exit("the demo did not come to its end, or began in an earlier run: remove build/pictures and try again")


def draw_table() -> None:
    """Write search.svg as soon as all workers are in the middle of a trial."""
    with hpo.open_study(FOLDER / STUDY) as study:
        while not in_the_middle(snapshot := study.status()):
            time.sleep(LOOK_SECONDS)
    console = Console(record=True, width=92, file=StringIO(), color_system="truecolor")
    console.print(render(snapshot))
    svg = console.export_svg(title=f"hpo search {STUDY}")
    svg = re.sub(r"@font-face \{.*?\}", "", svg, flags=re.DOTALL)  # fonts from somewhere else
    (PICTURES / "search.svg").write_text(svg, encoding="utf-8")


def in_the_middle(snapshot: Snapshot) -> bool:
    """Whether all workers train, and have come to the epoch that is shown; or the search has ended."""
    places = [snapshot.place_of(worker) for worker in snapshot.present]
    return snapshot.finished or all(place and (place.epoch or 0) >= SHOWN_EPOCH for place in places)


def photograph_dashboard(browser: Browser) -> None:
    """Write history.png, the study's first chart, and of its best trial note.png and artifacts.png, its pictures."""
    with started("dashboard", STUDY, "--port", "0") as lines:
        address = next(line.split()[-1] for line in lines if "http://" in line)
        page = browser.new_page(viewport={"width": 1700, "height": HEIGHT})  # as wide as the lines of a note
        page.goto(address)
        page.get_by_label("Password").fill(PASSWORD)
        page.get_by_role("button", name="Log in").click()
        page.get_by_text("Hyperparameter Importance").wait_for()
        page.locator(".scatterlayer .point").first.wait_for()
        keep(page, "history", last=page.locator(".MuiCard-root").first)
        page.goto(f"{page.url}/note")
        page.get_by_role("link", name=re.compile(r"^trial \d+$")).first.click()
        page.get_by_role("heading", name="F1 by class, the weakest first").wait_for()
        keep(page, "note", last=page.locator("table").last)
        artifacts = page.get_by_role("heading", name="Artifacts")
        page.wait_for_function("[...document.images].length >= 3 && [...document.images].every(each => each.complete)")
        keep(page, "artifacts", first=artifacts, last=page.locator(".MuiCard-root").last)


def photograph_report(browser: Browser) -> None:
    """Write report.png: the page of `hpo report` down to the recipe of the winner."""
    with started("report", STUDY, "-o", "report.html") as lines:
        print("".join(lines), end="")
    page = browser.new_page(viewport={"width": 1200, "height": HEIGHT})
    page.goto((FOLDER / "report.html").as_uri())
    keep(page, "report", last=page.locator("pre#recipe"))


def keep(page: Page, name: str, *, last: Locator, first: Locator | None = None) -> None:
    """Write what the window shows down to the end of `last`, from its top or from `first` on, in few colours."""
    top, end = first.bounding_box() if first else None, last.bounding_box()
    assert end
    assert page.viewport_size
    x, y = (top["x"] - MARGIN, top["y"] - MARGIN) if top else (0.0, 0.0)
    right, bottom = page.viewport_size["width"], end["y"] + end["height"] + MARGIN
    clip: FloatRect = {"x": x, "y": y, "width": right - x, "height": bottom - y}
    picture = Image.open(BytesIO(page.screenshot(animations="disabled", clip=clip)))
    picture.convert("RGB").quantize(COLOURS).save(PICTURES / f"{name}.png", optimize=True)


if __name__ == "__main__":
    main()
