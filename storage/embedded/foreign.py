"""What a folder that came from elsewhere must not do: lead out of itself, or order the server to do something.

A folder may have been unpacked from somebody's archive. Settings of a cluster can name commands that Postgres runs, and
links can name folders in which it removes files, so only such settings are accepted as initdb writes, and no link.
"""

import os
import re
import stat
from pathlib import Path

from storage.errors import StorageError

_ADVICE = "set HPO_STORAGE to the URL of a Postgres server, or use a study folder of your own"
_SETTING = re.compile(r"\s*([A-Za-z_]\w*)\s*(?:=|\s)\s*(?:[\w/+.:-]+|'[^'\\]*')\s*(?:#.*)?", re.ASCII)
_RULE = re.compile(r"\s*(?:local|host)\s+(?:all|replication)\s+all\s+(?:\S+\s+)?scram-sha-256\s*")
_WRITTEN_BY_INITDB = {
    "autovacuum_worker_slots",
    "datestyle",
    "default_text_search_config",
    "dynamic_shared_memory_type",
    "lc_messages",
    "lc_monetary",
    "lc_numeric",
    "lc_time",
    "log_timezone",
    "max_connections",
    "max_wal_size",
    "min_wal_size",
    "shared_buffers",
    "timezone",
}
_ORDERS = ("recovery.signal", "standby.signal", "recovery.conf", "backup_label", "tablespace_map")


def refuse_foreign_folder(path: Path, uid: int) -> None:
    """Raise StorageError if `path` is a link or no folder, belongs to another user, or others may write in it."""
    found = path.lstat()
    if not stat.S_ISDIR(found.st_mode):
        raise StorageError(f"{path} is a link or a file in place of a folder: remove it, or {_ADVICE}")
    if found.st_uid != uid:
        raise StorageError(
            f"{path} belongs to the user id {found.st_uid}, not to {uid}: run the command as its owner, or {_ADVICE}"
        )
    if found.st_mode & 0o022:
        raise StorageError(f"{path} may be written by other users: run chmod 700 on it if it is yours, or {_ADVICE}")


def refuse_foreign_cluster(data: Path, uid: int) -> None:
    """Raise StorageError if a cluster has settings that hpo does not make, or anything that leads out of it."""
    refuse_foreign_folder(data, uid)
    _refuse_odd_files(data, uid)
    for name in _ORDERS:
        if (data / name).exists():
            raise StorageError(f"{data / name} is not made by hpo, so Postgres is not started: remove it, or {_ADVICE}")
    for name, is_ours in (
        ("postgresql.conf", _is_setting_of_initdb),
        ("postgresql.auto.conf", lambda _: False),
        ("pg_hba.conf", _RULE.fullmatch),
        ("pg_ident.conf", lambda _: False),
    ):
        for number, line in enumerate((data / name).read_text(errors="replace").splitlines(), 1):
            if line.strip() and not line.lstrip().startswith("#") and not is_ours(line):
                raise StorageError(
                    f"{data / name} has a line that hpo does not make, so Postgres is not started: line {number}, "
                    f"{line.strip()[:80]!r}; remove that line, or {_ADVICE}"
                )


def _is_setting_of_initdb(line: str) -> bool:
    found = _SETTING.fullmatch(line)
    return found is not None and found[1].lower() in _WRITTEN_BY_INITDB


def _refuse_odd_files(folder: Path, uid: int) -> None:
    with os.scandir(folder) as entries:
        for entry in entries:
            found = entry.stat(follow_symlinks=False)
            if not (stat.S_ISDIR(found.st_mode) or stat.S_ISREG(found.st_mode)):
                raise StorageError(f"{entry.path} is a link or a device, which hpo does not make: {_ADVICE}")
            if found.st_uid != uid:
                raise StorageError(f"{entry.path} belongs to the user id {found.st_uid}, not to {uid}: {_ADVICE}")
            if stat.S_ISDIR(found.st_mode):
                _refuse_odd_files(Path(entry.path), uid)
