"""The objective alone, with a plain Optuna study in memory: no hpo, no storage, no database."""

import optuna

from trainer.data import load_data
from trainer.objective import objective
from trainer.space import Space

data = load_data("photos")
space = Space({"backbone": "resnet18.a1_in1k", "image_size": 160, "epochs": 10})  # with its pretrained weights
study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
study.enqueue_trial(space.default_parameters())  # the default recipe comes first, as in `hpo search`
study.optimize(lambda trial: objective(trial, space, data), n_trials=20)
print(study.best_value, study.best_params)
