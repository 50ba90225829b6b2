"""Checkpoints: a training that stops between any two steps goes on to the same end, bit for bit; whole files."""

import dataclasses
import math
from contextlib import closing
from functools import partial
from itertools import count

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from trainer.checkpoint import Checkpoint, decode, encode
from trainer.errors import CheckpointError
from trainer.extensions import Extensions
from trainer.loaders import Loaders
from trainer.recipe import recipe_from

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
STEPS, BATCHES = 5, 3  # of an epoch over `colours` in batches of 8: to train, to validate


class StoppedError(Exception):
    """The training is to stop here."""


def _say(epoch):
    """All that an epoch says and leaves behind, its times apart."""
    valid = epoch.validation
    scores = (valid.macro_f1, valid.accuracy) if valid else (None, None)
    facts = (epoch.number, epoch.epochs, epoch.train_loss, epoch.learning_rate, *scores)
    tensors = {name: value.clone() for name, value in epoch.model.state_dict().items()}
    if valid:
        tensors |= {"confusion": valid.confusion, "probabilities": valid.probabilities}
    return facts, tensors, epoch.capture()


def _assert_same(epoch, other):
    (facts, tensors, checkpoint), (other_facts, other_tensors, other_checkpoint) = epoch, other
    assert facts == other_facts
    _assert_equal_tensors(tensors, other_tensors)
    _assert_same_checkpoint(checkpoint, other_checkpoint)


def _assert_same_checkpoint(checkpoint, other):
    for name in ("epochs_done", "steps_done", "threads", "history", "values"):
        assert getattr(checkpoint, name) == getattr(other, name)
    _assert_equal_tensors(checkpoint.tensors, other.tensors)


def _assert_equal_tensors(tensors, others):
    assert tensors.keys() == others.keys()
    assert all(tensors[name].dtype == others[name].dtype for name in tensors)
    assert [name for name in tensors if not torch.equal(tensors[name], others[name])] == []


def _stopped(start, recipe, at, **changes):
    """The epochs of a training that stops at its `at`-th batch, 1 for the first, and its checkpoint there."""
    batches, epochs, checkpoints = count(1), [], []

    def on_step(capture):
        if next(batches) == at:
            checkpoints.append(capture())
            raise StoppedError

    with pytest.raises(StoppedError):
        epochs.extend(_say(epoch) for epoch in start(recipe, on_step=on_step, **changes))
    return epochs, checkpoints[0]


def _at_once(recipe, images):
    """What is known of the memory: so many images of this recipe go through the model at once."""
    return {f"{recipe.backbone}, {recipe.image_size} px, cpu": images}


def _after_file(checkpoint):
    return decode(encode(checkpoint))


LINEAR = [
    {"optimizer": "sgd", "schedule": "step", "warmup": 0.3},
    {"optimizer": "adamw", "schedule": "cosine", "ema": True, "sampler": "balanced", "augment": "heavy"},
    {"optimizer": "sgd", "schedule": "constant", "loss": "soft_f1", "warmup": 0.0},
    {"optimizer": "adamw", "schedule": "one_cycle", "mixing": "both", "mix_probability": 0.7, "clip_norm": 0.1},
    {"optimizer": "sgd", "schedule": "one_cycle", "ema": True},
    {"optimizer": "adamw", "schedule": "plateau", "warmup": 0.4},
]


@pytest.mark.parametrize("changes", LINEAR, ids=lambda changes: f"{changes['optimizer']}-{changes['schedule']}")
def test_any_batch(changes, start, make_recipe):
    """Stopped after any batch, of training or of validation, a training goes on to the same end, bit for bit."""
    recipe = make_recipe(**{"backbone": "dropout", "learning_rate": 0.01, "seed": 2, **changes})
    whole = [_say(epoch) for epoch in start(recipe)]
    for at in range(1, recipe.epochs * (STEPS + BATCHES) + 1):
        before, checkpoint = _stopped(start, recipe, at)
        epoch, batch = divmod(at - 1, STEPS + BATCHES)
        assert (checkpoint.epochs_done, checkpoint.steps_done) == (epoch, min(batch + 1, STEPS))
        checkpoint = _after_file(checkpoint)
        after = [_say(epoch) for epoch in start(recipe, resume=checkpoint)]
        assert len(before) + len(after) == len(whole)
        for resumed, uninterrupted in zip(before + after, whole, strict=True):
            _assert_same(resumed, uninterrupted)


MODELS = [
    {"backbone": "test_resnet", "optimizer": "sgd", "schedule": "one_cycle", "mixing": "mixup", "clip_norm": 1.0},
    {"backbone": "test_resnet", "loss": "arcface", "pooling": "gem", "ema": True, "augment": "randaugment"},
    {"backbone": "test_vit", "dropout": 0.2, "drop_path": 0.3, "mixing": "cutmix", "ema": True, "schedule": "cosine"},
    {"backbone": "test_efficientnet", "drop_path": 0.3, "loss": "focal", "sampler": "balanced"},
    {"backbone": "test_resnet", "pretrained": True, "freeze": 0.5, "layer_decay": 0.7, "schedule": "plateau"},
]


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder with weights of test_resnet for 1,000 classes."""
    folder = tmp_path_factory.mktemp("published")
    save_file(timm.create_model("test_resnet").state_dict(), folder / "test_resnet.safetensors")
    return folder


@pytest.mark.parametrize("changes", MODELS, ids=lambda changes: "-".join(map(str, changes.values())))
@pytest.mark.parametrize("chunk", [None, 3], ids=["whole", "chunks"])
def test_models(changes, chunk, start, make_recipe, published, tmp_path):
    """So do real models with all they draw and count, whole or in chunks, without their published weights."""
    recipe = make_recipe(image_size=32, learning_rate=0.01, **changes)
    options = {"micro_batches": _at_once(recipe, chunk)} if chunk else {}
    whole = [_say(epoch) for epoch in start(recipe, weights=published, **options)]
    in_validation = STEPS + (math.ceil(18 / chunk) if chunk else BATCHES)
    for at in (2, STEPS, in_validation - 1, in_validation + 3):
        before, checkpoint = _stopped(start, recipe, at, weights=published, **options)
        checkpoint = _after_file(checkpoint)
        after = [_say(epoch) for epoch in start(recipe, resume=checkpoint, weights=tmp_path)]
        for resumed, uninterrupted in zip(before + after, whole, strict=True):
            _assert_same(resumed, uninterrupted)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_channels_last(optimizer, start, make_recipe, monkeypatch):
    """Weights that lie in memory as a GPU wants them are resumed with moments that lie alike."""
    monkeypatch.setattr("trainer.session.memory_format", lambda _: torch.channels_last)
    recipe = make_recipe(backbone="test_resnet", image_size=32, optimizer=optimizer, ema=True)
    whole = [_say(epoch) for epoch in start(recipe)]
    before, checkpoint = _stopped(start, recipe, 3)
    after = [_say(epoch) for epoch in start(recipe, resume=checkpoint)]
    for resumed, uninterrupted in zip(before + after, whole, strict=True):
        _assert_same(resumed, uninterrupted)


@pytest.mark.parametrize("schedule", ["plateau", "one_cycle"])
def test_between_epochs(schedule, start, make_recipe):
    """Stopped after any epoch, a training goes on with the next one; after the last one there is none."""
    recipe = make_recipe(schedule=schedule, epochs=9, learning_rate=0.01, optimizer="sgd", ema=True)
    whole = [_say(epoch) for epoch in start(recipe)]
    if schedule == "plateau":
        assert whole[-1][0][3] < 0.01 / 3
    for number, (_, _, checkpoint) in enumerate(whole, start=1):
        assert (checkpoint.epochs_done, checkpoint.steps_done) == (number, 0)
        assert checkpoint.history == [facts[4] for facts, _, _ in whole[:number]]
        assert checkpoint.train_losses == [facts[2] for facts, _, _ in whole[:number]]
        after = [_say(epoch) for epoch in start(recipe, resume=_after_file(checkpoint))]
        for resumed, uninterrupted in zip(after, whole[number:], strict=True):
            _assert_same(resumed, uninterrupted)


def test_many_interruptions(start, make_recipe):
    """A training that stops after every fourth batch ends as one that never stops."""
    recipe = make_recipe(backbone="dropout", ema=True, augment="light", epochs=3)
    whole = [_say(epoch) for epoch in start(recipe)]
    epochs, checkpoint, runs = [], None, 0
    while len(epochs) < len(whole):
        batches = count(1)

        def on_step(capture, batches=batches):
            if next(batches) == 4:
                raise StoppedError(capture())

        runs += 1
        try:
            epochs.extend(_say(epoch) for epoch in start(recipe, resume=checkpoint, on_step=on_step))
        except StoppedError as stopped:
            checkpoint = _after_file(stopped.args[0])
    assert runs > 6
    for resumed, uninterrupted in zip(epochs, whole, strict=True):
        _assert_same(resumed, uninterrupted)


def test_without_validation(start, make_recipe):
    """A training without validation goes on, too, with the rates of the plateau that it follows."""
    recipe = make_recipe(schedule="plateau", epochs=6, optimizer="sgd")
    options = {"valid": None, "plateau": [0.5] * 6}
    whole = [_say(epoch) for epoch in start(recipe, **options)]
    assert whole[-1][0][3] < whole[0][0][3]
    for at in (STEPS, 4 * STEPS - 2):
        before, checkpoint = _stopped(start, recipe, at, **options)
        assert checkpoint.history == []
        checkpoint = _after_file(checkpoint)
        after = [_say(epoch) for epoch in start(recipe, resume=checkpoint, **options)]
        for resumed, uninterrupted in zip(before + after, whole, strict=True):
            _assert_same(resumed, uninterrupted)


def test_loader_processes(start, make_recipe):
    """Processes that make batches ahead of a training that stops change nothing."""
    recipe = make_recipe(augment="heavy", sampler="balanced")
    whole = [_say(epoch) for epoch in start(recipe)]
    with closing(Loaders(2)) as loaders:
        for at in (3, STEPS + BATCHES + 1):
            before, checkpoint = _stopped(start, recipe, at, loaders=loaders)
            checkpoint = _after_file(checkpoint)
            after = [_say(epoch) for epoch in start(recipe, resume=checkpoint, loaders=loaders)]
            for resumed, uninterrupted in zip(before + after, whole, strict=True):
                _assert_same(resumed, uninterrupted)


def test_smaller_memory(start, make_recipe):
    """The chunks in which a batch went through the model when it stopped are those in which it goes on."""
    recipe = make_recipe(backbone="dropout")
    _, checkpoint = _stopped(start, recipe, 2, micro_batches=_at_once(recipe, 4))
    *_, last = start(recipe, resume=checkpoint, micro_batches=_at_once(recipe, 8))
    assert last.capture().values["steps"]["micro_batch"] == 4


@pytest.mark.parametrize("at", [1, 7, 8, 9, 26])
@pytest.mark.parametrize("schedule", ["one_cycle", "cosine"])
def test_batches_of_one_of_an_earlier_version(at, schedule, start, colours, make_recipe, monkeypatch):
    """A training that had batches of one, as 15 images in batches of 2 gave, goes on to its end without."""
    recipe = make_recipe(backbone="dropout", batch_size=2, schedule=schedule)
    begin = partial(start, train=colours.split.train[:15])
    with monkeypatch.context() as earlier:
        earlier.setattr("trainer.loaders._leaves_one", lambda *_: False)
        _, checkpoint = _stopped(begin, recipe, at)
    *_, last = begin(recipe, resume=_after_file(checkpoint))
    assert last.number == recipe.epochs
    assert last.capture().values["steps"]["micro_batch"] == 3


@pytest.mark.parametrize("at", [1, 7, 8, 13, 20])
def test_a_batch_of_three_in_place_of_one(at, start, colours, make_recipe):
    """Where batches of two leave one image over, a training also goes on to the same end, bit for bit."""
    recipe = make_recipe(backbone="dropout", batch_size=2)
    begin = partial(start, train=colours.split.train[:15])
    *_, whole = map(_say, begin(recipe))
    _, checkpoint = _stopped(begin, recipe, at)
    *_, resumed = map(_say, begin(recipe, resume=_after_file(checkpoint)))
    _assert_same(resumed, whole)


@pytest.mark.parametrize("at", [3, STEPS + 1])
def test_a_checkpoint_stays(at, start, make_recipe):
    """Neither the training that gave a checkpoint nor one that goes on from it changes the checkpoint."""
    recipe = make_recipe(ema=True, schedule="one_cycle")
    batches, checkpoints = count(1), []

    def on_step(capture):
        if next(batches) == at:
            checkpoints.append(capture())
            checkpoints.append(_after_file(checkpoints[0]))

    whole = [_say(epoch) for epoch in start(recipe, on_step=on_step)]
    for _ in range(2):
        _assert_same_checkpoint(*checkpoints)
        for resumed, uninterrupted in zip(start(recipe, resume=checkpoints[0]), whole, strict=True):
            _assert_same(_say(resumed), uninterrupted)


def test_threads(start, make_recipe):
    """A checkpoint knows torch's number of threads."""
    torch.set_num_threads(2)
    assert _stopped(start, make_recipe(), 1)[1].threads == 2


def test_other_recipe(start, make_recipe):
    """A checkpoint of another recipe is refused in one line that names what differs."""
    _, checkpoint = _stopped(start, make_recipe(), 1)
    message = (
        r"^the checkpoint is of another recipe \(learning_rate was 0\.001 and is 0\.5, ema was false and is true\): "
        r"begin this training anew$"
    )
    with pytest.raises(CheckpointError, match=message):
        next(start(make_recipe(learning_rate=0.5, ema=True), resume=checkpoint))


def test_other_model(start, make_recipe):
    """A checkpoint whose model has been changed since is refused in one line."""

    def deeper(classes, side):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, 5), nn.Linear(5, classes))

    _, checkpoint = _stopped(start, make_recipe(), 1)
    with pytest.raises(CheckpointError, match=r"^the checkpoint does not fit the model linear, .*: begin .* anew$"):
        next(start(make_recipe(), resume=checkpoint, extensions=Extensions(backbones={"linear": deeper})))


@pytest.fixture
def checkpoint():
    """A small one."""
    tensors = {"a.b": torch.arange(6.0).reshape(2, 3), "c": torch.tensor(7), "empty": torch.zeros(0)}
    values = {"recipe": {"backbone": "ä"}, "worst": -math.inf, "tiny": 5e-324, "third": 1 / 3, "nothing": None}
    return Checkpoint(2, 3, 4, [0.1, 1 / 3], values, tensors)


def test_file(checkpoint):
    """A checkpoint comes back from its file as it was."""
    _assert_same_checkpoint(_after_file(checkpoint), checkpoint)


@pytest.mark.parametrize("kept", [0, 1, 31, 32, 40, 200, -1])
def test_cut_short(kept, checkpoint):
    """A file that is empty or cut short is refused in one line."""
    with pytest.raises(CheckpointError, match=r"^the file is cut short or damaged$"):
        decode(encode(checkpoint)[:kept])


def test_flipped(checkpoint):
    """Whichever byte of a file is another one, the file is refused in one line."""
    whole = encode(checkpoint)
    for place in range(len(whole)):
        with pytest.raises(CheckpointError, match=r"^the file is cut short or damaged$"):
            decode(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])


def test_other_format(checkpoint, monkeypatch):
    """A file of another version of the format is refused in one line."""
    monkeypatch.setattr("trainer.checkpoint.FORMAT", "0")
    older = encode(checkpoint)
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match=r"^the file has format 0, and this version reads 1$"):
        decode(older)


def test_a_field_that_is_newer_than_the_checkpoint(checkpoint):
    """A checkpoint that does not know a field of the recipe is of a training with that field's default."""
    older = dataclasses.replace(checkpoint, values={"recipe": {"epochs": 3}})
    older.refuse_other_recipe(recipe_from({"epochs": 3}))
    with pytest.raises(CheckpointError, match=r"another recipe .compile was false and is true"):
        older.refuse_other_recipe(recipe_from({"epochs": 3, "compile": True}))
