"""How long the dashboard takes for a study of many trials, against optuna-dashboard as it comes.

    python benchmarks/dashboard.py [--trials 2000] [--rounds N]

A study is written with the default search space, 20 epochs, metrics of 18 classes and four files for each complete
trial. Printed are the seconds of the first answer and of later ones to what the page asks for, the study with all its
trials, and the megabytes that go to the browser; where Playwright and Chromium are there, also the seconds until the
page of the study has drawn its trials, in windows without a cache. Both ways are served by waitress, and `hpo` is
behind its password.
"""

from __future__ import annotations

import argparse
import base64
import json
import os
import random
import shutil
import statistics
import tempfile
import threading
import time
import urllib.request
import uuid
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import optuna
import optuna_dashboard
from optuna.trial import TrialState, create_trial
from waitress import create_server

from hpo.dashboard.login_gate import LoginGate
from hpo.dashboard.routes import Dashboard
from hpo.study.open_study import give_id, load_study
from hpo.study.study_file import read_study_file
from storage.database import connect, initialize, parse_url
from storage.embedded.server import embedded_postgres
from storage.keys import SETTINGS_KEY
from trainer.space import suggest

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

    from hpo.study.study_file import StudyFile

EPOCHS = 20
FILES = ("learning_curves.png", "confusion_matrix.png", "most_wrong.png", "weights.safetensors")
PASSWORD = "of a benchmark alone"  # noqa: S105 - nobody else reaches it


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=5, help="later answers, and windows; default: 5")
    options = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hpo-bench-")))
        folder.chmod(0o711)  # the account that runs root's Postgres has to get through
        (folder / "photos" / "class").mkdir(parents=True)
        (folder / "study.toml").write_text(
            f'[study]\nname = "many"\n[data]\npath = "photos"\n[budget]\ntrials = {options.trials}\n'
        )
        file = read_study_file(folder / "study.toml")
        url = parse_url(stack.enter_context(embedded_postgres(file.folder))).render_as_string(hide_password=False)
        fill(file, url, options.trials)
        opened = load_study(file, url)
        stock = optuna_dashboard.wsgi(optuna.storages.RDBStorage(url), artifact_store=opened.artifacts)
        login_gate = LoginGate(Dashboard(opened).application, PASSWORD)
        for way, application in (("stock", stock), ("hpo", login_gate)):
            measure(way, application, opened.study_id, options.rounds)


def fill(file: StudyFile, url: str, trials: int) -> None:
    """Write a study with that many finished trials, six in ten of them complete and the others pruned."""
    initialize(url)
    storage, drawn = connect(url), random.Random(0)  # noqa: S311 - no secrets
    study = optuna.create_study(study_name=file.name, storage=storage, direction="maximize")
    give_id(study)
    study.set_user_attr(SETTINGS_KEY, {"recipe": file.space.as_dict()})
    asking = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for number in range(trials):
        asked, value, complete = asking.ask(), drawn.random(), number % 10 < 6
        suggest(asked, file.space)
        of_class = {"f1": value, "precision": value, "recall": value, "roc_auc": value, "images": 50}
        metrics = {"macro_f1": value, "per_class": {f"class {n}": of_class for n in range(18)}}
        ids = {name: f"{study.user_attrs['hpo:id']}-{uuid.uuid4()}" for name in FILES if complete}
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if complete else TrialState.PRUNED,
                value=value,
                params=asked.params,
                distributions=asked.distributions,
                user_attrs={"host": "host", "device": "NVIDIA L4", "metrics": metrics, "best_epoch": EPOCHS},
                system_attrs={f"artifacts:{file_id}": meta(file_id, name) for name, file_id in ids.items()},
                intermediate_values={epoch: drawn.random() for epoch in range(1, (EPOCHS if complete else 6) + 1)},
            )
        )
    storage.engine.dispose()


def meta(artifact_id: str, name: str) -> str:
    """What names a file of a trial."""
    return json.dumps({"artifact_id": artifact_id, "filename": name, "mimetype": "image/png", "encoding": None})


def measure(way: str, application: WSGIApplication, study_id: int, rounds: int) -> None:
    """Print a line for one way of serving the study."""
    server = create_server(application, host="127.0.0.1", port=0, threads=8)
    threading.Thread(target=server.run, daemon=True).start()
    address = f"http://127.0.0.1:{server.effective_port}"
    password = base64.b64encode(f":{PASSWORD}".encode()).decode()  # of which the stock one takes no notice
    headers = {"Accept-Encoding": "gzip", "Authorization": f"Basic {password}"}
    asked = urllib.request.Request(f"{address}/api/studies/{study_id}", headers=headers)  # noqa: S310 - ours
    times, size = [], 0
    for _ in range(1 + rounds):
        began = time.perf_counter()
        with urllib.request.urlopen(asked) as answer:  # noqa: S310 - ours
            size = len(answer.read())
        times.append(time.perf_counter() - began)
    later = statistics.median(times[1:])
    drawn = draw(f"{address}/dashboard/studies/{study_id}", rounds)
    page = f", page drawn after {statistics.median(drawn):.1f} s" if drawn else ""
    print(f"{way:<6} first answer {times[0]:.2f} s, later {later:.2f} s, {size / 1e6:.1f} MB{page}", flush=True)


def draw(page: str, rounds: int) -> list[float]:
    """Seconds until a browser has drawn the trials, in new windows; none where there is no browser."""
    program = shutil.which("chromium")
    if not program or not find_spec("playwright"):
        return []
    from playwright.sync_api import sync_playwright

    times = []
    with sync_playwright() as playwright:
        as_root = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=as_root)
        for _ in range(rounds):
            window = browser.new_page(viewport={"width": 1400, "height": 1000})
            window.goto(page)
            began = time.perf_counter()
            if "/login" in window.url:
                window.fill("input[name=password]", PASSWORD)
                began = time.perf_counter()
                window.click("button")
            else:
                window.goto(page, wait_until="commit")
            window.wait_for_selector(".scatterlayer .point", timeout=300_000)
            times.append(time.perf_counter() - began)
            window.close()
        browser.close()
    return times


if __name__ == "__main__":
    main()
