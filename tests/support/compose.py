"""The compose files with a real engine, from a fresh clone to several machines: `make compose-test`.

It ends with 1 where a promise of docs/containers.md does not hold, and leaves nothing behind but the build cache.
"""

from __future__ import annotations

import http.cookiejar
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.support.waiting import wait_until

SOURCE = Path(__file__).parents[2]
STUDY = "demo/study.toml"
CPU = ("docker-compose.yml", "deploy/compose/cpu.yml")
FILES = (
    ("docker-compose.yml",),
    CPU,
    *((*base, f"deploy/compose/{name}.yml") for base in (CPU[:1], CPU) for name in ("join", "s3", "secrets", "share")),
)
ANOTHER_USER = 1000  # who owns the clone, where this runs as root
TAG = "compose-test"


class Project:
    """A clone, and the compose project that runs in it."""

    def __init__(self, name, folder, **variables):
        self.name, self.folder, self.files = name, folder, CPU
        taken_away = ("COMPOSE_", "HPO_", "CUDA_")
        kept = {key: value for key, value in os.environ.items() if not key.startswith(taken_away)}
        self.variables = {**kept, "COMPOSE_PROJECT_NAME": name, "HPO_TAG": TAG, **variables}

    def compose(self, *arguments, check=True, seconds=600):
        """The output of `docker compose …`; what went wrong is shown."""
        environment = {**self.variables, "COMPOSE_FILE": ":".join(self.files)}
        done = subprocess.run(
            ["docker", "compose", "--progress", "quiet", *arguments],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )
        if check and done.returncode:
            raise AssertionError(f"docker compose {' '.join(arguments)}: {done.returncode}\n{done.stdout}{done.stderr}")
        return done.stdout if check else done

    def shell(self, line):
        """Run a line for the shell, as docs/containers.md has it."""
        environment = {**self.variables, "COMPOSE_FILE": ":".join(self.files)}
        subprocess.run(line, shell=True, cwd=self.folder, env=environment, check=True, stderr=subprocess.DEVNULL)  # noqa: S602

    def status(self):
        """What `hpo status` says."""
        return json.loads(self.compose("exec", "-T", "dashboard", "hpo", "status", STUDY, "--json"))

    def logs_of_trials(self):
        """What all trials have printed, in the order of time."""
        query = "SELECT line FROM hpo.log ORDER BY id"
        return self.compose("exec", "-T", "postgres", "psql", "-U", "hpo", "-qtAc", query)

    def postgres(self, *arguments, **options):
        """The output of a command in the container of Postgres, as who its server is."""
        return self.compose("exec", "-T", "--user", "postgres", "postgres", *arguments, **options)

    def variables_within(self, service):
        """The variables of all processes in a service's container."""
        entrypoint = ["hpo-entrypoint"] if service != "postgres" else []
        look = ("sh", "-c", "cat /proc/[0-9]*/environ | tr '\\0' '\\n'")
        who = ("--user", "postgres" if service == "postgres" else "root")
        return self.compose("exec", "-T", *who, service, *entrypoint, *look)

    def containers(self, service=None):
        """What `docker inspect` says of the project's containers, or of those of one service."""
        ids = self.compose("ps", "--all", "--quiet", *([service] if service else [])).split()
        return json.loads(run("docker", "inspect", *ids))

    def wait(self, what, condition):
        """Wait until a condition of this project holds, and return what it returned."""
        try:
            return wait_until(condition, 200, every=2)
        except AssertionError as error:
            raise AssertionError(f"{self.name}: {error}: {what}\n{self.compose('logs', '--tail', '20')}") from None


def run(*command):
    """The output of a command that ends well."""
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def clone(folder):
    """Copy what git would clone, with what is not committed yet; as root for another user."""
    names = run("git", "-C", str(SOURCE), "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    for name in filter(None, names.split("\0")):
        if (SOURCE / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(SOURCE / name, folder / name)
    folder.chmod(0o700)  # as after `umask 077`
    give_to(folder, ANOTHER_USER if os.geteuid() == 0 else os.geteuid())


def give_to(folder, user):
    """Let a folder with all in it belong to a user; nothing where this is not root."""
    if os.geteuid() == 0:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, user, user, follow_symlinks=False)


def owners(folder):
    """The users to whom a folder and what is in it belong."""
    return {path.lstat().st_uid for path in (folder, *folder.rglob("*"))}


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def log_in(address, password):
    """Whether the dashboard lets someone with a password in, and then shows its studies."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    form = urllib.parse.urlencode({"password": password}).encode()
    try:
        browser.open(f"{address}/login", form, timeout=20).close()
        with browser.open(f"{address}/api/studies", timeout=20) as answer:
            return "digits" in answer.read().decode()
    except urllib.error.HTTPError as error:
        if error.code in (401, 403):
            return False
        raise


def say(text):
    """Tell how far it is."""
    print(f"{time.monotonic() - BEGUN:6.1f} s  {text}", flush=True)


@contextmanager
def removed_in_the_end(*projects):
    """Whatever happens, leave no container, volume, network or image behind."""
    try:
        yield
    finally:
        for project in projects:
            project.files = CPU
            project.compose("down", "--volumes", "--remove-orphans", check=False)
        subprocess.run(["docker", "image", "rm", "--force", f"hpo:{TAG}"], capture_output=True, check=False)


def check_all_files(project):
    """Each combination of files is one that Compose takes."""
    project.variables["HPO_POSTGRES_ADDRESS"] = "127.0.0.1"
    for files in FILES:
        project.files = files
        project.compose("config", "--quiet")
    del project.variables["HPO_POSTGRES_ADDRESS"]
    project.files = CPU
    say(f"{len(FILES)} combinations of compose files are valid")


def start(project):
    """Nothing is edited, and everything comes up and searches."""
    before = set(project.folder.iterdir())
    project.compose("up", "--detach", "workers", seconds=1800)
    say("the image is built, and everything is up")
    project.wait("a trial is complete", lambda: project.status()["trials"]["complete"])
    assert {path.name for path in set(project.folder.iterdir()) - before} == {"demo"}
    assert owners(project.folder / "demo") == {project.folder.stat().st_uid}
    states = {each["Config"]["Labels"]["com.docker.compose.service"]: each["State"] for each in project.containers()}
    assert [states[name]["ExitCode"] for name in ("passwords", "init")] == [0, 0]
    assert [states[name]["Status"] for name in ("postgres", "workers", "dashboard")] == ["running"] * 3
    project.wait("the dashboard is healthy", lambda: health(project, "dashboard") == "healthy")
    assert "no pg_hba.conf entry" not in project.compose("logs", "postgres")  # where real errors are to be seen
    say(f"up from a fresh clone, and a trial is complete: {', '.join(states)}")


def health(project, service):
    """What docker says of the health of a service's one container."""
    [container] = project.containers(service)
    return container["State"]["Health"]["Status"]


def check_secrets(project):
    """Nobody sees a password who may not."""
    dashboard = project.compose("exec", "-T", "dashboard", "cat", "/run/passwords/dashboard").strip()
    postgres = project.postgres("cat", "/run/passwords/postgres").strip()
    assert dashboard != postgres
    assert min(len(dashboard), len(postgres)) >= 32
    seen = (
        json.dumps(project.containers()),
        run("docker", "image", "inspect", f"hpo:{TAG}"),
        project.compose("logs"),
        project.compose("config"),
        "".join(run("docker", "top", each["Id"]) for each in project.containers() if each["State"]["Running"]),
        run("ps", "axeww"),  # with the variables of all processes
        *(variables := [project.variables_within(service) for service in ("workers", "dashboard", "postgres")]),
    )
    known = ("HPO_STORAGE=", "HPO_STORAGE=", "PGDATA=")
    assert all(name in text for name, text in zip(known, variables, strict=True))
    assert not any(password in text for password in (dashboard, postgres) for text in seen)
    modes = project.compose("exec", "-T", "dashboard", "stat", "-c", "%n %a", "/run/passwords/pgpass").split()[1]
    assert modes == "600"
    say("no password in docker inspect, the logs, the configuration, a process list or a process's variables")
    rights = project.postgres("psql", "-qtA", "hpo", "-c", "SELECT rolname, rolsuper FROM pg_roles WHERE rolcanlogin")
    assert sorted(rights.split()) == ["hpo|f", "postgres|t"]
    refused = project.postgres("psql", "-h", "127.0.0.1", "hpo", check=False)
    assert "no pg_hba.conf entry" in refused.stderr, refused
    say("hpo is no superuser, and the superuser does not come in from elsewhere")
    return dashboard


def refuse_what_cannot_work(project, password):
    """A password that is too short changes nothing, and nothing searches without a place for the files of trials."""
    secrets = project.folder / "secrets"
    secrets.mkdir(mode=0o700)
    (secrets / "postgres_password").write_text("long enough, and not the one that is there\n")
    (secrets / "dashboard_password").write_text("elf Ümläute\n", encoding="utf-8")  # 13 bytes
    project.files = (*CPU, "deploy/compose/secrets.yml")
    refused = project.compose("run", "--rm", "-T", "passwords", check=False)
    project.files = CPU
    assert refused.returncode == 1, refused
    assert "dashboard_password needs 12 characters" in refused.stderr, refused
    assert project.compose("exec", "-T", "dashboard", "cat", "/run/passwords/dashboard").strip() == password
    project.variables["HPO_ARTIFACTS"] = "/mnt/shared"
    refused = project.compose("run", "--rm", "-T", "--no-deps", "workers", "hpo", "workers", STUDY, check=False)
    del project.variables["HPO_ARTIFACTS"]
    assert refused.returncode == 1, refused
    assert "artifacts: " in refused.stderr, refused
    say("refused: " + refused.stderr.strip().splitlines()[-1])


def check_doors(project, password):
    """The dashboard is for this machine and asks for its password, Postgres is for the other containers alone."""
    address = f"http://127.0.0.1:{project.variables['HPO_DASHBOARD_PORT']}"
    with urllib.request.build_opener().open(f"{address}/healthz", timeout=20) as answer:
        assert answer.status == 200
    assert not log_in(address, "not the password")
    assert log_in(address, password)
    [ports] = [each["NetworkSettings"] for each in project.containers("dashboard")]
    assert {each["HostIp"] for each in ports["Ports"]["8080/tcp"]} == {"127.0.0.1"}
    [gateway] = {network["Gateway"] for network in ports["Networks"].values()}  # this machine, for the containers
    with socket.socket() as other:
        other.settimeout(5)
        assert other.connect_ex((gateway, int(project.variables["HPO_DASHBOARD_PORT"]))) != 0
    [postgres] = project.containers("postgres")
    assert not any(postgres["NetworkSettings"]["Ports"].values())
    say("the dashboard lets the right password in, and only from this machine; Postgres is not published")


def survive(project):
    """Three containers, one of them killed, and a restart of the database cost nothing but a minute."""
    project.compose("up", "--detach", "--no-recreate", "--scale", "workers=3", "workers")
    project.wait("three containers work", lambda: len({each["host"] for each in project.status()["workers"]}) == 3)
    say("three containers work")

    def victim():
        return next((each for each in project.status()["workers"] if (each["epoch"] or 0) >= 2), None)

    killed = project.wait("a worker has a checkpoint", victim)
    run("docker", "kill", "--signal", "KILL", killed["host"])
    say(f"{killed['host']} is killed at epoch {killed['epoch']} of trial {killed['trial']}")
    done = ended(project)
    project.compose("restart", "postgres")
    project.wait("trials end after the restart of Postgres", lambda: ended(project) > done)
    say("Postgres was restarted, and trials end")
    taken_over = rf"going on after epoch \d+ .*where trial {killed['trial']} was left"
    line = project.wait("the killed one's trial goes on", lambda: re.search(taken_over, project.logs_of_trials()))
    say(f"elsewhere: {line[0]}")


def ended(project):
    """How many trials have ended, or are paused."""
    trials = project.status()["trials"]
    return sum(trials[state] for state in ("complete", "pruned", "failed", "paused"))


def known(project):
    """How many trials there are, in whatever state."""
    return sum(project.status()["trials"].values())


def stop_and_resume(project):
    """What is stopped goes back to the queue, what starts takes it up, and `down` loses nothing."""
    project.wait("trials run", lambda: any((each["epoch"] or 0) >= 1 for each in project.status()["workers"]))
    begun = time.monotonic()
    project.compose("stop")
    seconds = time.monotonic() - begun
    codes = [each["State"]["ExitCode"] for each in project.containers("workers")]
    assert codes.count(143) >= 2, codes  # but for the one that was killed
    project.compose("up", "--detach", "dashboard")
    trials = project.status()["trials"]
    assert trials["running"] == 0, trials
    assert trials["waiting"] >= 1, trials
    say(f"stopped within {seconds:.1f} s; {trials['waiting']} trials are in the queue, none runs")
    before = project.logs_of_trials().count("going on after")
    project.compose("up", "--detach", "workers")
    project.wait("a trial is resumed", lambda: project.logs_of_trials().count("going on after") > before)
    say("up again: " + re.findall("going on after .*", project.logs_of_trials())[-1])
    done = known(project)
    project.compose("down")
    study = project.folder / STUDY
    study.write_text(study.read_text().replace("trials = 20", f"trials = {done + 4}"))
    project.compose("up", "--detach", "workers")
    assert known(project) >= done
    say(f"down and up: the {done} trials are still there")


def finish(project):
    """The workers' containers end well, and stay so."""
    project.wait("the search ends", lambda: workers_ended(project))
    time.sleep(5)  # in which something might start them again
    assert workers_ended(project)
    assert {(each["State"]["ExitCode"], each["RestartCount"]) for each in project.containers("workers")} == {(0, 0)}
    assert "all workers have ended" in project.compose("logs", "workers")
    say(f"the search has ended: {project.status()['trials']}")


def workers_ended(project):
    """Whether no container of workers runs."""
    return not any(each["State"]["Running"] for each in project.containers("workers"))


def back_up(project):
    """A backup in a new database, and with a new volume, is the same study."""
    done, names = known(project), [f"{project.name}_{volume}" for volume in ("artifacts", "database")]
    project.shell("docker compose exec -T postgres pg_dump -U hpo --format=custom hpo > hpo.dump")
    project.shell("docker compose run --rm -T --no-deps dashboard tar -C /artifacts -c . > artifacts.tar")
    project.compose("down")
    run("docker", "volume", "rm", *names)
    project.compose("up", "--detach", "--wait", "postgres")
    project.shell("docker compose exec -T postgres pg_restore -U hpo --exit-on-error --dbname hpo < hpo.dump")
    project.shell("docker compose run --rm -T --no-deps dashboard tar -C /artifacts -x < artifacts.tar")
    project.compose("up", "--detach", "--wait", "dashboard")
    assert known(project) == done
    say(f"restored from a backup: {done} trials")


def export(project):
    """What commands write belongs to whom the folder belongs, whoever that is."""
    for number, user in enumerate([os.geteuid(), ANOTHER_USER] if os.geteuid() == 0 else [os.geteuid()]):
        give_to(project.folder, user)
        bundle = f"demo/bundle-{number}"
        export_best = ("hpo", "export-best", STUDY, "--no-retrain", "-o", bundle)
        print(project.compose("run", "--rm", "-T", "workers", *export_best).strip())
        assert owners(project.folder / bundle) == {user}
        report = f"demo/report-{number}.html"
        project.compose("run", "--rm", "-T", "--no-deps", "workers", "hpo", "report", STUDY, "-o", report)
        assert owners(project.folder / report) == {user}
        say(f"bundle and report belong to user {user}")


def share(project, other):
    """Workers of another machine join by TLS, and are refused without it."""
    [bridge] = json.loads(run("docker", "network", "inspect", "bridge"))
    network = bridge["IPAM"]["Config"][0]["Gateway"]
    port = str(free_port())
    for each in (project, other):
        (each.folder / "secrets").mkdir(exist_ok=True)
    secrets = project.folder / "secrets"
    make_certificate(secrets, network)
    project.variables |= {"HPO_POSTGRES_ADDRESS": network, "HPO_POSTGRES_PORT": port}
    project.files = (*CPU, "deploy/compose/share.yml")
    limit = known(project) + 2
    study = project.folder / STUDY
    study.write_text(re.sub(r"trials = \d+", f"trials = {limit}", study.read_text()))
    project.compose("up", "--detach", "--wait", "postgres", "dashboard")
    assert known(project) == limit - 2  # the services of the same machine get in as before
    password = project.postgres("cat", "/run/passwords/postgres").strip()
    url = f"postgresql://hpo:{password}@{network}:{port}/hpo?sslmode=verify-full&sslrootcert=/run/secrets/ca.crt"
    shutil.copytree(project.folder / "demo", other.folder / "demo", ignore=shutil.ignore_patterns(".hpo", "bundle*"))
    shutil.copy(secrets / "ca.crt", other.folder / "secrets/ca.crt")
    stored = other.folder / "secrets/storage_url"
    stored.write_text(url.replace("verify-full", "disable"))
    stored.chmod(0o600)
    give_to(other.folder, ANOTHER_USER)
    other.files = (*CPU, "deploy/compose/join.yml")
    other.variables["HPO_ARTIFACTS_FOLDER"] = run(
        "docker", "volume", "inspect", "--format", "{{.Mountpoint}}", f"{project.name}_artifacts"
    ).strip()
    refused = other.compose("run", "--rm", "-T", "workers", "hpo", "status", STUDY, check=False)
    assert "no encryption" in refused.stderr, refused
    assert password not in refused.stderr
    say("without TLS: " + refused.stderr.strip().splitlines()[-1])
    stored.write_text(url)
    other.compose("up", "--detach", "workers")
    other.wait("the other machine has searched", lambda: workers_ended(other))
    assert {each["State"]["ExitCode"] for each in other.containers("workers")} == {0}
    names = {each["Config"]["Labels"]["com.docker.compose.service"] for each in other.containers()}
    assert names == {"passwords", "workers"}
    assert known(project) == limit
    assert password not in json.dumps(other.containers())
    say("another machine has joined by TLS, and trained the last 2 trials")


def make_certificate(folder, address):
    """An authority, and a certificate of it for an address, as docs/operations.md makes them."""
    authority = f"{folder}/ca.crt", f"{folder}/ca.key"
    new_key = ("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "1")
    run(*new_key, "-subj", "/CN=hpo CA", "-out", authority[0], "-keyout", authority[1])
    signed = ("-CA", authority[0], "-CAkey", authority[1], "-addext", f"subjectAltName=IP:{address}")
    server = ("-addext", "basicConstraints=critical,CA:FALSE", "-subj", f"/CN={address}")
    run(*new_key, *signed, *server, "-out", f"{folder}/server.crt", "-keyout", f"{folder}/server.key")


def main():
    """All of it, one after the other."""
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:  # noqa: PLW1510
        sys.exit("compose-test: needs a docker engine that answers `docker info`")
    with TemporaryDirectory(prefix="hpo-compose-") as folder:
        Path(folder).chmod(0o755)
        first, second = Path(folder, "first"), Path(folder, "second")
        clone(first)
        clone(second)
        project = Project("hpo-test", first, HPO_DASHBOARD_PORT=str(free_port()))
        other = Project("hpo-test-other", second)
        with removed_in_the_end(other, project):
            check_all_files(project)
            start(project)
            password = check_secrets(project)
            check_doors(project, password)
            refuse_what_cannot_work(project, password)
            survive(project)
            stop_and_resume(project)
            finish(project)
            back_up(project)
            export(project)
            share(project, other)
    say("all of it holds")


BEGUN = time.monotonic()

if __name__ == "__main__":
    main()
