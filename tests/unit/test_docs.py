"""What is written about the product is true."""

from __future__ import annotations

import argparse
import re
import runpy
import tomllib

import pytest

from hpo.cli import parser
from hpo.study.confirm_settings import ConfirmSettings
from hpo.study.study_file import DataSettings, StudyFile, read_study_file
from storage.budget import Limits, StopRules
from tests.conftest import ROOT
from trainer.model.feasibility import backbone_problem
from trainer.recipe import RULES, Recipe

pytestmark = pytest.mark.unit

README = (ROOT / "README.md").read_text()


def commands():
    """Each command of the command line with its parser."""
    [subparsers] = [a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)]
    return subparsers.choices


def test_the_readme_shows_the_real_output_of_the_demo():
    """The README shows each command of the demo with what it printed, to the test on held-out images."""
    for line in ("$ hpo search demo/", "20 trials: ", "winner: trial ", "$ hpo export-best demo/", "test macro-F1 0."):
        assert f"    {line}" in README


def test_the_tree_in_the_readme_exists_and_is_complete():
    """Every folder and file that the README's tree names exists, and every folder of code is in it."""
    tree = README.split("## The tree")[1].split("## ")[0]
    folders, named = [ROOT], set()
    for line in tree.splitlines():
        if match := re.match(r"^((?: {4})+)(\S+)", line):
            indent, name = match.groups()
            del folders[len(indent) // 4 :]
            path = folders[-1] / name
            assert path.exists(), f"the README names {name}"
            if name.endswith("/"):
                folders.append(path)
            named.add(path)
    code = {
        path.parent for package in ("hpo", "trainer", "storage", "tests") for path in (ROOT / package).rglob("*.py")
    }
    assert code | {path for path in (ROOT / "deploy").iterdir() if path.is_dir()} <= named


def test_the_architecture_names_every_module():
    """docs/architecture.md has each module with the line that it begins with: `make docs` writes them."""
    documents = runpy.run_path(str(ROOT / "docs/generate.py"))["documents"]()
    page = ROOT / "docs/architecture.md"
    assert documents[page] == page.read_text()
    for package in ("hpo", "trainer", "storage"):
        for module in (ROOT / package).rglob("*.py"):
            assert module.name.startswith("__") or f"| `{module.name}` | " in documents[page], module


def test_every_command_and_option_is_documented():
    """docs/cli.md has a section for each command, which names each of its options."""
    page = (ROOT / "docs/cli.md").read_text()
    sections = {section.split()[0]: section for section in page.split("## hpo ")[1:]}
    assert set(sections) == set(commands())
    for name, command in commands().items():
        for action in command._actions:
            for option in action.option_strings:
                if option not in ("-h", "--help", "--storage"):
                    assert f"`{option}" in sections[name], f"{name} {option}"
    assert "--storage URL" in page


def test_no_section_documents_an_option_that_does_not_exist():
    """Every option in docs/cli.md exists."""
    known = {option for command in commands().values() for a in command._actions for option in a.option_strings}
    used = set(re.findall(r"`(--[a-z-]+)", (ROOT / "docs/cli.md").read_text()))
    assert used <= known | {"--help"}


def test_every_field_of_a_recipe_is_documented_as_the_code_has_it():
    """The table of fields in docs/study-file.md is the one that the code gives: `make docs` writes it."""
    generate = runpy.run_path(str(ROOT / "docs/generate.py"))
    page = ROOT / "docs/study-file.md"
    assert "<!-- end of fields -->" in page.read_text()
    assert generate["documents"]()[page] == page.read_text()
    assert all(f"| `{name}` |" in generate["fields_table"]() for name in RULES)


def test_every_key_of_a_study_file_is_documented():
    """docs/study-file.md has a line for each key of the other tables."""
    page = (ROOT / "docs/study-file.md").read_text()
    rows = {match[1] for match in re.finditer(r"^\| `(\w+)` \|.*$", page, re.MULTILINE)}
    others = {
        *DataSettings.__dataclass_fields__,
        *Limits.__dataclass_fields__,
        *StopRules.__dataclass_fields__,
        *StudyFile.__dataclass_fields__,
        *ConfirmSettings.__dataclass_fields__,
    }
    but = {"path", "data", "limits", "stop_rules", "space", "tries", "model_limits", "confirm", "unnamed"}
    assert others - but <= rows


def test_the_notebook_in_the_readme_is_the_example():
    """The lines in the README are those of examples/notebook.py, which a test runs."""
    code = re.search(r"```python\n(.*?)```", README, re.DOTALL)[1]
    assert code in (ROOT / "examples/notebook.py").read_text()


def test_the_study_file_in_the_readme_is_good(tmp_path):
    """The README's study file, both parts together, has no mistake, and its backbones exist."""
    blocks = re.findall(r"(?:^ {4}.*\n|^\n)+", README, re.MULTILINE)
    text = "\n".join(block for block in blocks if "[data]" in block or "[recipe]" in block)
    tomllib.loads(text)
    (tmp_path / "study.toml").write_text(text)
    file = read_study_file(tmp_path / "study.toml")
    assert file.limits == Limits(trials=100, gpu_hours=12)
    assert [backbone_problem(Recipe(backbone=name)) for name in file.space.values("backbone")] == [None, None]


def test_the_fine_tuning_example_names_backbones_that_exist():
    """The example with nothing but its data is a complete study of backbones that timm has."""
    file = read_study_file(ROOT / "examples/fine_tuning.toml")
    assert [backbone_problem(Recipe(backbone=name)) for name in file.space.values("backbone")] == [None] * 5
    assert file.name == "fine_tuning"


def test_links_in_the_documents_lead_somewhere():
    """Every relative link of README, docs and CONTRIBUTING leads to a file, and to the heading that it names."""
    pages = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"))
    links = [
        (page, target, heading)
        for page in pages
        for target, heading in re.findall(r"\]\(((?!https://)[^)#]*)#?([^)]*)\)", page.read_text())
    ]
    assert {page.name for page, _, _ in links} >= {"README.md", "CONTRIBUTING.md", "architecture.md"}
    assert any(heading for _, _, heading in links)
    for page, target, heading in links:
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name}: {target}"
        assert not heading or heading in anchors(file), f"{page.name}: {target}#{heading}"


def test_the_pictures_of_the_readme_are_small_and_complete():
    """Each picture in docs/pictures is shown in the README with words for it, and they take half a megabyte at most."""
    shown = dict(re.findall(r"!\[([^]]+)\]\(docs/pictures/([^)]+)\)", README))
    pictures = list((ROOT / "docs/pictures").iterdir())
    assert sorted(shown.values()) == sorted(path.name for path in pictures)
    assert max(path.stat().st_size for path in pictures) < 150_000
    assert sum(path.stat().st_size for path in pictures) < 500_000
    [drawn] = (ROOT / "docs/pictures").glob("*.svg")
    assert set(re.findall(r"https?://[^/\s\"]+", drawn.read_text())) <= {
        "http://www.w3.org",
        "https://www.textualize.io",
    }


def anchors(page):
    """What a link may name in a page: its headings, as hosts of repositories write them."""
    titles = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
