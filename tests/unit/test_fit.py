"""The training loop: the same every time, what it learns, and what it says of each epoch."""

import math

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score
from torch import nn
from torch.nn.functional import cross_entropy

from trainer.data import load_data
from trainer.errors import NonFiniteLossError
from trainer.extensions import Extensions
from trainer.fit import Subsets, fit
from trainer.images.pixels import Reading
from trainer.loaders import AugmentedImages, Loaders, epoch_orders
from trainer.losses import balanced_weights
from trainer.resources import Resources

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

ON_CPU = Resources(device=torch.device("cpu"))


def _state(epoch):
    return {name: value.clone() for name, value in epoch.model.backbone.state_dict().items()}


def _equal(one, other):
    assert one.keys() == other.keys()
    return all(torch.equal(one[name], other[name]) for name in one)


def _kept(epochs):
    """The epochs, of which there are some, with the weights that each of them had."""
    kept = [(epoch, _state(epoch)) for epoch in epochs]
    assert [epoch.number for epoch, _ in kept] == list(range(1, kept[0][0].epochs + 1))
    return kept


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "test_resnet", "image_size": 32, "augment": "heavy", "optimizer": "sgd", "learning_rate": 0.01},
        {"backbone": "dropout", "ema": True, "sampler": "balanced"},
    ],
    ids=["resnet", "dropout"],
)
def test_same_weights(changes, start, make_recipe):
    """The same recipe gives the same weights and numbers in each epoch bit for bit, another seed gives others."""
    once, again, other = (_kept(start(make_recipe(**changes, seed=seed))) for seed in (3, 3, 4))
    for (epoch, state), (epoch_again, state_again), (_, state_other) in zip(once, again, other, strict=True):
        assert _equal(state, state_again)
        assert (epoch.train_loss, epoch.validation.macro_f1) == (
            epoch_again.train_loss,
            epoch_again.validation.macro_f1,
        )
        assert not _equal(state, state_other)


def test_random_numbers_of_the_caller(start, make_recipe):
    """Random numbers that the caller draws between epochs and steps change nothing, even with dropout."""
    recipe = make_recipe(backbone="dropout", augment="light")
    quiet = _kept(start(recipe))
    noisy = []
    torch.manual_seed(123)
    for epoch in start(recipe, on_step=lambda _: torch.rand(7)):
        noisy.append((epoch, _state(epoch)))
        torch.manual_seed(99)
        np.random.default_rng().random()
    assert [epoch.train_loss for epoch, _ in noisy] == [epoch.train_loss for epoch, _ in quiet]
    assert _equal(noisy[-1][1], quiet[-1][1])


def test_dropout_differs_between_steps(start, make_recipe, extensions):
    """What is random inside a step is drawn anew in the next."""
    masks = []

    class Watched(nn.Dropout):
        def forward(self, x):
            out = super().forward(x)
            if self.training:
                masks.append((out == 0).numpy().tobytes())
            return out

    def watched(classes, side):
        return nn.Sequential(nn.Flatten(), Watched(0.5), nn.Linear(3 * side * side, classes))

    list(start(make_recipe(backbone="watched"), extensions=Extensions(backbones={"watched": watched})))
    assert len(set(masks)) == len(masks) == 10


def test_validation_changes_nothing(start, make_recipe):
    """Training with validation and without gives the same weights."""
    recipe = make_recipe(augment="light")
    assert _equal(_kept(start(recipe))[-1][1], _kept(start(recipe, valid=None))[-1][1])


@pytest.mark.parametrize(
    ("optimizer", "make"),
    [
        ("sgd", lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9, nesterov=True)),
        ("adamw", lambda groups: torch.optim.AdamW(groups, lr=1e-3)),
    ],
)
def test_plain_loop(optimizer, make, colours, start, make_recipe):
    """A training does what a plain loop in PyTorch does: SGD with Nesterov momentum or AdamW, no decay of biases."""
    recipe = make_recipe(optimizer=optimizer, schedule="constant", warmup=0.0, weight_decay=0.5, seed=8)
    epochs = _kept(start(recipe))

    torch.manual_seed(8)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 3))
    weights, bias = model[1].weight, model[1].bias
    plain = make([{"params": [weights], "weight_decay": 0.5}, {"params": [bias], "weight_decay": 0.0}])
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    made = AugmentedImages(colours.pixels(Reading(16)), colours.index.labels, Extensions())
    for number, (epoch, state) in enumerate(epochs, start=1):
        losses = []
        orders = epoch_orders(recipe, colours.index.labels, colours.split.train, number)
        for images, labels in Loaders(0).batches(made, iter(orders)):
            loss = cross_entropy(model(((images / 255 - mean) / std).permute(0, 3, 1, 2)), labels)
            plain.zero_grad()
            loss.backward()
            plain.step()
            losses.append(loss.item())
        assert epoch.train_loss == pytest.approx(np.mean(losses), rel=1e-4)
        assert epoch.learning_rate == 1e-3
        torch.testing.assert_close(state["1.weight"], weights.detach(), rtol=1e-3, atol=1e-5)
        torch.testing.assert_close(state["1.bias"], bias.detach(), rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_learns(optimizer, start, make_recipe):
    """A few epochs learn to tell three colours: the loss falls and the macro-F1 of unseen images is above .9."""
    recipe = make_recipe(
        backbone="test_resnet", image_size=32, epochs=6, optimizer=optimizer, learning_rate=0.01, augment="light"
    )
    epochs = list(start(recipe))
    assert epochs[-1].train_loss < epochs[0].train_loss / 2
    assert epochs[-1].validation.macro_f1 > 0.9


def test_what_an_epoch_says(start, make_recipe):
    """Each epoch comes with its number, the rate of its last step and its times."""
    recipe = make_recipe(epochs=3, schedule="cosine", warmup=0.0)
    epochs = list(start(recipe))
    assert [(epoch.number, epoch.epochs) for epoch in epochs] == [(1, 3), (2, 3), (3, 3)]
    steps = math.ceil(36 / 8)
    for epoch in epochs:
        done = (epoch.number * steps - 1) / (3 * steps)
        assert epoch.learning_rate == pytest.approx(1e-3 * (1 + math.cos(math.pi * done)) / 2)
        assert 0 < epoch.data_seconds < epoch.seconds
        assert not epoch.model.training


@pytest.mark.parametrize("ema", [False, True])
def test_metrics_of_the_model(ema, colours, start, make_recipe):
    """The metrics are scikit-learn's on predictions of the very model that the epoch gives."""
    split, index = colours.split, colours.index
    images = np.stack([np.asarray(Image.open(index.root / index.paths[i])) for i in split.valid])
    truth = index.labels[split.valid]
    scores = set()
    for epoch in start(make_recipe(epochs=4, ema=ema, batch_size=7, learning_rate=1e-4)):
        with torch.inference_mode():
            predicted = epoch.model(torch.from_numpy(images)).argmax(dim=1).numpy()
        np.testing.assert_array_equal(
            epoch.validation.confusion.numpy(), confusion_matrix(truth, predicted, labels=range(3))
        )
        assert epoch.validation.macro_f1 == pytest.approx(f1_score(truth, predicted, average="macro"), abs=1e-12)
        assert epoch.validation.accuracy == accuracy_score(truth, predicted)
        scores.add(epoch.validation.macro_f1)
    assert len(scores) > 1


def test_moving_average(start, make_recipe, extensions):
    """With `ema` the epoch's model is a moving average of the weights, and no other than the trained one without."""
    built = []

    def watched(classes, side):
        built.append(extensions.backbones["linear"](classes, side))
        return built[-1]

    own = Extensions(backbones={"watched": watched})
    raw = {}
    for ema in (False, True):
        [first, second] = _kept(start(make_recipe(backbone="watched", ema=ema), extensions=own))
        raw[ema] = {name: value.clone() for name, value in built[-1].state_dict().items()}
        assert _equal(second[1], raw[ema]) is not ema
        assert not _equal(first[1], second[1])
    assert len(built) == 2
    assert _equal(raw[False], raw[True])


def test_moving_average_formula(start, make_recipe, extensions):
    """The moving average starts at the weights and is kept short in the first steps, so that it follows them."""
    built, raw = [], []

    def watched(classes, side):
        built.append(extensions.backbones["linear"](classes, side))
        return built[-1]

    recipe = make_recipe(backbone="watched", ema=True, epochs=3)
    own = Extensions(backbones={"watched": watched})

    def keep(_):
        raw.append(built[0][1].weight.detach().clone())

    last = _kept(start(recipe, valid=None, extensions=own, on_step=keep))[-1][1]
    average = raw[0]
    for step, weight in enumerate(raw):
        decay = min(0.999, 1 - (1 + step) ** (-2 / 3))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(last["1.weight"], average)


def test_without_validation(start, make_recipe):
    """Without validation images an epoch has no metrics."""
    epochs = list(start(make_recipe(), valid=None))
    assert [(epoch.number, epoch.validation) for epoch in epochs] == [(1, None), (2, None)]
    assert all(math.isfinite(epoch.train_loss) for epoch in epochs)


def test_plateau_repeated_without_validation(start, make_recipe):
    """A training without validation follows the macro-F1 values of an earlier one to the same weights."""
    recipe = make_recipe(schedule="plateau", epochs=9, learning_rate=0.01, optimizer="sgd")
    first = _kept(start(recipe))
    rates = [epoch.learning_rate for epoch, _ in first]
    assert rates[-1] < max(rates) / 3
    scores = [epoch.validation.macro_f1 for epoch, _ in first]
    repeated = _kept(start(recipe, valid=None, plateau=scores))
    assert [epoch.learning_rate for epoch, _ in repeated] == rates
    assert _equal(repeated[-1][1], first[-1][1])
    flat = _kept(start(recipe, valid=None))
    assert flat[-1][0].learning_rate == pytest.approx(0.01)


@pytest.mark.parametrize(("value", "step"), [(math.nan, 6), (math.inf, 6), (math.nan, 10), (math.inf, 10)])
def test_own_loss_that_is_not_finite(value, step, start, make_recipe, extensions):
    """A loss of NaN or infinity in any step ends the training at once, in one line."""
    calls = []

    def breaking(logits, labels):
        calls.append(len(labels))
        return cross_entropy(logits, labels) * (value if len(calls) == step else 1)

    own = Extensions(backbones=extensions.backbones, losses={"breaking": breaking})
    training = start(make_recipe(loss="breaking"), extensions=own)
    assert next(training).number == 1
    with pytest.raises(NonFiniteLossError, match=rf"^the loss is {value}: a lower learning_rate, warmup or clip_norm"):
        next(training)
    assert len(calls) == step


def test_absurd_learning_rate(start, make_recipe):
    """A learning rate that blows the weights up is told as such."""

    def deep(classes, side):
        layers = [nn.Linear(3 * side * side, 64), nn.Linear(64, 64), nn.Linear(64, classes)]
        return nn.Sequential(nn.Flatten(), *layers)

    recipe = make_recipe(backbone="deep", optimizer="sgd", learning_rate=10.0, warmup=0.0, epochs=5)
    with pytest.raises(NonFiniteLossError, match="a lower learning_rate"):
        list(start(recipe, extensions=Extensions(backbones={"deep": deep})))


def test_on_step(start, make_recipe):
    """`on_step` is called after each batch, validation's too, and what it raises ends the training."""
    calls = []

    def stop(_):
        calls.append(len(calls))
        if len(calls) == 10:
            raise KeyboardInterrupt("enough")

    training = start(make_recipe(epochs=5), on_step=stop)
    assert next(training).number == 1
    assert len(calls) == 5 + 3
    with pytest.raises(KeyboardInterrupt, match="enough"):
        next(training)
    assert len(calls) == 10
    with pytest.raises(StopIteration):
        next(training)


def test_close(start, make_recipe):
    """A caller that has seen enough closes the training, and no further step is done."""
    calls = []
    training = start(make_recipe(epochs=5), on_step=lambda _: calls.append(1))
    next(training)
    training.close()
    assert list(training) == []
    assert len(calls) == 5 + 3


def test_only_the_training_images_teach(colours, start, make_recipe):
    """A training sees the images that it is given, each as often as the sampler draws it, and no others."""
    seen = []

    def watching(image, _random):
        seen.append(image.tobytes())
        return image

    train = colours.split.train[::2]
    recipe = make_recipe(augment="watching", batch_size=6)
    linear = {"linear": lambda classes, side: nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))}
    list(start(recipe, train=train, extensions=Extensions(augments={"watching": watching}, backbones=linear)))
    expected = [colours.pixels(Reading(16))[image].tobytes() for image in train]
    assert sorted(seen) == sorted(expected * 2)


@pytest.fixture(scope="module")
def rare(write_colours):
    """90 red images and 12 green ones, hard to tell apart."""
    return load_data(write_colours({"red": 90, "green": 12}, tint=8), valid=0.5, test=0.0)


@pytest.mark.parametrize("remedy", [{"sampler": "balanced"}, {"class_weights": "balanced"}])
def test_rare_class(remedy, rare, make_recipe):
    """The balanced sampler and balanced class weights find a rare class that a plain training passes over."""

    def mean_colour(classes, _side):
        return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, classes))

    def found(**changes):
        recipe = make_recipe(backbone="mean_colour", epochs=12, learning_rate=0.1, **changes)
        own = Extensions(backbones={"mean_colour": mean_colour})
        *_, last = fit(recipe, rare, Subsets(rare.split.train, rare.split.valid), extensions=own, resources=ON_CPU)
        return last.validation.confusion.diagonal().tolist()

    assert found()[0] <= 1
    assert found(**remedy)[0] >= 4
    assert found(**remedy)[1] >= 40


def test_class_weights_of_the_training_images(rare, extensions, make_recipe):
    """Class weights are those of the training images alone."""
    train = np.concatenate([rare.split.train[:3], rare.split.train[-9:]])
    recipe = make_recipe(class_weights="balanced", epochs=1, batch_size=12, optimizer="sgd", learning_rate=1e-8)
    [epoch] = fit(recipe, rare, Subsets(train), extensions=extensions, resources=ON_CPU)
    labels = torch.from_numpy(rare.index.labels[train])
    assert torch.bincount(labels).tolist() == [3, 9]
    with torch.inference_mode():
        logits = epoch.model(torch.from_numpy(rare.pixels(Reading(16))[train]))
    expected = cross_entropy(logits, labels, balanced_weights(labels, 2)).item()
    assert epoch.train_loss == pytest.approx(expected, rel=1e-4)
    assert epoch.train_loss != pytest.approx(cross_entropy(logits, labels).item(), rel=1e-2)


@pytest.mark.parametrize("wanted", [False, True])
def test_compile(wanted, start, make_recipe, monkeypatch):
    """The model is compiled where the recipe says so, and its weights keep their names."""
    compiled = []

    def note(module):
        compiled.append(module)

    monkeypatch.setattr(nn.Module, "compile", note)
    *_, last = start(make_recipe(compile=wanted))
    assert compiled == [last.model.backbone] * wanted


def test_compile_in_a_process_that_has_compiled_many(start, make_recipe, monkeypatch):
    """The tenth training of a process is compiled like its first, also where all models are of one class."""
    compiled = []

    class Perceptron(nn.Module):
        def __init__(self, classes, side, width):
            super().__init__()
            self.hidden, self.head = nn.Linear(3 * side * side, width), nn.Linear(width, classes)

        def forward(self, images):
            return self.head(self.hidden(images.flatten(1)).relu())

    def note(graph, _):
        compiled[-1] += 1
        return graph.forward

    def compile_to_note(module):
        module._compiled_call_impl = torch.compile(module._call_impl, backend=note)

    monkeypatch.setattr(nn.Module, "compile", compile_to_note)
    for width in range(10, 20):
        compiled.append(0)
        own = Extensions(backbones={"perceptron": lambda classes, side, width=width: Perceptron(classes, side, width)})
        list(start(make_recipe(backbone="perceptron", compile=True, epochs=1), extensions=own))
    assert compiled == [compiled[0]] * 10
    assert compiled[0] > 0


@pytest.mark.parametrize("resize", ["stretch", "crop", "pad"])
def test_random_resized_crops_train_and_validation_sees_whole_images(resize, oblong, start, make_recipe):
    """Crops are cut from all of a picture, half as large again; validation sees images as the recipe resizes them."""
    seen = []

    def watched(classes, shape):
        model = nn.Sequential(nn.Flatten(), nn.Linear(3 * math.prod(shape), classes))
        model.register_forward_pre_hook(lambda module, given: seen.append((module.training, given[0].shape)))
        return model

    recipe = make_recipe(
        backbone="watched", image_size="12x20", augment="random_resized_crop", resize=resize, epochs=1, pretrained=False
    )
    [epoch] = start(recipe, data=oblong, extensions=Extensions(backbones={"watched": watched}))
    assert {shape[2:] for _, shape in seen} == {(12, 20)}
    kept = {(reading.size, reading.resize) for reading in oblong._pixels}
    assert {("18x30", "stretch"), ("12x20", resize)} <= kept
    assert epoch.validation.macro_f1 >= 0
    pixels = torch.from_numpy(oblong.pixels(Reading("12x20", resize=resize))[oblong.split.valid])
    assert torch.equal(epoch.model(pixels).softmax(1), epoch.validation.probabilities)


def test_larger_images(colours, start, make_recipe):
    """The recipe's image size is the side that the model sees."""
    sides = []

    def watched(classes, side):
        sides.append(side)
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes))

    list(start(make_recipe(backbone="watched", image_size=24), extensions=Extensions(backbones={"watched": watched})))
    assert sides == [24]
    assert colours.pixels(Reading(24)).shape == (72, 24, 24, 3)


def test_an_odd_number_of_images_in_batches_of_two(start, colours, make_recipe):
    """Batch norm on a map of one pixel, which cannot take one image, is never given one."""
    recipe = make_recipe(backbone="test_resnet", image_size=32, batch_size=2, epochs=1)
    [epoch] = start(recipe, train=colours.split.train[:5])
    assert epoch.validation.macro_f1 >= 0
