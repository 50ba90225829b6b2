"""A long search under all faults at random moments: `make chaos`. It ends with 1 where anything was lost or changed."""

from __future__ import annotations

import argparse
import os
import random
import subprocess
import sys
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil
from sqlalchemy import text

from storage.keys import CHECKPOINT_KEY
from tests.support import faulty_hpo
from tests.support.faulty_hpo import VARIABLE, Faults
from tests.support.faulty_study import FaultyStudy, changed
from tests.support.postgres_server import PostgresServer
from tests.support.small_disk import NoSmallDiskError, fill, small_disk

EPOCHS = 10
HOSTS = (  # two searches on one study, as if on hosts that do not agree on the time
    {"clock_seconds": 3600.0, "zone": "Pacific/Auckland"},
    {"clock_seconds": -3600.0, "zone": "America/Anchorage"},
)
DISK_MEGABYTES = 16
LAST_SECONDS = 180.0  # in which both searches end after the last trial
LONG_SECONDS = 60.0  # that the database and the artifact store are away once
ONCE = ("database away for long", "store away for long", "worker frozen until it counts as dead")
WEIGHTS = {
    "worker killed": 8,
    "worker terminated": 1,
    "worker frozen for a moment": 1,
    "search killed": 1,
    "search terminated": 1,
    "database restarted": 1,
    "database crashed": 1,
    "database away": 1,
    "connections cut": 2,
    "store away": 1,
    "disk full": 1,
    "checkpoint damaged": 1,
}


class Search:
    """`hpo search` with two workers on one host, started again whenever it has ended too early."""

    def __init__(self, study, *, clock_seconds, zone, step_seconds, output):
        self._command = [
            sys.executable,
            faulty_hpo.__file__,
            "search",
            str(study.file.path),
            "--workers",
            "2",
        ]
        faults = Faults(step_seconds=step_seconds, clock_seconds=clock_seconds)
        ours = {"HPO_STORAGE": study.url, VARIABLE: faults.as_text(), "TZ": zone, "PGTZ": zone}
        self._environment, self._folder, self._output = {**os.environ, **ours}, study.folder, output
        self.starts = 0
        self.start()

    def start(self):
        """Start it."""
        self.starts += 1
        self.process = subprocess.Popen(
            self._command, cwd=self._folder, env=self._environment, stdout=self._output, stderr=self._output
        )

    @property
    def workers(self):
        """Its worker processes."""
        try:
            return [child for child in psutil.Process(self.process.pid).children() if "worker" in child.cmdline()]
        except psutil.NoSuchProcess:
            return []


class Chaos:
    """What happens to a study.

    Args:
        study: the study.
        server: its database.
        searches: that work on it.
        rng: chooses.
        long_seconds: of the long absences.
    """

    def __init__(self, study, server, searches, rng, long_seconds):
        self._study, self._server, self._searches, self._rng = study, server, searches, rng
        self._long_seconds = long_seconds
        self._disk, self._store = study.disk, study.store
        self._frozen: list[psutil.Process] = []
        self.happened: Counter[str] = Counter()

    def happen(self, fault):
        """Let a fault happen; False where there is nothing that it could happen to."""
        workers = [worker for search in self._searches for worker in search.workers if worker not in self._frozen]
        search = self._rng.choice(self._searches)
        match fault.split():
            case ["worker", *_] if not workers:
                return False
            case ["worker", "killed"]:
                self._rng.choice(workers).kill()
            case ["worker", "terminated"]:
                self._rng.choice(workers).terminate()
            case ["worker", "frozen", "for", *_]:
                worker = self._rng.choice(workers)
                worker.suspend()
                time.sleep(self._rng.uniform(1, 8))
                worker.resume()
            case ["worker", "frozen", "until", *_]:
                training = self._pids(
                    "SELECT pid FROM hpo.worker JOIN hpo.place ON worker = id WHERE state = 'running'"
                )
                at_work = [worker for worker in workers if worker.pid in training]
                if self._frozen or not at_work:
                    return False
                self._frozen.append(self._rng.choice(at_work))
                self._frozen[0].suspend()
            case ["search", *_] if self._frozen:
                return False
            case ["search", "killed"]:
                search.process.kill()
            case ["search", "terminated"]:
                search.process.terminate()
            case ["database", "restarted"]:
                self._server.restart("fast")
            case ["database", "crashed"]:
                self._server.restart("immediate")
            case ["database", "away", *more]:
                self._server.stop(self._rng.choice(["fast", "immediate"]))
                time.sleep(self._long_seconds if more else self._rng.uniform(1, 10))
                self._server.start()
            case ["connections", "cut"]:
                self._server.cut()
            case ["store", "away", *more]:
                if not self._store.exists():
                    return False
                with self._store_away():
                    time.sleep(self._long_seconds if more else self._rng.uniform(1, 10))
            case ["disk", "full"]:
                if not self._disk.is_mount():
                    return False
                filler = fill(self._disk)
                time.sleep(self._rng.uniform(1, 10))
                filler.unlink()
            case ["checkpoint", "damaged"]:
                if not self._damage():
                    return False
        self.happened[fault] += 1
        print(f"{time.strftime('%H:%M:%S')} {fault}", flush=True)
        return True

    def go_on(self):
        """Start searches that have ended too early, and wake a worker that has come to count as dead."""
        for search in self._searches:
            if search.process.poll() is not None:
                search.start()
        for worker in list(self._frozen):
            if worker.pid in self._pids("SELECT pid FROM hpo.worker WHERE gone IS NOT NULL"):
                worker.resume()
                self._frozen.remove(worker)
                print(f"{time.strftime('%H:%M:%S')} the frozen worker counted as dead and goes on", flush=True)

    @property
    def is_frozen(self):
        """Whether a worker is."""
        return bool(self._frozen)

    @contextmanager
    def _store_away(self):
        """A file where the folder of the artifacts was."""
        away = self._store.with_name("away")
        self._store.rename(away)
        self._store.write_text("a file in its place")
        yield
        self._store.unlink()
        away.rename(self._store)

    def _pids(self, query):
        """Process ids of workers, from the database."""
        with self._study.opened.storage.engine.connect() as connection:
            return set(connection.execute(text(query)).scalars())

    def _damage(self):
        """Damage the checkpoint of a trial that runs, which matters only if its worker dies before the next one."""
        names = [trial.user_attrs.get(CHECKPOINT_KEY) for trial in self._study.trials if not trial.state.is_finished()]
        files = [file for name in names if name and (file := self._store / name).exists()]
        if not files:
            return False
        with self._rng.choice(files).open("r+b") as file:
            file.seek(1000)
            file.write(b"no checkpoint any more")
        return True


def run(study, server, arguments, output):
    """Search under all faults to the end of the budget; returns what must not be."""
    rng, begun = random.Random(arguments.seed), time.monotonic()
    searches = [Search(study, step_seconds=arguments.step_seconds, output=output, **host) for host in HOSTS]
    chaos = Chaos(study, server, searches, rng, arguments.long_seconds)
    coming = [*WEIGHTS, *ONCE]
    rng.shuffle(coming)
    try:
        while not study.is_finished:
            fault = coming.pop(0) if coming else rng.choices(list(WEIGHTS), list(WEIGHTS.values()))[0]
            if not chaos.happen(fault):
                coming.append(fault)
            time.sleep(rng.uniform(0.5, arguments.pause_seconds))
            chaos.go_on()
        while chaos.is_frozen:
            time.sleep(1)
            chaos.go_on()
        for search in searches:
            search.process.wait(LAST_SECONDS)
    finally:
        for search in searches:
            for process in [*search.workers, search.process]:
                process.kill()
            search.process.wait()
    print(f"\n{time.monotonic() - begun:.0f} s, {sum(search.starts for search in searches)} starts of a search")
    for fault in (*WEIGHTS, *ONCE):
        print(f"{fault:<44}{chaos.happened[fault]:>6}")
    return [f"a search ended with {search.process.returncode}" for search in searches if search.process.returncode]


def main():
    """Run it; exit with 1 where anything was lost or changed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0, help="of the faults; default: 0")
    parser.add_argument("--trials", type=int, default=110, help="default: 110, for a quarter of an hour on two cores")
    parser.add_argument("--step-seconds", type=float, default=0.35, help="of 30 in a trial; default: 0.35")
    parser.add_argument("--pause-seconds", type=float, default=8.0, help="the longest between two faults; default: 8")
    parser.add_argument(
        "--long-seconds", type=float, default=LONG_SECONDS, help="that database and store are away once; default: 60"
    )
    arguments = parser.parse_args()
    with TemporaryDirectory(prefix="hpo-chaos-") as name, ExitStack() as stack:
        folder = Path(name)
        folder.chmod(0o711)  # for the account of root's Postgres
        server = PostgresServer(folder)
        stack.callback(server.stop)
        settings = {"trials": arguments.trials, "epochs": EPOCHS}
        study = stack.enter_context(FaultyStudy(folder / "chaos", server.make_database("chaos"), **settings))
        try:
            stack.enter_context(small_disk(study.disk, DISK_MEGABYTES))
        except NoSmallDiskError as error:
            print(f"no disk will be full: {error}")
        output = stack.enter_context((folder / "output").open("w+"))
        problems = run(study, server, arguments, output)
        tally = study.tally()
        calm = stack.enter_context(FaultyStudy(folder / "calm", server.make_database("calm"), **settings))
        assert calm.worker(grace_seconds=None).end(600) == 0
        expected = calm.ends()
        other = changed(study.ends(), expected)
        problems += [f"the trial in place {number} ended otherwise than without faults" for number in other]
        print(f"trials that ended as without faults, bit for bit: {len(expected) - len(other)} of {len(expected)}")
        output.seek(0)
        if "Traceback" in (printed := output.read()) or problems or tally.problems:
            print("\n".join([*problems, printed]))
            sys.exit(1)


if __name__ == "__main__":
    main()
