"""The objective alone, with a plain Optuna study in memory: no hpo, no storage, no database."""

import optuna

from trainer.data import load_data
from trainer.objective import objective
from trainer.space import Space

data = load_data("photos")
space = Space({"backbone": "test_resnet", "pretrained": False, "image_size": 32, "epochs": 2, "batch_size": 8})
study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner())
study.optimize(lambda trial: objective(trial, space, data), n_trials=3)
print(study.best_value, study.best_params)
