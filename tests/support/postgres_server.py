"""A Postgres server of one's own, to be stopped, started and cut off."""

from __future__ import annotations

import os
import random
import secrets
import signal
import socket
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import psycopg2

from storage.database import initialize
from storage.embedded.programs import give, run

SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = ''
max_connections = 60
fsync = off
"""


def free_port() -> int:
    """A port of this machine at which nobody listens, and that no connection to elsewhere is given meanwhile."""
    for port in random.SystemRandom().sample(range(20_000, 32_000), 100):  # Linux gives those from 32,768 on
        with socket.socket() as free, suppress(OSError):
            free.bind(("127.0.0.1", port))
            return port
    raise AssertionError("no port is free")


class PostgresServer:
    """A server on a free port of this machine, which asks for a password.

    Args:
        folder: for its data; the account that runs root's Postgres must reach it.
    """

    def __init__(self, folder: Path) -> None:
        self._place = folder / "server"
        self._place.mkdir(mode=0o700)
        self._password = secrets.token_urlsafe(16)
        self._port = free_port()
        password = self._place / "password"
        password.write_text(self._password)
        for path in (password, self._place):
            give(path)
        self._call("initdb", "--username=hpo", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8")
        with (self._data / "postgresql.conf").open("a") as file:
            file.write(SETTINGS.format(port=self._port))
        self.start()
        with self.session() as cursor:
            cursor.execute("CREATE DATABASE tables")
        initialize(self.url("tables"))

    @property
    def _data(self) -> Path:
        return self._place / "data"

    def _call(self, program: str, *arguments: str) -> None:
        code, text = run(program, *arguments, data=self._data)
        assert code == 0, text

    def start(self) -> None:
        """Start it, and wait until it answers."""
        self._call("pg_ctl", "start", "--wait", "--silent", f"--log={self._place / 'log'}")

    def stop(self, mode: str = "fast") -> None:
        """Stop it: fast ends the sessions, immediate is a crash."""
        self._call("pg_ctl", "stop", "--wait", "--silent", f"--mode={mode}")

    def restart(self, mode: str) -> None:
        """Stop and start it."""
        self.stop(mode)
        self.start()

    @contextmanager
    def session(self, database: str = "postgres"):
        """A session in which each statement is a transaction; yields a cursor."""
        with closing(psycopg2.connect(self.url(database))) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                yield cursor

    @contextmanager
    def frozen(self):
        """Let no process of it run, while the block runs: connections stay, and nothing answers."""
        main = int((self._data / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{main}/task/{main}/children").read_text().split()
        processes = [main, *map(int, children)]
        for process in processes:
            os.kill(process, signal.SIGSTOP)
        try:
            yield
        finally:
            for process in processes:
                os.kill(process, signal.SIGCONT)

    def cut(self) -> int:
        """End all other sessions; returns how many there were."""
        with self.session() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                " WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()"
            )
            return cursor.fetchone()[0]

    def make_database(self, name: str) -> str:
        """Make a database with Optuna's tables and ours, which take longer to make than to copy; returns its URL."""
        with self.session() as cursor:
            cursor.execute(f"CREATE DATABASE {name} TEMPLATE tables")
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of a database, with the password."""
        return f"postgresql://hpo:{self._password}@127.0.0.1:{self._port}/{database}"
