"""The compose files and what goes with them; `make compose-test` runs them."""

import re
import subprocess

import pytest

from hpo.dashboard.access import SHORTEST_PASSWORD
from tests.conftest import ROOT

pytestmark = pytest.mark.unit

COMPOSE_FILES = [ROOT / "docker-compose.yml", *sorted((ROOT / "deploy/compose").glob("*.yml"))]
USED = re.compile(r"(?<!\$)\$\{(\w+)(?::-((?:[^{}]|\{[^{}]*\})*))?")  # with what stands for it where it is not set
PASSED_ON = re.compile(r"^ +([A-Z_]+):(?: #.*)?$", re.MULTILINE)
EXPLAINED = re.compile(r"^#([A-Z_]+)=(.*)$", re.MULTILINE)


def test_every_variable_of_the_compose_files_is_explained_with_its_default():
    """.env.example has each variable that the compose files know, no other one, and the default that they give it."""
    explained = dict(EXPLAINED.findall((ROOT / ".env.example").read_text()))
    defaults = {}
    for file in COMPOSE_FILES:
        text = file.read_text()
        for name, default in [*USED.findall(text), *((name, "") for name in PASSED_ON.findall(text))]:
            defaults.setdefault(name, set()).update({default} - {""})
    assert set(explained) - {"COMPOSE_FILE", "COMPOSE_PROJECT_NAME"} == set(defaults)
    assert f"\nname: {explained['COMPOSE_PROJECT_NAME']}\n" in (ROOT / "docker-compose.yml").read_text()
    for name in ("HPO_FOLDER", "HPO_STUDY", "HPO_PER_GPU", "HPO_DASHBOARD_PORT", "HPO_MAX_CONNECTIONS", "HPO_TAG"):
        assert defaults[name] == {explained[name]}


def test_scripts_of_the_image_are_shell():
    """Each script of the image can be read by the plainest shell."""
    scripts = sorted((ROOT / "deploy/image").glob("*.sh"))
    assert len(scripts) == 3
    for script in scripts:
        subprocess.run(["sh", "-n", script], check=True)


def test_a_password_that_the_dashboard_would_refuse_is_refused_before():
    """The dashboard's own password has to be as long for the service that stores it as for the dashboard itself."""
    [shortest] = re.findall(r"wc --chars\)\" -ge (\d+) ", (ROOT / "deploy/image/passwords.sh").read_text())
    assert int(shortest) == SHORTEST_PASSWORD


def test_passwords_are_named_by_their_files():
    """What the services get in variables for a password is the name of a file, and the URL holds none."""
    named = re.findall(r"^ +\w*PASS\w*: (.+)$", (ROOT / "docker-compose.yml").read_text(), re.MULTILINE)
    assert len(named) == 3
    assert all(value.startswith("/run/passwords/") for value in named)
    for file in COMPOSE_FILES:
        assert not re.search(r"://[^/\s]*:[^/\s]*@", file.read_text())
