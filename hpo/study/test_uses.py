"""Uses of the test split of a study: each is counted before it looks at the images, and its score is kept."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from storage.keys import TEST_SCORE_KEY, TEST_USE_KEY
from trainer.objective_metric import MACRO_F1
from trainer.uncertainty import tells_little

if TYPE_CHECKING:
    from collections.abc import Mapping

    import optuna

    from trainer.objective_metric import Metric


def count_test_use(study: optuna.Study, key: str, time: str) -> int:
    """Note in the study that the test split is used once more; returns how often it was used, this time included."""
    study.set_user_attr(TEST_USE_KEY + key, time)
    return sum(name.startswith(TEST_USE_KEY) for name in study.user_attrs)


def keep_test_score(
    study: optuna.Study, key: str, trial: int, metrics: Mapping[str, Any], metric: Metric = MACRO_F1
) -> None:
    """Keep what a use of the test split, which was counted before by this key, has given.

    Args:
        study: that was searched.
        key: of the use.
        trial: number of the trial whose recipe or weights were tested.
        metrics: as `hpo.bundle.scores.scores` has them.
        metric: of the study.
    """
    name, found = metric.name, metrics["interval"]
    kept = {"trial": trial, name: metrics[name], "interval": found and found[name], "images": metrics["images"]}
    kept["tells_little"] = tells_little(found and found["macro_f1"])
    study.set_user_attr(TEST_SCORE_KEY + key, kept)
