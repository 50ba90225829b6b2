"""The loss functions, compared with formulas in NumPy, with PyTorch and with scikit-learn."""

import numpy as np
import pytest
import torch
from scipy.special import expit, log_softmax
from sklearn.metrics import f1_score
from sklearn.utils.class_weight import compute_class_weight
from torch.nn.functional import cross_entropy, one_hot

from trainer.augmentation.mixing import Partners
from trainer.errors import RecipeError
from trainer.extensions import Extensions
from trainer.losses import (
    arcface_loss,
    balanced_weights,
    effective_number_weights,
    focal_loss,
    log_prior,
    logit_adjusted_loss,
    make_loss,
    soft_f1_loss,
)
from trainer.recipe import LOSSES, Recipe

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
    loss = make_loss(Recipe(loss="label_smoothing", label_smoothing=smoothing), labels, CLASSES, Extensions())
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
        ("arcface", lambda x, y, w: arcface_loss(x, y, margin=0.3, scale=16.0, weight=w)),
    ],
)
def test_class_weights(logits, name, reference):
    """Class weights of the training images, not of the batch, weight the loss."""
    training = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3, 4])
    batch = torch.tensor([4, 0, 1])
    logits = logits[:3].float()
    weight = torch.tensor(compute_class_weight("balanced", classes=np.arange(5), y=training.numpy())).float()
    plain = make_loss(Recipe(loss=name), training, CLASSES, Extensions())
    balanced = make_loss(Recipe(loss=name, class_weights="balanced"), training, CLASSES, Extensions())
    torch.testing.assert_close(plain(logits, batch), reference(logits, batch, None))
    torch.testing.assert_close(balanced(logits, batch), reference(logits, batch, weight))
    assert not torch.isclose(plain(logits, batch), balanced(logits, batch), rtol=1e-3)
    effective = Recipe(loss=name, class_weights="effective_number", effective_beta=0.9)
    weight = effective_number_weights(training, CLASSES, 0.9)
    torch.testing.assert_close(
        make_loss(effective, training, CLASSES, Extensions())(logits, batch), reference(logits, batch, weight)
    )


def test_parameters_of_the_recipe(logits, labels):
    """The recipe's gamma, smoothing, tau, margin and scale reach the losses."""

    def value(**fields):
        return make_loss(Recipe(**fields), labels, CLASSES, Extensions())(logits, labels).item()

    assert value(loss="focal", focal_gamma=0.7) == pytest.approx(focal_loss(logits, labels, gamma=0.7).item())
    assert value(loss="label_smoothing", label_smoothing=0.3) != value(loss="label_smoothing", label_smoothing=0.1)
    assert value(loss="soft_f1") == soft_f1_loss(logits, labels).item()
    adjustment = 1.7 * log_prior(labels, CLASSES)
    expected = logit_adjusted_loss(logits, labels, adjustment=adjustment).item()
    assert value(loss="logit_adjustment", adjustment_tau=1.7) == pytest.approx(expected)
    expected = arcface_loss(logits, labels, margin=0.7, scale=20.0).item()
    assert value(loss="arcface", arcface_margin=0.7, arcface_scale=20.0) == pytest.approx(expected)


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


@pytest.mark.parametrize("beta", [0.0, 0.5, 0.9, 0.999, 0.999999])
def test_effective_number_weights(beta):
    """Effective-number weights are (1 - b) / (1 - b^n), scaled to add up to the number of classes."""
    counts = [40, 7, 1, 200]
    labels = torch.from_numpy(np.repeat(np.arange(4), counts))
    effective = np.array([sum(beta**i for i in range(n)) for n in counts])
    weights = effective_number_weights(labels, 4, beta)
    assert weights.dtype == torch.float32
    np.testing.assert_allclose(weights.numpy(), (1 / effective) / (1 / effective).sum() * 4, rtol=1e-6)


def test_effective_number_weights_between_equal_and_balanced():
    """With beta 0 all classes weigh the same, and with beta near 1 as in balanced weights but for the scale."""
    labels = torch.tensor([0] * 30 + [1] * 10 + [2])
    assert effective_number_weights(labels, 3, 0.0).tolist() == [1.0, 1.0, 1.0]
    balanced = balanced_weights(labels, 3)
    torch.testing.assert_close(
        effective_number_weights(labels, 3, 0.999999), balanced * 3 / balanced.sum(), rtol=1e-4, atol=0
    )


@pytest.mark.parametrize("beta", [0.0, 0.9, 0.999999])
def test_effective_number_weights_of_an_absent_class(beta):
    """A class without training images weighs 0, and the others add up to their number."""
    weights = effective_number_weights(torch.tensor([0, 0, 2]), 4, beta)
    assert weights[[1, 3]].tolist() == [0.0, 0.0]
    assert weights.sum().item() == pytest.approx(2)
    assert (weights[[0, 2]] > 0).all()


@pytest.mark.parametrize("tau", [0.0, 0.5, 1.0, 3.0])
def test_logit_adjustment(logits, labels, tau):
    """Logit adjustment is -log of the softmax weighted by the class's share of the training images to the power tau."""
    training = torch.tensor([0] * 8 + [1] * 4 + [2] * 2 + [3, 4])
    prior = np.array([8, 4, 2, 1, 1]) / 16
    scores = prior**tau * np.exp(logits.numpy())
    expected = -np.log(scores[np.arange(IMAGES), labels.numpy()] / scores.sum(axis=1))
    loss = make_loss(Recipe(loss="logit_adjustment", adjustment_tau=tau), training, CLASSES, Extensions())
    assert loss(logits, labels).item() == pytest.approx(expected.mean(), rel=1e-6)
    if tau == 0:
        torch.testing.assert_close(loss(logits, labels), cross_entropy(logits, labels))


def test_logit_adjustment_of_an_absent_class(logits):
    """A class without training images gets the prior of a single image: the loss and its gradient stay finite."""
    training = torch.tensor([0] * 8 + [2] * 4)
    assert log_prior(training, 3).softmax(0).tolist() == pytest.approx([8 / 13, 1 / 13, 4 / 13])
    loss = make_loss(Recipe(loss="logit_adjustment", adjustment_tau=10.0), training, CLASSES, Extensions())
    logits = logits.float().requires_grad_()
    loss(logits, torch.arange(IMAGES) % CLASSES).backward()
    assert logits.grad.isfinite().all()


def test_binary_cross_entropy(logits, labels):
    """The binary loss is the mean over images and classes of the cross-entropy of each class against all others."""
    loss = make_loss(Recipe(loss="bce"), labels, CLASSES, Extensions())
    truth = np.eye(CLASSES)[labels.numpy()]
    p = expit(logits.numpy())
    expected = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    assert loss(logits, labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("share", "of_first", "of_second"), [(0.9, 1, 0), (0.7, 1, 1), (0.3, 1, 1), (0.1, 0, 1)])
def test_binary_cross_entropy_of_mixed_images(logits, labels, share, of_first, of_second):
    """A mixed image is of both classes for the binary loss, but for one whose share is at most a fifth."""
    others = (labels + 1 + torch.arange(IMAGES) % 2) % CLASSES
    others[:3] = labels[:3]
    truth = np.maximum(of_first * np.eye(CLASSES)[labels], of_second * np.eye(CLASSES)[others])
    truth[:3] = np.eye(CLASSES)[labels[:3]]
    p = expit(logits.numpy())
    expected = -(truth * np.log(p) + (1 - truth) * np.log(1 - p)).mean()
    loss = make_loss(Recipe(loss="bce"), labels, CLASSES, Extensions())
    assert loss(logits, labels, Partners(others, share)).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.0, 1.5])
@pytest.mark.parametrize("scale", [1.0, 16.0, 64.0])
def test_arcface_formula(random, labels, weight, margin, scale):
    """ArcFace adds the margin to the true class's angle; beyond pi it goes on as in its authors' code."""
    cosine = random.uniform(-1, 1, (IMAGES, CLASSES))
    rows = np.arange(IMAGES), labels.numpy()
    angle = np.arccos(cosine[rows])
    moved = scale * cosine
    moved[rows] = scale * np.where(
        angle + margin < np.pi, np.cos(angle + margin), cosine[rows] - margin * np.sin(margin)
    )
    assert (angle + margin > np.pi).any() or margin < 1
    expected = _weighted_mean(-log_softmax(moved, axis=1)[rows], weight, labels)
    loss = arcface_loss(torch.from_numpy(scale * cosine), labels, margin=margin, scale=scale, weight=weight)
    assert loss.item() == pytest.approx(expected, rel=1e-9)


def test_arcface_without_margin(random, labels, weight):
    """ArcFace with margin 0 is the cross-entropy of its logits."""
    logits = torch.from_numpy(16 * random.uniform(-1, 1, (IMAGES, CLASSES)))
    logits[0], logits[1] = 16.0, -16.0
    loss = arcface_loss(logits, labels, margin=0.0, scale=16.0, weight=weight)
    torch.testing.assert_close(loss, cross_entropy(logits, labels, weight))


@pytest.mark.parametrize("margin", [0.1, 0.3, 1.0, 1.5])
def test_arcface_grows_with_the_angle(margin):
    """The worse the angle to the true class, the greater the ArcFace loss, beyond pi too."""
    cosine = torch.cos(torch.linspace(0, torch.pi, 1000, dtype=torch.float64))
    logits = torch.stack((16 * cosine, torch.zeros_like(cosine)), dim=1)
    label = torch.zeros(1, dtype=torch.int64)
    losses = torch.stack([arcface_loss(row[None], label, margin=margin, scale=16.0) for row in logits])
    assert (losses.diff() > 0).all()


@pytest.mark.parametrize("margin", [0.0, 0.3, 1.5])
def test_arcface_gradient(random, labels, weight, margin):
    """The gradient of ArcFace is that of its values."""
    logits = torch.from_numpy(16 * random.uniform(-0.99, 0.99, (IMAGES, CLASSES))).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: arcface_loss(x, labels, margin=margin, scale=16.0, weight=weight), logits)


@pytest.mark.parametrize("cosine", [1.0, -1.0, 1.0 - 6e-8, -1.0 + 6e-8, 1.0 + 1.2e-7, 0.0])
def test_arcface_of_extreme_angles(cosine):
    """Where features and class point exactly the same or the opposite way, ArcFace and its gradient are finite."""
    logits = torch.full((2, 3), 64 * cosine).requires_grad_()
    loss = arcface_loss(logits, torch.tensor([0, 2]), margin=0.5, scale=64.0)
    loss.backward()
    assert loss.isfinite()
    assert logits.grad.isfinite().all()


BUILT_IN = [loss for loss in LOSSES if loss != "arcface"]  # whose logits are cosines


@pytest.mark.parametrize("loss", BUILT_IN)
@pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
def test_huge_logits(loss, size):
    """Huge logits, right and wrong, give a finite loss and gradient."""
    labels = torch.tensor([0, 0, 1, 3])
    logits = torch.zeros(4, CLASSES)
    logits[0, 0], logits[1, 1], logits[2], logits[3, 3] = size, size, -size, -size
    logits.requires_grad_()
    recipe = Recipe(loss=loss, focal_gamma=0.5, class_weights="effective_number")
    value = make_loss(recipe, labels, CLASSES, Extensions())(logits, labels, Partners(labels.roll(1), 0.4))
    value.backward()
    assert value.isfinite()
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", [loss for loss in LOSSES if loss != "bce"])
@pytest.mark.parametrize("share", [0.0, 0.25, 1.0])
def test_mixed_images(logits, labels, loss, share):
    """The loss of mixed images is the mean of the losses for their two labels, weighted by their shares."""
    loss_of = make_loss(Recipe(loss=loss, class_weights="balanced"), labels, CLASSES, Extensions())
    others = labels.roll(1)
    logits = logits.float()
    mixed = loss_of(logits, labels, Partners(others, share))
    torch.testing.assert_close(mixed, share * loss_of(logits, labels) + (1 - share) * loss_of(logits, others))
    assert loss_of(logits, labels, None) == loss_of(logits, labels)


@pytest.mark.parametrize(("loss", "smoothing"), [("cross_entropy", 0.0), ("label_smoothing", 0.1)])
def test_mixed_images_are_soft_targets(logits, labels, loss, smoothing):
    """The cross-entropy of mixed images is that of PyTorch with both labels as a soft target."""
    others = labels.roll(1)
    target = 0.3 * one_hot(labels, CLASSES).double() + 0.7 * one_hot(others, CLASSES)
    mixed = make_loss(Recipe(loss=loss), labels, CLASSES, Extensions())(logits, labels, Partners(others, 0.3))
    torch.testing.assert_close(mixed, cross_entropy(logits, target, label_smoothing=smoothing))


def test_own_loss(logits, labels):
    """A loss of one's own is called with logits and labels, and what it returns is the loss."""
    own = Extensions(losses={"margin": lambda x, y: (x.sum() - y.sum()) / 3})
    loss = make_loss(Recipe(loss="margin", class_weights="balanced"), labels, CLASSES, own)
    assert loss(logits, labels).item() == ((logits.sum() - labels.sum()) / 3).item()
    mixed = loss(logits, labels, Partners(labels * 2, 0.25))
    assert mixed.item() == pytest.approx(((logits.sum() - 1.75 * labels.sum()) / 3).item())


@pytest.mark.parametrize("name", LOSSES)
def test_own_loss_goes_first(logits, labels, name):
    """A loss of one's own may take the name of a built-in one."""
    loss = make_loss(Recipe(loss=name), labels, CLASSES, Extensions(losses={name: lambda x, y: x.sum() + y.sum()}))
    assert loss(logits, labels).item() == (logits.sum() + labels.sum()).item()


def test_unknown_loss(labels):
    """A loss that nobody has given is refused by name."""
    with pytest.raises(RecipeError, match=r'^loss: nothing is called "margin"; give your own function in Extensions'):
        make_loss(Recipe(loss="margin"), labels, CLASSES, Extensions())
