"""Cells of CSVs that a spreadsheet would take for formulas."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from PIL import Image

from hpo.bundle.inputs import find_images
from hpo.check.run import write_groups
from trainer.images.index import read_index
from trainer.images.spreadsheets import cell_of, text_of, write_rows

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("=cmd|' /C calc'!A0", "'=cmd|' /C calc'!A0"),
        ("+cat", "'+cat"),
        ("-cat", "'-cat"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", "'\t=1"),
        (" =1", "' =1"),
        ("\uff1d1", "'\uff1d1"),
        ("-1+cmd", "'-1+cmd"),
        ("'=1", "''=1"),
        ("-1", "-1"),
        ("+0.5", "+0.5"),
        ("-1e-5", "-1e-5"),
        ("cat", "cat"),
        ("'cat'", "'cat'"),
        ("a=b/-1.png", "a=b/-1.png"),
        ("", ""),
    ],
)
def test_a_formula_gets_an_apostrophe_and_is_read_without_it(text, cell):
    """What a spreadsheet would run is written as text, all else as it is, and both are read back as they were."""
    assert cell_of(text) == cell
    assert text_of(cell) == text


def test_lines_end_as_other_programs_expect():
    """A line ends with one line feed, and cells with an end of line, a comma or a quote are read back as they were."""
    rows = [["path", "label"], ["a\rb", "c\nd"], ["e\r\nf", '"g", h'], ["i", ""]]
    file = io.StringIO(newline="")
    write_rows(file, rows)
    assert file.getvalue().splitlines(keepends=True)[0] == "path,label\n"
    assert file.getvalue().endswith("i,\n")
    assert list(csv.reader(io.StringIO(file.getvalue(), newline=""), strict=True)) == rows


def test_what_check_writes_is_read_back(tmp_path, monkeypatch):
    """Classes and files with names of formulas come back from the CSV of `hpo check --groups`."""
    monkeypatch.chdir(tmp_path)
    for number, name in enumerate(("=cmd|x!A0/1.png", "=cmd|x!A0/2.png", "-1/1.png", "-1/2.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((4, 4), number, np.uint8)).save(tmp_path / name)
    index = read_index(tmp_path)
    write_groups(index, [], tmp_path / "groups.csv", "group")
    with (tmp_path / "groups.csv").open(newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    assert "'=cmd|x!A0" in cells
    assert "-1" in cells
    assert not any(cell.startswith(("=", "-1/")) for cell in cells)
    again = read_index(tmp_path / "groups.csv")
    assert (again.paths, again.classes) == (index.paths, index.classes)
    np.testing.assert_array_equal(again.labels, index.labels)
    rows = find_images([str(tmp_path / "groups.csv")], index.classes)
    assert [row.true for row in rows] == [index.classes[label] for label in index.labels]
    assert all(row.file.is_file() for row in rows)
