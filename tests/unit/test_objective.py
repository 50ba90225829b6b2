"""The objective: a trial from the search space to its score, in a study of plain Optuna."""

import dataclasses
import itertools
import json
import os
import subprocess
import sys
import textwrap
from contextlib import suppress

import numpy as np
import optuna
import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import nn

from trainer.checkpoint import decode, encode
from trainer.data import Data
from trainer.errors import CheckpointError, NonFiniteLossError, RecipeError
from trainer.extensions import Extensions
from trainer.images.pixels import Reading
from trainer.metrics import confusion_matrix, macro_f1
from trainer.model.backbones import build_model, load_weights
from trainer.objective import objective
from trainer.observer import SilentObserver
from trainer.resources import Resources
from trainer.space import Space, suggest
from trainer.step import MicroBatch
from trainer.validation import probabilities_of

pytestmark = [pytest.mark.unit, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
ON_CPU = Resources(CPU)


@pytest.fixture
def space(extensions):
    """Four quick epochs, with two models, a range and two policies to search."""
    return Space(
        {
            "backbone": ["linear", "dropout"],
            "pretrained": False,
            "image_size": 16,
            "epochs": 4,
            "batch_size": 8,
            "learning_rate": {"low": 1e-5, "high": 1e-3, "log": True},
            "augment": ["none", "flip"],
        },
        extensions,
    )


def _study(pruner=None):
    sampler = optuna.samplers.RandomSampler(seed=5)
    return optuna.create_study(direction="maximize", sampler=sampler, pruner=pruner or optuna.pruners.NopPruner())


def _observer(**methods):
    """An observer with these methods; the others do nothing."""
    observer = SilentObserver()
    vars(observer).update(methods)
    return observer


NOTEBOOK = """
    import sys
    import optuna
    from torch import nn
    from trainer.data import load_data
    from trainer.objective import objective
    from trainer.extensions import Extensions
    from trainer.space import Space

    data = load_data(sys.argv[1], valid=0.25, test=0.25)
    def mine(classes, side):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side**2, classes))

    own = Extensions(backbones={"mine": mine})
    space = Space({"backbone": "mine", "pretrained": False, "image_size": 16, "epochs": 3}, own)
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    study.optimize(lambda trial: objective(trial, space, data), n_trials=6)
    print(study.best_value)

    assert all(trial.state.is_finished() for trial in study.trials)
    assert not {"hpo", "storage", "psycopg2"} & sys.modules.keys()
"""


def test_notebook(colours):
    """Ten lines of a notebook search with plain Optuna and its pruner, without the command line and its database."""
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(NOTEBOOK), str(colours.index.root)]
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | {"OMP_NUM_THREADS": "1"}
    )
    assert done.returncode == 0, done.stderr
    assert 0 < float(done.stdout) <= 1


def test_value(colours, space):
    """The value is the best macro-F1 of the epochs, all of which are reported, and `best_epoch` says which it was."""
    study = _study()
    study.optimize(lambda trial: objective(trial, space, colours, resources=ON_CPU), n_trials=5)
    assert len({trial.value for trial in study.trials}) > 1
    for trial in study.trials:
        assert list(trial.intermediate_values) == [1, 2, 3, 4]
        assert trial.value == max(trial.intermediate_values.values())
        first_best = min(e for e, score in trial.intermediate_values.items() if score == trial.value)
        assert trial.user_attrs["best_epoch"] == first_best


def test_metrics(colours, space, tmp_path):
    """Of each trial, a pruned one too, all metrics of its best epoch are kept, as numbers that JSON can hold."""
    study = _study()
    states = []
    for number in range(4):
        if number == 2:
            study.pruner = optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=2)
        trial, file, epochs = study.ask(), tmp_path / f"{number}.safetensors", []
        try:
            study.tell(
                trial,
                objective(
                    trial,
                    space,
                    colours,
                    resources=ON_CPU,
                    best_weights=file,
                    observer=_observer(on_epoch=epochs.append),
                ),
            )
        except optuna.TrialPruned:
            study.tell(trial, state=optuna.trial.TrialState.PRUNED)
        ended = study.trials[number]
        states.append(ended.state.name)
        kept = json.loads(json.dumps(ended.user_attrs["metrics"]))
        best = epochs[ended.user_attrs["best_epoch"] - 1]
        truth = colours.index.labels[colours.split.valid]
        assert kept["macro_f1"] == best.validation.macro_f1 == max(epoch.validation.macro_f1 for epoch in epochs)
        assert kept["macro_roc_auc"] == pytest.approx(
            roc_auc_score(truth, best.validation.probabilities, multi_class="ovr")
        )
        assert set(kept["per_class"]) == {"red", "green", "blue"}
        assert set(kept["per_class"]["red"]) == {
            "f1",
            "precision",
            "recall",
            "roc_auc",
            "average_precision",
            "images",
        }
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "PRUNED"]


class SmallMemory(nn.Module):
    """A layer that has no memory for more than two images that are to be learned from."""

    def forward(self, features):
        """The features as they are."""
        if features.requires_grad and len(features) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return features


def test_what_fits_into_memory_is_remembered(colours, space):
    """What a trial has learned of the memory is where the next one of this backbone, size and device begins."""

    def small(classes, side):
        return nn.Sequential(nn.Flatten(), nn.Linear(3 * side * side, classes), SmallMemory())

    own = Extensions(backbones={"small": small})
    fields = {"backbone": "small", "image_size": 16, "epochs": 1, "batch_size": 8, "pretrained": False}
    memory = {}
    objective(_study().ask(), Space(fields, own), colours, resources=Resources(CPU, micro_batches=memory))
    assert memory == {"small, 16 px, cpu": 2}

    class Kept(dict):
        def __setitem__(self, key, value):
            raise AssertionError("memory has run out again")

    objective(_study().ask(), Space(fields, own), colours, resources=Resources(CPU, micro_batches=Kept(memory)))


def test_best_weights(colours, space, tmp_path):
    """The file of the best weights gives the trial's value again."""
    study = _study()
    for number in range(6):
        trial = study.ask()
        file = tmp_path / f"{number}.safetensors"
        value = objective(trial, space, colours, resources=ON_CPU, best_weights=file)
        recipe = suggest(optuna.trial.FixedTrial(trial.params), space)
        model = build_model(recipe, 3, space.extensions, pretrained=False)
        load_weights(model, file)
        valid = colours.split.valid
        probabilities = probabilities_of(model.eval(), colours.pixels(Reading(16)), valid, CPU, MicroBatch(5))
        truth = torch.from_numpy(colours.index.labels[valid])
        assert macro_f1(confusion_matrix(truth, probabilities.argmax(dim=1), 3)) == value
        study.tell(trial, value)
    assert any(trial.user_attrs["best_epoch"] < 4 for trial in study.trials)


def test_repeated_trial(colours, space):
    """A trial with the parameters of another has its value."""
    study = _study()
    trial = study.ask()
    value = objective(trial, space, colours, resources=ON_CPU)
    assert objective(optuna.trial.FixedTrial(trial.params), space, colours, resources=ON_CPU) == value


def test_pruned(colours, space, tmp_path):
    """A pruner that wants no more of a trial ends it after the epoch that it has judged; its best weights are kept."""
    study = _study(optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=2))
    trial, steps = study.ask(), []
    with pytest.raises(optuna.TrialPruned):
        objective(
            trial,
            space,
            colours,
            resources=ON_CPU,
            best_weights=tmp_path / "best.safetensors",
            observer=_observer(on_step=lambda _: steps.append(1)),
        )
    assert list(study.trials[0].intermediate_values) == [1, 2]
    assert len(steps) == 2 * (5 + 3)
    assert (tmp_path / "best.safetensors").stat().st_size > 0


def test_last_epoch_is_not_pruned(colours, space):
    """After the last epoch there is nothing to save: the trial is complete, whatever the pruner says."""
    study = _study(optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=4))
    value = objective(study.ask(), space, colours, resources=ON_CPU)
    assert 0 < value <= 1


def test_on_epoch(colours, space):
    """`on_epoch` sees each epoch before it is reported."""
    study, seen = _study(), []
    trial = study.ask()

    def watch(epoch):
        seen.append((epoch.number, list(study.trials[0].intermediate_values), epoch.validation.macro_f1))

    value = objective(trial, space, colours, resources=ON_CPU, observer=_observer(on_epoch=watch))
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    assert [reported for _, reported, _ in seen] == [[], [1], [1, 2], [1, 2, 3]]
    assert max(score for _, _, score in seen) == value


def test_on_step(colours, space):
    """What `on_step` raises ends the trial."""

    def stop(_):
        raise InterruptedError("the disk is full")

    with pytest.raises(InterruptedError, match="the disk is full"):
        objective(_study().ask(), space, colours, resources=ON_CPU, observer=_observer(on_step=stop))


def _whole(space, data, file):
    """A trial that nothing interrupts: its parameters, what it ends with, and the checkpoints of its epochs."""
    study, checkpoints = _study(), []
    trial = study.ask()

    def on_epoch(epoch):
        checkpoints.append(epoch.capture())

    value = objective(trial, space, data, resources=ON_CPU, best_weights=file, observer=_observer(on_epoch=on_epoch))
    ended = study.trials[0]
    return ended.params, (value, ended.intermediate_values, ended.user_attrs, file.read_bytes()), checkpoints


def _resumed(space, data, params, checkpoint, file):
    """A new trial that has the values of the earlier one goes on from its checkpoint: what it ends with."""
    study = _study()
    study.enqueue_trial(params)
    trial = study.ask()
    for step, score in enumerate(checkpoint.history, start=1):
        trial.report(score, step)
    seen, weights = [], file.with_suffix(".safetensors")
    value = objective(
        trial,
        space,
        data,
        resources=ON_CPU,
        best_weights=weights,
        resume=decode(encode(checkpoint)),
        observer=_observer(on_epoch=lambda epoch: seen.append((epoch.number, epoch.capture()))),
    )
    assert [number for number, _ in seen] == list(range(checkpoint.epochs_done + 1, 5))
    ended = study.trials[0]
    return (value, ended.intermediate_values, ended.user_attrs, weights.read_bytes()), [last for _, last in seen]


def _results_of(study, space, data, **options):
    """What a trial came to as it ended, its epochs, and the trial."""
    results, epochs, trial = [], [], study.ask()
    with suppress(optuna.TrialPruned):
        objective(
            trial,
            space,
            data,
            resources=ON_CPU,
            observer=_observer(on_epoch=epochs.append, on_end=results.append),
            **options,
        )
    return results, epochs, study.trials[-1]


@pytest.mark.parametrize("epochs", [2, 4])
def test_on_end(epochs, colours, space):
    """`on_end` is called once, with all epochs and what the best one predicted, also where the trial is pruned."""
    study = _study(optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=epochs))
    [result], seen, trial = _results_of(study, space, colours)
    assert result.recipe == suggest(optuna.trial.FixedTrial(trial.params), space)
    assert result.history == list(trial.intermediate_values.values())
    assert result.train_losses == [epoch.train_loss for epoch in seen]
    assert len(result.history) == len(result.train_losses) == epochs
    assert result.best_epoch == trial.user_attrs["best_epoch"]
    best = seen[result.best_epoch - 1]
    assert torch.equal(result.confusion, best.validation.confusion)
    assert torch.equal(result.probabilities, best.validation.probabilities)


def test_on_end_of_a_resumed_trial(colours, space):
    """What a trial came to that went on holds the epochs before, whose losses an older checkpoint did not keep."""
    checkpoints = []
    [whole], _, trial = _results_of(_study(), space, colours)
    recipe = optuna.trial.FixedTrial(trial.params)
    objective(
        recipe,
        space,
        colours,
        resources=ON_CPU,
        observer=_observer(on_epoch=lambda epoch: checkpoints.append(epoch.capture())),
    )
    for checkpoint in checkpoints:
        study = _study()
        study.enqueue_trial(trial.params)
        [result], seen, _ = _results_of(study, space, colours, resume=decode(encode(checkpoint)))
        assert len(seen) == 4 - checkpoint.epochs_done
        assert (result.history, result.train_losses) == (whole.history, whole.train_losses)
        assert result.best_epoch == whole.best_epoch
        assert torch.equal(result.probabilities, whole.probabilities)
    values = {key: value for key, value in checkpoints[1].values.items() if key != "train_losses"}
    older = decode(encode(dataclasses.replace(checkpoints[1], values=values)))
    study = _study()
    study.enqueue_trial(trial.params)
    [result], _, _ = _results_of(study, space, colours, resume=older)
    assert np.isnan(result.train_losses).tolist() == [True, True, False, False]
    assert result.train_losses[2:] == whole.train_losses[2:]


class StoppedError(Exception):
    """The trial is to stop here."""


@pytest.mark.parametrize("rate", [0.0003, 0.05])
def test_resumed(rate, colours, space, tmp_path):
    """A trial that stopped after any batch goes on in another one to the same value, metrics and best weights."""
    space = Space({**space.fields, "learning_rate": rate}, space.extensions)
    params, whole, checkpoints = _whole(space, colours, tmp_path / "whole.safetensors")
    for at in range(1, 4 * (5 + 3) + 1, 3):
        batches = itertools.count(1)

        def on_step(capture, at=at, batches=batches):
            if next(batches) == at:
                raise StoppedError(capture())

        with pytest.raises(StoppedError) as stopped:
            objective(
                optuna.trial.FixedTrial(params), space, colours, resources=ON_CPU, observer=_observer(on_step=on_step)
            )
        ended, captured = _resumed(space, colours, params, stopped.value.args[0], tmp_path / "checkpoint")
        assert ended == whole
        for checkpoint, uninterrupted in zip(reversed(captured), reversed(checkpoints), strict=False):
            assert checkpoint.tensors.keys() == uninterrupted.tensors.keys()
            assert all(torch.equal(value, uninterrupted.tensors[name]) for name, value in checkpoint.tensors.items())


def test_resumed_between_epochs(colours, space, tmp_path):
    """A trial goes on after any epoch, its best one among them, and has nothing left to train after the last one."""
    space = Space({**space.fields, "learning_rate": 0.05}, space.extensions)
    params, whole, checkpoints = _whole(space, colours, tmp_path / "whole.safetensors")
    assert whole[2]["best_epoch"] < 4
    for checkpoint in checkpoints:
        assert checkpoint.history == list(whole[1].values())[: checkpoint.epochs_done]
        assert _resumed(space, colours, params, checkpoint, tmp_path / "checkpoint")[0] == whole


def test_second_chance(colours, space, tmp_path):
    """A pruned trial can go on in another one that is not pruned."""
    study, checkpoints = _study(optuna.pruners.ThresholdPruner(lower=1.1, n_warmup_steps=2)), []
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned):
        objective(
            trial,
            space,
            colours,
            resources=ON_CPU,
            observer=_observer(on_epoch=lambda epoch: checkpoints.append(epoch.capture())),
        )
    params, whole, _ = _whole(space, colours, tmp_path / "whole.safetensors")
    assert params == trial.params
    assert _resumed(space, colours, params, checkpoints[-1], tmp_path / "checkpoint")[0] == whole


def test_resumed_from_another_recipe(colours, space, tmp_path):
    """A checkpoint of other parameters is refused, and the trial reports nothing."""
    params, _, checkpoints = _whole(space, colours, tmp_path / "whole.safetensors")
    study = _study()
    study.enqueue_trial({**params, "augment": "flip" if params["augment"] == "none" else "none"})
    with pytest.raises(CheckpointError, match=r"of another recipe \(augment was "):
        objective(study.ask(), space, colours, resources=ON_CPU, resume=checkpoints[0])
    assert study.trials[0].intermediate_values == {}


def test_own_functions(colours, extensions):
    """The space's own functions reach the training, and its failures come out as they are."""
    own = Extensions(backbones=extensions.backbones, losses={"broken": lambda logits, _: logits.sum() * float("nan")})
    fields = {"backbone": "linear", "image_size": 16, "epochs": 1, "loss": "broken", "augment": "none"}
    with pytest.raises(NonFiniteLossError):
        objective(_study().ask(), Space(fields, own), colours, resources=ON_CPU)


def _changed(data, side):
    """The data with other pixels and other labels on one side."""
    pixels, labels = data.pixels(Reading(16)).copy(), data.index.labels.copy()
    pixels[side] = 255 - pixels[side]
    labels[side] = (labels[side] + 1) % 3
    changed = Data(dataclasses.replace(data.index, labels=labels), data.split, None)
    changed._pixels[16, "bicubic"] = pixels
    return changed


def test_test_side_is_never_looked_at(colours, space, tmp_path):
    """Other pixels and labels on the test side change nothing in a trial; on the other sides they do."""
    results = {}
    for name, side in {"same": np.array([], np.int64), **vars(colours.split)}.items():
        if name == "digest":
            continue
        study = _study()
        trial = study.ask()
        file = tmp_path / f"{name}.safetensors"
        objective(trial, space, _changed(colours, side), resources=ON_CPU, best_weights=file)
        results[name] = (study.trials[0].intermediate_values, study.trials[0].user_attrs, file.read_bytes())
    assert results["test"] == results["same"]
    assert results["valid"][0] != results["same"][0]
    assert results["train"][2] != results["same"][2]


def test_a_new_trial_does_not_learn_from_a_part_of_the_pixels(colours):
    """A size of which the backbone would leave pixels out ends the trial with the sizes that do; nothing is trained."""
    fields = {"backbone": "test_convnext", "pretrained": False, "image_size": 33, "epochs": 1, "batch_size": 8}
    with pytest.raises(RecipeError, match="sees only 32 x 32 pixels where image_size = 33; take 32 or 64"):
        objective(_study().ask(), Space(fields), colours, resources=ON_CPU)


def test_a_trial_of_an_earlier_version_goes_on_at_any_size(colours, tmp_path, monkeypatch):
    """One that began when pixels could be left out goes on from its checkpoint, to the same end."""
    fields = {"backbone": "test_convnext", "pretrained": False, "image_size": 33, "epochs": 4, "batch_size": 18}
    space = Space(fields | {"learning_rate": {"low": 1e-5, "high": 1e-3, "log": True}})
    with monkeypatch.context() as earlier:
        earlier.setattr("trainer.objective.training_problem", lambda _: None)
        params, whole, checkpoints = _whole(space, colours, tmp_path / "whole")
    assert _resumed(space, colours, params, checkpoints[1], tmp_path / "resumed")[0] == whole
