"""What an import costs: a study file is checked without torch."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.unit


def test_light_imports():
    """Recipe, space, data and extensions are imported without torch, timm, optuna, albumentations and scikit-learn."""
    code = "import sys, trainer.recipe, trainer.space, trainer.data, trainer.extensions; print(*sys.modules, sep='\\n')"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    packages = {name.partition(".")[0] for name in done.stdout.split()}
    assert "trainer" in packages
    assert not packages & {
        "torch",
        "timm",
        "optuna",
        "albumentations",
        "cv2",
        "sklearn",
        "sqlalchemy",
        "hpo",
        "storage",
    }
    assert done.stderr == ""
