"""What would be published: the sdist and the wheel that is built from it."""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("hpo", "trainer", "storage")


@pytest.fixture(scope="module")
def project():
    """The table [project] of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The folder of an sdist and of the wheel that was built from it."""
    source, folder = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    for package in PACKAGES:
        shutil.copytree(ROOT / package, source / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(source)]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(built, tmp_path_factory):
    """The wheel's content, unpacked."""
    [file] = built.glob("*.whl")
    folder = tmp_path_factory.mktemp("wheel")
    shutil.unpack_archive(file, folder, "zip")
    return folder


def test_the_wheel_has_all_of_the_packages_and_nothing_else(wheel):
    """The wheel holds each file of hpo, trainer and storage, its typing marks and pages too, and no other package."""
    there = {str(path.relative_to(wheel)) for path in wheel.rglob("*") if path.is_file()}
    expected = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert {"hpo/report/page.html", "trainer/py.typed"} <= expected
    assert {name for name in there if ".dist-info/" not in name} == expected


def test_the_wheel_says_what_it_is_and_needs(wheel, project):
    """The wheel's metadata have the name of the distribution, its version, its dependencies and its command."""
    [folder] = wheel.glob("*.dist-info")
    metadata = email.message_from_string((folder / "METADATA").read_text(encoding="utf-8"))
    assert (metadata["Name"], metadata["Version"]) == ("hpo-images", project["version"])
    required = metadata.get_all("Requires-Dist")
    assert len([line for line in required if "extra ==" not in line]) == len(project["dependencies"])
    assert "[console_scripts]\nhpo = hpo.cli:main\n" in (folder / "entry_points.txt").read_text(encoding="utf-8")


def test_the_sdist_has_its_license(built):
    """The sdist holds the licence, the README and pyproject.toml."""
    [file] = built.glob("*.tar.gz")
    with tarfile.open(file) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "hpo/cli.py"} <= names


def test_the_wheel_alone_runs(wheel, project, tmp_path):
    """The command works from the wheel's files, outside of a clone."""
    environment = {**os.environ, "PYTHONPATH": str(wheel)}
    where = "import hpo.cli; print(hpo.cli.__file__)"
    run = [
        subprocess.run(
            [sys.executable, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
        )
        for words in (("-m", "hpo", "--version"), ("-c", where))
    ]
    assert run[0].stdout == f"hpo {project['version']}\n"
    assert Path(run[1].stdout.strip()) == wheel / "hpo" / "cli.py"


def test_no_document_names_the_package_of_others(project):
    """No document and no message tells users to install `hpo`, which is another project in the public registry."""
    files = [
        *ROOT.glob("*.md"),
        *(ROOT / "docs").glob("*.md"),
        *(p for name in PACKAGES for p in (ROOT / name).rglob("*.py")),
    ]
    texts = {str(path): path.read_text(encoding="utf-8") for path in files}
    assert any(f"pip install --upgrade {project['name']}" in text for text in texts.values())
    wrong = (
        "install hpo\n",
        "install hpo ",
        "install 'hpo[",
        "install --upgrade hpo ",
        "install hpo`",
        'install "hpo[',
    )
    assert [name for name, text in texts.items() if any(words in text for words in wrong)] == []
