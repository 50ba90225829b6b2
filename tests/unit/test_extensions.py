"""Functions of one's own, and the names that they had in earlier versions."""

import importlib

import pytest

from hpo.cli import main
from trainer.extensions import Extensions

pytestmark = pytest.mark.unit


def test_the_old_name_of_extensions_is_deprecated():
    """`trainer.parts.Parts` is `Extensions`, and says so with a warning."""
    with pytest.warns(DeprecationWarning, match=r"trainer\.parts\.Parts is trainer\.extensions\.Extensions now"):
        from trainer.parts import Parts
    assert Parts is Extensions


def test_the_old_module_has_no_other_name():
    """Whatever else is asked of `trainer.parts` is not there."""
    with pytest.raises(AttributeError, match="has no attribute 'Losses'"):
        importlib.import_module("trainer.parts").Losses  # noqa: B018 - asking is the test


@pytest.mark.usefixtures("own_signals")
def test_the_old_argument_of_the_command_line_is_deprecated(monkeypatch):
    """`main(parts=…)` warns, and works like `main(extensions=…)`."""
    given = []
    monkeypatch.setattr("hpo.cli.run", lambda options: given.append(options.extensions) or 0)
    own = Extensions(losses={"own": lambda *_: None})
    with pytest.warns(DeprecationWarning, match="is main"), pytest.raises(SystemExit) as ended:
        main(["list"], parts=own)
    assert (ended.value.code, given) == (0, [own])
