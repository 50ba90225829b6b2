"""What nested cross-validation finds: one number over all images, and how alike the folds and their winners are."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from hpo.bundle.scores import details, headline, scores
from trainer.recipe import RULES, show
from trainer.scoring import Classified
from trainer.space import Range
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.nested.outer_test import OuterTest
    from hpo.study.study_file import StudyFile
    from trainer.images.index import Index
    from trainer.objective_metric import Metric
    from trainer.space import Space


@dataclass(frozen=True, eq=False)
class Estimate:
    """The result of nested cross-validation.

    Attributes:
        metrics: those of all images together, each predicted by the one winner whose search never saw it, as
            `hpo.bundle.scores.scores` has them.
        folds: those of each outer fold, likewise.
        winners: what won in each, as `OuterTest` has it.
        metric: of the study.
    """

    metrics: dict[str, Any]
    folds: Sequence[dict[str, Any]]
    winners: Sequence[dict[str, Any]]
    metric: Metric

    def as_json(self) -> dict[str, Any]:
        """The estimate as plain values."""
        name = self.metric.name
        folds = [
            {**won, name: found[name], "interval": found["interval"] and found["interval"][name], "images": images}
            for won, found in zip(self.winners, self.folds, strict=True)
            for images in [found["images"]]
        ]
        return {"metric": name, **self.metrics, "outer_folds": folds}

    def lines(self) -> list[str]:
        """The estimate for people."""
        metric, name = self.metric, self.metric.name
        on = counted(self.metrics["images"], "image")
        lines = [
            f"nested cross-validation: {headline(self.metrics, metric)}, on {on}, each by a search that never saw it",
            *details(self.metrics),
            "the outer folds, and what won in each:",
        ]
        for number, (won, found) in enumerate(zip(self.winners, self.folds, strict=True), start=1):
            value = "not defined" if found[name] is None else f"{found[name]:.4f}"
            searched = won[f"valid_{name}"]
            before = "not trained to its end" if searched is None else f"{searched:.4f}"
            lines.append(
                f"  {number}: {metric.title} {value} on {counted(found['images'], 'image')}, in its search"
                f" {before}; {'confirmed ' * won['confirmed']}trial {won['trial']}"
            )
        values = [found[name] for found in self.folds if found[name] is not None]
        if len(values) > 1:
            lines.append(f"from fold to fold: standard deviation {statistics.stdev(values):.4f}")
        known = [won[f"valid_{name}"] for won in self.winners]
        if self.metrics[name] is not None and None not in known:
            searched = statistics.mean(known)
            lines.append(
                f"the searches gave their winners {searched:.4f} on average, {abs(searched - self.metrics[name]):.4f}"
                f" {'more' if searched >= self.metrics[name] else 'less'}"
            )
        return lines

    def choices(self, space: Space) -> str:
        """A line on how alike the winners are in what is searched."""
        shown = []
        for name in (name for name in RULES if name in space.varying()):
            values = [won["recipe"][name] for won in self.winners if name in won["recipe"]]
            if not values:
                continue
            if isinstance(space.fields[name], Range) and len(set(values)) > 1:
                shown.append(f"{name} from {_short(min(values))} to {_short(max(values))}")
            else:
                [(most, times)] = Counter(map(_short, values)).most_common(1)
                shown.append(f"{name} {most} in {times} of {len(values)}")
        return f"how alike the winners are: {', '.join(shown) or 'the search space has one recipe'}"


def _short(value: Any) -> str:
    """A value of a field as a study file has it, a number by three digits."""
    return f"{value:.3g}" if isinstance(value, float) else show(value)


def estimate(index: Index, tests: Sequence[OuterTest], metric: Metric) -> Estimate:
    """What the tests of all outer folds say together.

    Args:
        index: of the images.
        tests: one for each outer fold; each image is in one of them.
        metric: of the studies.
    """

    def found(tests: Sequence[OuterTest]) -> dict[str, Any]:
        images = np.concatenate([test.images for test in tests])
        classified = Classified(
            torch.from_numpy(index.labels[images]),
            torch.from_numpy(np.concatenate([test.predicted for test in tests])),
            torch.from_numpy(np.concatenate([test.probabilities for test in tests])),
            index.classes,
        )
        return scores(classified, index.groups_with_copies[images], metric)

    return Estimate(found(tests), [found([test]) for test in tests], [test.winner for test in tests], metric)


def final_model(study_file: StudyFile) -> str:
    """How to make the model that the estimate is of."""
    path = str(study_file.path)
    commands = [["hpo", "search", path], ["hpo", "export-best", path, "-o", str(study_file.path.parent / "bundle")]]
    all_images = "" if not study_file.data.test else "with [data] test = 0, and another [study] name if it has begun, "
    return (
        "that is what this search reaches on data like these; the model to use is that of one more search:"
        f" {all_images}{' and '.join(f'`{shlex.join(command)}`' for command in commands)}"
    )
