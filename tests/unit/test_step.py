"""One step of a training: the gradient of the whole batch, whatever fits into memory at once."""

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from trainer.errors import NonFiniteLossError, OutOfDeviceMemoryError
from trainer.extensions import Extensions
from trainer.losses import make_loss
from trainer.recipe import LOSSES, Recipe
from trainer.session import Session
from trainer.step import MicroBatch

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
BATCH, CLASSES, SIDE = 11, 3, 6  # a batch that no number of chunks divides evenly


class Model(nn.Module):
    """Images as they come -> logits, by one hidden layer without batch norm; counts how many images it sees at once."""

    def __init__(self, *layers):
        super().__init__()
        hidden = 3 * SIDE * SIDE
        self.backbone = nn.Sequential(
            nn.Flatten(), nn.Linear(hidden, 16), nn.GELU(), *layers, nn.Linear(16, CLASSES)
        ).double()
        self.seen = []

    def forward(self, images):
        """Images uint8 [batch, side, side, 3] -> logits."""
        self.seen.append(len(images))
        return self.backbone(images.permute(0, 3, 1, 2).double() / 255 - 0.5)


def _recipe(**changes):
    steady = {"learning_rate": 0.05, "schedule": "constant", "warmup": 0.0}
    return Recipe(**({"batch_size": BATCH, "image_size": 8, "backbone": "mine"} | steady | changes))


def _batch(number=0):
    torch.manual_seed(number)
    images = torch.randint(0, 256, (BATCH, SIDE, SIDE, 3), dtype=torch.uint8)
    return images, torch.arange(BATCH) % CLASSES


def _training(recipe, micro_batch, *layers, loss=None, model=None):
    torch.manual_seed(5)
    model = model or Model(*layers)
    loss = loss or make_loss(recipe, torch.arange(BATCH) % CLASSES, CLASSES, Extensions())
    session = Session(recipe, model, loss, micro_batch=micro_batch, device=CPU, steps_an_epoch=9)
    return model, session.optimizer, session


def _weights(model):
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def _gradients(model):
    return torch.cat([weight.grad.flatten() for weight in model.parameters()])


@pytest.mark.parametrize("mixing", ["none", "mixup", "cutmix"])
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1, 4, 10])
def test_chunks_give_the_gradient_of_the_whole_batch(loss, size, mixing):
    """Whatever the loss and however small the chunks, the gradient is that of the whole batch to 1e-6."""
    recipe = _recipe(loss=loss, mixing=mixing, class_weights="balanced")
    whole, _, session = _training(recipe, MicroBatch(BATCH))
    loss_of_whole = session.step(*_batch())
    chunked, _, session = _training(recipe, MicroBatch(size))
    loss_of_chunks = session.step(*_batch())
    assert max(chunked.seen) <= size
    torch.testing.assert_close(_gradients(chunked), _gradients(whole), rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(loss_of_chunks, loss_of_whole, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(_weights(chunked), _weights(whole), rtol=1e-5, atol=1e-5)


def test_a_loss_of_ones_own_gets_the_whole_batch():
    """A function of one's own sees the logits of all images of a batch, also where they went through in chunks."""
    seen = []

    def own(logits, labels, partners=None):
        seen.append(len(logits))
        return (logits.softmax(dim=1).mean(dim=0) ** 2).sum() + cross_entropy(logits, labels)

    _, _, session = _training(_recipe(), MicroBatch(4), loss=own)
    session.step(*_batch())
    assert seen == [BATCH]


class OutOfMemory(nn.Module):
    """A layer that has no memory for more than `room` images, forward or backward; `tried` says how often."""

    def __init__(self, room, where):
        super().__init__()
        self.room, self.where, self.tried = room, where, 0

    def forward(self, features):
        """The features as they are, where there is memory."""
        if self.where == "forward":
            self._ask(len(features))
        elif features.requires_grad:
            features.register_hook(lambda slope: self._ask(len(slope)))
        return features

    def _ask(self, images):
        if images > self.room:
            self.tried += 1
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("where", ["forward", "backward"])
def test_where_memory_runs_out_the_same_step_goes_on_in_halves(where, optimizer):
    """Out of memory, forward or backward, halves the micro-batch until it fits; training goes on as if nothing was."""
    recipe = _recipe(optimizer=optimizer)
    whole, _, session = _training(recipe, MicroBatch(BATCH))
    for number in range(4):
        session.step(*_batch(number))

    layer, halved = OutOfMemory(3, where), []
    chunked, _, session = _training(recipe, MicroBatch(BATCH, halved.append), layer)
    for number in range(4):
        session.step(*_batch(number))
    assert halved == [6, 3]
    assert layer.tried == 2  # what was learned holds for the steps that follow
    torch.testing.assert_close(_weights(chunked), _weights(whole), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(("at", "some_weights_first"), [(1, False), (1, True), (3, False)])
def test_where_memory_runs_out_in_the_update_it_is_made_once(at, some_weights_first, monkeypatch):
    """Out of memory in the update, in the first step also when some weights have moved, loses and doubles nothing."""
    recipe = _recipe(weight_decay=0.1)
    whole, _, session = _training(recipe, MicroBatch(BATCH))
    for number in range(4):
        session.step(*_batch(number))

    hit, optimizer, session = _training(recipe, MicroBatch(BATCH))
    update, calls = optimizer.step, []

    def step():
        calls.append(1)
        if len(calls) == at:
            if some_weights_first:
                groups, optimizer.param_groups = optimizer.param_groups, optimizer.param_groups[:1]
                update()
                optimizer.param_groups = groups
            raise torch.OutOfMemoryError
        update()

    step._wrapped_by_lr_sched = True  # the schedule counts the calls of `update`, and would warn of this function
    monkeypatch.setattr(optimizer, "step", step)
    for number in range(4):
        session.step(*_batch(number))
    assert len(calls) == 5
    torch.testing.assert_close(_weights(hit), _weights(whole), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("says", ["CUDA error: out of memory", "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"])
def test_libraries_without_memory(says):
    """Where a library of CUDA finds no memory, it is as where torch does; any other error comes out as it is."""
    sizes = []

    def work(size):
        sizes.append(size)
        if size > 3:
            raise RuntimeError(says)
        raise RuntimeError("the shapes do not fit")

    with pytest.raises(RuntimeError, match="the shapes do not fit"):
        MicroBatch(8).run(work, 8)
    assert sizes == [8, 4, 2]


def test_halving_begins_with_the_images_that_there_are():
    """Where a batch has fewer images than the size allows, their number is halved: no attempt is the same again."""
    sizes, micro_batch = [], MicroBatch(64)

    def work(size):
        sizes.append(size)
        if size > 2:
            raise torch.OutOfMemoryError

    micro_batch.run(work, 6)
    assert (sizes, micro_batch.size) == ([64, 3, 2], 2)


def test_no_memory_for_a_single_image():
    """Where not even one image fits, the training ends with one line that says what to do."""
    _, _, session = _training(_recipe(), MicroBatch(BATCH), OutOfMemory(0, "forward"))
    with pytest.raises(OutOfDeviceMemoryError, match=r"smaller image_size or backbone.*Tried to allocate"):
        session.step(*_batch())


def test_dropout_draws_the_same_in_both_passes():
    """The two passes over a chunk drop the same features, so that the gradient belongs to the logits of the loss."""
    recipe = _recipe()
    model, _, session = _training(recipe, MicroBatch(4), nn.Dropout(0.5))
    drawn = []
    model.backbone[3].register_forward_hook(lambda _, __, dropped: drawn.append(dropped.detach() == 0))
    session.step(*_batch())
    first, second = drawn[:3], drawn[3:]
    assert all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
    assert not torch.equal(first[0], first[1])


def test_batch_norm_counts_each_chunk_once():
    """The running statistics of batch norm take in each chunk once, though it goes through the model twice."""
    model, _, session = _training(_recipe(), MicroBatch(6), nn.BatchNorm1d(16).double())
    inputs = []
    norm = model.backbone[3]
    norm.register_forward_pre_hook(lambda _, given: inputs.append(given[0].detach()))
    session.step(*_batch())
    expected = torch.zeros(16, dtype=torch.float64)
    for chunk in inputs[:2]:
        expected = 0.9 * expected + 0.1 * chunk.mean(dim=0)
    torch.testing.assert_close(norm.running_mean, expected)
    assert norm.momentum == 0.1


def test_a_loss_that_is_not_finite_ends_the_training_at_once():
    """A loss of NaN ends the training in the very step, with a line that says what may help."""
    batches = iter([1.0, float("nan"), 1.0])

    def loss(logits, labels, partners=None):
        return logits.sum() * next(batches)

    _, _, session = _training(_recipe(), MicroBatch(BATCH), loss=loss)
    session.step(*_batch())
    with pytest.raises(NonFiniteLossError, match=r"loss is nan.*learning_rate"):
        session.step(*_batch())


def test_clipping():
    """No gradient is longer than clip_norm, and a shorter one stays as it is."""
    free, _, session = _training(_recipe(), MicroBatch(BATCH))
    session.step(*_batch())
    length = _gradients(free).norm()
    for limit, expected in ((length / 2, length / 2), (2 * length, length)):
        clipped, _, session = _training(_recipe(clip_norm=limit.item()), MicroBatch(BATCH))
        session.step(*_batch())
        torch.testing.assert_close(_gradients(clipped).norm(), expected, rtol=1e-4, atol=0)
