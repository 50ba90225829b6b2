"""The keys of what a study, its trials and its files keep: who writes each, and who reads it.

Databases and stores that hold them live for months: the text of a key may never change.
"""

from __future__ import annotations

from typing import Literal, get_args

# User attributes of a study -------------------------------------------------------------------------------------------

SETTINGS_KEY = "hpo:settings"
"""What must stay as it is while the study lives. Written last when a study is made; every command compares it."""

VALUE_RANGES_KEY = "hpo:value_ranges"
"""Which values of images of more than 8 bits are black and white. Written when a study begins; read with its images."""

ID_KEY = "hpo:id"
"""What the ids of the study's files begin with, in a store that other studies may use, too. Written when it is made."""

TAKEN_OVER_KEY = "hpo:taken_over_from"
"""The old study of a new one. Written by `hpo init --from` before it takes over; read where that was broken off."""

SEARCH_KEY = "hpo:search"
"""Sampler and pruner of a study whose file names none. Written when it begins; read with it. Older ones lack it."""

TEST_USE_KEY = "hpo:test_use:"
"""Followed by anything unique: when the test images were looked at. Written and counted by `hpo export-best`."""

TEST_SCORE_KEY = "hpo:test_score:"
"""Followed by what the use of the test images is called: the score that it gave, and whether that tells little."""

CONFIRMATION_KEY = "hpo:confirmation"
"""The plan of a study that confirms another one. Written by `hpo confirm` with it; read by workers and commands."""

MICRO_BATCH_KEY = "hpo:micro_batch: "
"""Followed by backbone, image size and device: how many images fit into memory. Written and read by workers."""

SPEED_KEY = "hpo:speed: "
"""Followed by backbone, image size and device: milliseconds an image. Written by workers; read by them and reports."""

NO_RECIPE_LEFT_KEY = "hpo:no_recipe_left"
"""How many workers the study had had when one of them found no recipe to try. Written by workers; read by status."""

# System attributes of a study, beside Optuna's own --------------------------------------------------------------------

EARLIER_KEY = "hpo:learn_from"
"""What earlier studies have found. Written when a study is made or gets more of them; read by workers and status."""

# User attributes of a trial -------------------------------------------------------------------------------------------

DEFAULT_KEY = "hpo:default_recipe"
"""Marks the trial of the default recipe. Written when a study is made; read to compare the best trial with it."""

CONTROL_KEY = "trained_to_the_end"
"""Marks a trial that is never paused, to see what pausing costs. Written by workers; read by pruner, status, report."""

REPEATS_KEY = "repeats"
"""Number of the trial whose recipe this one runs again. Written by workers; read by lease, pruners, status, report."""

FIRST_RUN_KEY = "first_run"
"""Number of the very first trial of that recipe. Written by workers; read by the pruners."""

SAME_RECIPE_KEY = "same_recipe_as"
"""Number of the trial whose result this one was given. Written by workers; read by ranking, takeover, logs, report."""

RESUMED_KEY = "resumed_after_epoch"
"""The last epoch that an earlier run has done. Written by the worker that goes on; read by logs and report."""

CHECKPOINT_KEY = "checkpoint"
"""Id of the trial's last checkpoint. Written by its worker; read by the one that goes on, and by the retention."""

REASON_KEY = "reason"
"""Why a trial failed, where it was not ended from outside. Written with its end; read by `hpo logs`, notes, workers."""

ORIGIN_KEY = "taken_over_from"
"""The study and number of the trial that this one was taken over from. Written by `hpo init --from`; read by logs."""

QUEUED_KEY = "queued_by"
"""Who has queued a trial's recipe: the study file, `hpo try`, `learn_from`. Written with it; read by logs and notes."""

WAY_KEY = "proposed"
"""How the sampler `forest` has drawn the recipe: near which. Written by workers; read by the sampler, logs, notes."""

CONFIRMS_KEY = "confirms"
"""The trial whose recipe this one confirms, and the fold. Written by `hpo confirm`; read by workers and commands."""

BEST_EPOCH_KEY = "best_epoch"
"""Number of the epoch with the best score, 0 where time was over before one; without it, hpo did not train it."""

METRICS_KEY = "metrics"
"""All metrics of that epoch. Written by the objective; read by notes, report and the end of a search."""

HOST_KEY, DEVICE_KEY, THREADS_KEY = "host", "device", "threads"
"""Where a trial ran. Written by its worker; read by notes, report and, for the threads, whoever goes on with it."""

ENVIRONMENT_KEY = "environment"
"""Versions and processor that a trial ran with. Written by its worker; read by `hpo reproduce`."""

# System attributes of a trial, beside Optuna's own --------------------------------------------------------------------

MADE_KEY = "hpo:made"
"""A random text by which a call that is repeated finds the trial that it made. Written and read by the storage."""

ARTIFACT_KEY = "artifacts:"
"""Followed by the id of a file: where Optuna and optuna-dashboard look for what a trial or a study keeps."""

# Names of files that a trial keeps ------------------------------------------------------------------------------------

WEIGHTS_NAME = "weights.safetensors"
"""Weights of a complete trial's best epoch. Kept by its worker; read by export, check and takeover."""

OUT_OF_FOLD_NAME = "out_of_fold.npz"
"""What a training that confirms a study says of the images of its fold. Kept by its worker; read by check, report."""

LEARNING_CURVES, CONFUSION_MATRIX, MOST_WRONG = "learning_curves.png", "confusion_matrix.png", "most_wrong.png"
PICTURES = (LEARNING_CURVES, CONFUSION_MATRIX, MOST_WRONG)
"""Pictures of a complete or pruned trial. Kept by its worker; shown by the dashboard."""

# States ---------------------------------------------------------------------------------------------------------------

PlaceState = Literal["complete", "pruned", "failed", "paused", "running", "waiting"]
"""State of a place in the budget, in `hpo.place`: paused, running and waiting ones have not ended."""

PLACE_STATES: tuple[PlaceState, ...] = get_args(PlaceState)
"""All of them, in the order in which people are shown their numbers."""

EndState = Literal["complete", "pruned", "failed"]
"""State of a place that has ended for good."""

END_STATES: tuple[EndState, ...] = get_args(EndState)
"""All of them, in the same order."""
