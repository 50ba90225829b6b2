"""The loss functions, compared with formulas in NumPy, with PyTorch and with scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import log_softmax
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy, one_hot

from trainer.errors import RecipeError
from trainer.losses import balanced_weights, focal_loss, make_loss, soft_f1_loss
from trainer.parts import Parts
from trainer.recipe import Recipe

pytestmark = pytest.mark.unit

IMAGES, CLASSES = 23, 5


@pytest.fixture
def random():
    """Random numbers that are the same in each test."""
    return np.random.default_rng(7)


@pytest.fixture
def logits(random):
    """Float64 [images, classes]."""
    return torch.from_numpy(random.normal(0, 2, (IMAGES, CLASSES)))


@pytest.fixture
def labels(random):
    """Labels of all classes, int64 [images]."""
    return torch.from_numpy(random.permutation(np.arange(IMAGES) % CLASSES))


@pytest.fixture(params=["unweighted", "weighted"])
def weight(request, random):
    """None, or float64 [classes]."""
    return torch.from_numpy(random.uniform(0.2, 3, CLASSES)) if request.param == "weighted" else None


def _weighted_mean(losses, weight, labels):
    each = np.ones(len(losses)) if weight is None else weight.numpy()[labels.numpy()]
    return (each * losses).sum() / each.sum()


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 2.0, 5.0])
def test_focal_formula(logits, labels, weight, gamma):
    """Focal loss is the (weighted) mean of -(1 - p)^gamma log p."""
    log_p = log_softmax(logits.numpy(), axis=1)[np.arange(IMAGES), labels.numpy()]
    expected = _weighted_mean(-((1 - np.exp(log_p)) ** gamma) * log_p, weight, labels)
    assert focal_loss(logits, labels, gamma=gamma, weight=weight).item() == pytest.approx(expected, rel=1e-12)


def test_focal_without_focus(logits, labels, weight):
    """Focal loss with gamma = 0 is the cross-entropy, with class weights and without."""
    expected = cross_entropy(logits, labels, weight)
    torch.testing.assert_close(focal_loss(logits, labels, gamma=0.0, weight=weight), expected)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 2.0])
def test_focal_gradient(logits, labels, weight, gamma):
    """The gradient of the focal loss is that of its values."""
    assert torch.autograd.gradcheck(
        lambda x: focal_loss(x, labels, gamma=gamma, weight=weight), logits.requires_grad_()
    )


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 5.0])
def test_focal_of_certainty(gamma):
    """An image of which the model is certain adds no loss and no gradient to the focal loss, whatever gamma is."""
    logits = torch.tensor([[60.0, 0.0], [0.0, 1.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([0, 1]), gamma=gamma).backward()
    alone = torch.tensor([[0.0, 1.0]], requires_grad=True)
    (focal_loss(alone, torch.tensor([1]), gamma=gamma) / 2).backward()
    torch.testing.assert_close(logits.grad, torch.cat([torch.zeros(1, 2), alone.grad]))


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
def test_label_smoothing(logits, labels, smoothing):
    """Label smoothing is (1 - e) times the cross-entropy plus e times the mean of -log p over all classes."""
    loss = make_loss(Recipe(loss="label_smoothing", label_smoothing=smoothing), labels, CLASSES, Parts())
    log_p = log_softmax(logits.numpy(), axis=1)
    expected = -(1 - smoothing) * log_p[np.arange(IMAGES), labels.numpy()] - smoothing * log_p.mean(axis=1)
    assert loss(logits, labels).item() == pytest.approx(expected.mean(), rel=1e-12)
    torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, labels, label_smoothing=smoothing))


@pytest.mark.parametrize(
    ("name", "reference"),
    [
        ("cross_entropy", cross_entropy),
        ("label_smoothing", lambda x, y, w: cross_entropy(x, y, w, label_smoothing=0.1)),
        ("focal", lambda x, y, w: focal_loss(x, y, gamma=2.0, weight=w)),
    ],
)
def test_class_weights(logits, name, reference):
    """Balanced class weights of the training images, not of the batch, weight the loss."""
    training = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3, 4])
    batch = torch.tensor([4, 0, 1])
    logits = logits[:3].float()
    weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(5), y=training.numpy())).float()
    plain = make_loss(Recipe(loss=name), training, CLASSES, Parts())
    balanced = make_loss(Recipe(loss=name, class_weights="balanced"), training, CLASSES, Parts())
    torch.testing.assert_close(plain(logits, batch), reference(logits, batch, None))
    torch.testing.assert_close(balanced(logits, batch), reference(logits, batch, weight))
    assert not torch.isclose(plain(logits, batch), balanced(logits, batch), rtol=1e-3)


def test_parameters_of_the_recipe(logits, labels):
    """The recipe's gamma and smoothing reach the losses."""

    def value(**fields):
        return make_loss(Recipe(**fields), labels, CLASSES, Parts())(logits, labels).item()

    assert value(loss="focal", focal_gamma=0.7) == pytest.approx(focal_loss(logits, labels, gamma=0.7).item())
    assert value(loss="label_smoothing", label_smoothing=0.3) != value(loss="label_smoothing", label_smoothing=0.1)
    assert value(loss="soft_f1") == soft_f1_loss(logits, labels).item()


@pytest.mark.parametrize("seed", range(10))
def test_soft_f1_of_decisions(seed):
    """Where the model is certain, soft F1 is 1 minus scikit-learn's macro-F1 over the classes of the batch."""
    random = np.random.default_rng(seed)
    labels, predicted = random.integers(0, 4, 12), random.integers(0, CLASSES, 12)
    logits = 200 * one_hot(torch.from_numpy(predicted), CLASSES).double()
    expected = 1 - f1_score(labels, predicted, labels=np.unique(labels), average="macro")
    assert soft_f1_loss(logits, torch.from_numpy(labels)).item() == pytest.approx(expected, abs=1e-9)


def test_soft_f1_formula(logits, labels):
    """Soft F1 counts probabilities as true positives, false positives and false negatives."""
    p = logits.softmax(dim=1).numpy()
    f1 = []
    for c in range(CLASSES):
        is_c = labels.numpy() == c
        tp, fp, fn = p[is_c, c].sum(), p[~is_c, c].sum(), (1 - p[is_c, c]).sum()
        f1.append(2 * tp / (2 * tp + fp + fn))
    assert soft_f1_loss(logits, labels).item() == pytest.approx(1 - np.mean(f1), rel=1e-12)


def test_soft_f1_of_absent_classes(logits):
    """A class without an image in the batch does not count: a perfect answer has a loss of 0 all the same."""
    labels = torch.tensor([1, 1, 3])
    assert soft_f1_loss(200 * one_hot(labels, CLASSES).double(), labels).item() == pytest.approx(0, abs=1e-12)
    probabilities = logits[:3].softmax(dim=1)
    f1 = [2 * probabilities[labels == c, c].sum() / (probabilities[:, c].sum() + (labels == c).sum()) for c in (1, 3)]
    torch.testing.assert_close(soft_f1_loss(logits[:3], labels), 1 - sum(f1) / 2)


@pytest.mark.parametrize("present", [CLASSES, 2])
def test_soft_f1_gradient(logits, labels, present):
    """The gradient of soft F1 is that of its values, with absent classes too."""
    assert torch.autograd.gradcheck(lambda x: soft_f1_loss(x, labels % present), logits.requires_grad_())


def test_balanced_weights(random):
    """Balanced weights are scikit-learn's."""
    labels = random.choice(4, size=50, p=[0.6, 0.2, 0.15, 0.05])
    expected = compute_class_weight("balanced", classes=np.arange(4), y=labels)
    weights = balanced_weights(torch.from_numpy(labels), 4)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), expected, rtol=1e-6)


def test_balanced_weights_of_an_absent_class():
    """A class without training images weighs 0, and the others stay finite."""
    assert balanced_weights(torch.tensor([0, 0, 2]), 3).tolist() == [0.5, 0.0, 1.0]


def test_own_loss(logits, labels):
    """A loss of one's own is called with logits and labels, and what it returns is the loss."""
    own = Parts(losses={"margin": lambda x, y: (x.sum() - y.sum()) / 3})
    loss = make_loss(Recipe(loss="margin", class_weights="balanced"), labels, CLASSES, own)
    assert loss(logits, labels).item() == ((logits.sum() - labels.sum()) / 3).item()


def test_unknown_loss(labels):
    """A loss that nobody has given is refused by name."""
    with pytest.raises(RecipeError, match=r'^loss: nothing is called "margin"; give your own function in Parts'):
        make_loss(Recipe(loss="margin"), labels, CLASSES, Parts())
