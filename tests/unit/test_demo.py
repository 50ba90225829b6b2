"""The digits and their study file."""

import pytest
from PIL import Image

from hpo.cli import main
from hpo.study.confirm_settings import ConfirmSettings
from hpo.study.study_file import read_study_file

pytestmark = pytest.mark.unit


@pytest.mark.usefixtures("own_signals")
def test_write_only_writes_what_a_search_needs_and_no_more(tmp_path, capsys):
    """`hpo demo --write-only` writes 1,797 images and a valid study file, and begins nothing."""
    with pytest.raises(SystemExit) as ended:
        main(["demo", str(tmp_path / "demo"), "--write-only", "--trials", "3", "--repeats", "2"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"written: {tmp_path / 'demo/study.toml'}\n"
    assert sorted(path.name for path in (tmp_path / "demo").iterdir()) == ["digits", "study.toml"]
    images = sorted((tmp_path / "demo/digits").glob("*/*.png"))
    assert len(images) == 1797
    with Image.open(images[0]) as image:
        assert image.size == (8, 8)
    study_file = read_study_file(tmp_path / "demo/study.toml")
    assert study_file.limits.trials == 3
    assert study_file.confirm == ConfirmSettings(top=2, repeats=2)
