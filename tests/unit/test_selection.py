"""Which models vote together, on synthetic predictions whose truth is known."""

from __future__ import annotations

import numpy as np
import pytest

from hpo.bundle.selection import Criterion, judge, select
from trainer.calibration import at_temperature, macro_f1_of
from trainer.objective_metric import MACRO_F1, metric_of

pytestmark = pytest.mark.unit

BY_MACRO_F1 = Criterion(MACRO_F1, ("a", "b", "c"))


def models(labels, *, right, seed=0, noise=1.5):
    """Probabilities float32 [models, images, 3] of models that err independently; `right` is the logit of the truth."""
    random = np.random.default_rng(seed)
    found = []
    for favour in right:
        logits = random.normal(0, noise, (len(labels), 3))
        logits[np.arange(len(labels)), labels] += favour
        found.append(at_temperature(np.exp(logits - logits.max(axis=1, keepdims=True)).astype(np.float32), 1))
    return np.stack(found)


@pytest.fixture
def labels():
    """True classes of 600 images."""
    return np.random.default_rng(1).integers(0, 3, 600)


def halves(images):
    """Three divisions into halves."""
    return [np.random.default_rng(n).permutation(images) % 2 for n in range(3)]


def test_models_that_err_independently_vote_together(labels):
    """Of four good models and one that knows nothing the good ones share the votes, with a gain beyond chance."""
    candidates = models(labels, right=(2, 2, 2, 2, 0))
    counts = select(labels, candidates, 8, BY_MACRO_F1)
    assert counts[4] == 0
    assert (counts[:4] > 0).sum() >= 3
    gain = judge(labels, candidates, 8, np.arange(600), halves(600), BY_MACRO_F1)
    assert gain.interval[0] > 0
    assert gain.interval[0] < gain.mean < gain.interval[1]
    mean = np.average(candidates, axis=0, weights=counts)
    assert macro_f1_of(labels, mean.argmax(axis=1), 3) > macro_f1_of(labels, candidates[0].argmax(axis=1), 3) + 0.05


def test_one_model_that_is_best_alone_gets_all_votes(labels):
    """Beside models that know nothing the good one is alone: no more votes are given away than serve."""
    assert select(labels, models(labels, right=(6, 0, 0), noise=1), 10, BY_MACRO_F1).tolist() == [1, 0, 0]


def test_a_model_may_have_several_votes(labels):
    """A model that is much better than another one gets more votes than that one, where both together are best."""
    counts = select(labels, models(labels, right=(2.5, 1.2), noise=1.5), 9, BY_MACRO_F1)
    assert counts[0] > counts[1] > 0


def test_a_gain_that_is_not_there_is_not_shown(labels):
    """Copies of one model gain nothing; of models that know nothing the gain is within chance."""
    same = np.repeat(models(labels, right=(2,)), 4, axis=0)
    assert judge(labels, same, 5, np.arange(600), halves(600), BY_MACRO_F1).mean == 0
    nothing = models(labels, right=(0, 0, 0, 0))
    gain = judge(labels, nothing, 5, np.arange(600), halves(600), BY_MACRO_F1)
    assert gain.interval[0] < 0 < gain.interval[1]


def test_a_gain_that_no_image_can_judge_is_not_known():
    """Where each class has one image, which is always among those that choose, nothing is said of the gain."""
    labels = np.arange(3)
    assert judge(labels, np.stack([np.eye(3)] * 2), 2, np.arange(3), [np.full(3, -1)], BY_MACRO_F1) is None


def test_models_are_chosen_by_the_metric_of_the_study(labels):
    """Of a model that is surer and one that is right more often, the log-loss and the accuracy choose another each."""
    calm, sure = models(labels, right=(2.0, 2.2))
    sure = at_temperature(sure, 0.1)  # the same classes, with probabilities that flatter themselves
    candidates = np.stack([calm, sure])
    assert (calm.argmax(axis=1) == labels).mean() < (sure.argmax(axis=1) == labels).mean()
    chosen = {
        name: select(labels, candidates, 1, Criterion(metric_of(name), ("a", "b", "c"))).tolist()
        for name in ("accuracy", "log_loss")
    }
    assert chosen == {"accuracy": [0, 1], "log_loss": [1, 0]}
    gain = judge(
        labels, candidates, 2, np.arange(600), halves(600)[:1], Criterion(metric_of("log_loss"), ("a", "b", "c"))
    )
    assert gain.interval[0] <= gain.mean <= gain.interval[1]
