"""The winner of an outer fold's search, retrained and tested once on that fold; what it says of the images is kept."""

from __future__ import annotations

import json
import zipfile
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hpo.bundle.chosen_trials import winner
from hpo.bundle.export import chosen_of, decision_of, searched_value, tested_once
from hpo.bundle.retraining import Training
from hpo.bundle.scores import headline, scores_on
from hpo.study.confirmed import read_confirmed
from hpo.whole_file import whole_file
from trainer.device import torch_threads
from trainer.recipe import used_fields
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from hpo.study.open_study import OpenStudy
    from trainer.data import Data


@dataclass(frozen=True, eq=False)
class OuterTest:
    """What the winner of an outer fold's search says of the images of that fold.

    Attributes:
        images: positions in the index, int64 [n].
        probabilities: as its bundle would show them, float32 [n, classes].
        predicted: the class that it would give them, int64 [n].
        winner: what won: `study`, `data_digest`, `trial`, `confirmed`, `epochs`, `recipe`, and its score in the search,
            `valid_…`.
    """

    images: NDArray[np.int64]
    probabilities: NDArray[np.float32]
    predicted: NDArray[np.int64]
    winner: dict[str, Any]


def tested_winner(opened: OpenStudy, data: Data, say: Callable[[str], None]) -> OuterTest:
    """Retrain the winner of a search as `hpo export-best` does, and test it once; the same winner is not tested again.

    Args:
        opened: the study of the outer fold, whose search is at its end.
        data: its images.
        say: takes lines on how it goes.

    Raises:
        HpoError: no trial is complete.
        DataError: images cannot be read.
    """
    confirmed = read_confirmed(opened)
    trial = winner(opened, confirmed)
    chosen = chosen_of(trial, opened, Training(), say, confirmed)
    about = {
        "study": opened.file.name,
        "data_digest": data.index.digest,
        "trial": trial.number,
        "confirmed": bool(confirmed and confirmed.winner == trial.number),
        "epochs": chosen.epochs,
        **searched_value(trial, opened.metric),
        "recipe": used_fields(chosen.recipe),
    }
    about = json.loads(json.dumps(about))
    file = opened.file.folder / "nested" / f"{opened.owner}.npz"
    kept = _read(file)
    if kept and kept.winner == about:
        return kept
    found: list[OuterTest] = []
    images, metric = data.split.test, opened.metric

    def test() -> dict[str, Any]:
        shown = decision.probabilities(chosen.probabilities(model, data, images))
        predicted = decision.classes(shown)
        found.append(OuterTest(images, shown, predicted, about))
        return scores_on(data, images, predicted, shown, metric)

    with torch_threads(chosen.threads):
        model = chosen.retrained(data).model
        decision = decision_of(chosen, None, trial, opened, data).decision
        tested, _ = tested_once(opened, trial.number, test, data)
    assert tested, "an outer fold has images"
    _keep(file, found[0])
    say(f"outer fold: {headline(tested, metric)}, on {counted(len(images), 'image')} that its search never saw")
    return found[0]


def _keep(file: Path, found: OuterTest) -> None:
    file.parent.mkdir(exist_ok=True)
    with whole_file(file) as opened:
        arrays = {name: value for name, value in asdict(found).items() if name != "winner"}
        np.savez(opened, winner=np.array(json.dumps(found.winner)), **arrays)


def _read(file: Path) -> OuterTest | None:
    """What was kept; None where there is nothing, or it is not whole."""
    try:
        with np.load(file) as kept:
            arrays = {name: kept[name] for name in ("images", "probabilities", "predicted")}
            return OuterTest(**arrays, winner=json.loads(str(kept["winner"])))
    except (OSError, ValueError, KeyError, zipfile.BadZipFile):
        return None
