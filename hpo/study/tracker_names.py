"""The trackers that a study file names, and whether their packages are installed."""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from trainer.recipe import nearest, show

if TYPE_CHECKING:
    from hpo.study.table import Table

TRACKERS = {  # name -> how its package is installed
    "tensorboard": "pip install 'hpo-images[tensorboard]'",
    "mlflow": "pip install 'hpo-images[mlflow]'",
    "wandb": "pip install 'hpo-images[wandb]'",
}


def read_trackers(study: Table, problems: list[str]) -> tuple[str, ...]:
    """The names in [study] track, one or a list; `tensorboard = true` is how the first of them was written before.

    Args:
        study: the table.
        problems: takes a line on each mistake.
    """
    given = study.value("track")
    names = [given] if isinstance(given, str) else [] if given is None else given
    if study.switch("tensorboard"):
        names = [*names, "tensorboard"] if isinstance(names, list) else names
    if not isinstance(names, list):
        problems.append(f"study.track: {show(names)} is neither a tracker nor a list of them: {', '.join(TRACKERS)}")
        return ()
    for name in names:
        if not isinstance(name, str) or name not in TRACKERS:
            hint = nearest(name, TRACKERS) if isinstance(name, str) else ""
            problems.append(f"study.track: {show(name)} is not a tracker{hint or '; there are ' + ', '.join(TRACKERS)}")
        elif find_spec(name) is None:
            problems.append(f"study.track: the package of {name} is not installed; `{TRACKERS[name]}`")
    return tuple(dict.fromkeys(names))
