"""Trials as runs of Weights & Biases, grouped by their study. WANDB_API_KEY, WANDB_MODE and the like are its own."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from hpo.tracking.tracked_trial import State, TrackedTrial

ATTEMPT_SECONDS = 20  # for which its client waits for the server


class WandbServer:
    """Weights & Biases, by its own client; not safe from several threads at once.

    Args:
        folder: that its client writes to before it sends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._runs: dict[TrackedTrial, Any] = {}  # those that were begun, and have not ended

    def begin(self, trial: TrackedTrial, parameters: Mapping[str, Any]) -> None:
        """Begin the run of a trial, or go on with it."""
        run = self._open(trial)
        run.config.update(dict(parameters), allow_val_change=True)

    def log(self, trial: TrackedTrial, epoch: int, values: Mapping[str, float]) -> None:
        """Keep what an epoch gave."""
        self._open(trial).log({"epoch": epoch, **values})

    def end(self, trial: TrackedTrial, state: State) -> None:
        """End the run, with its state in its summary."""
        run = self._open(trial)
        run.summary["state"] = state
        run.finish(exit_code=0 if state in ("complete", "pruned") else 1)
        del self._runs[trial]

    def add_bundle(self, trial: TrackedTrial, folder: Path, scores: Mapping[str, float]) -> None:
        """Keep a bundle as an artifact of the type model, and its scores in the summary."""
        import wandb

        run = self._open(trial)
        bundle = wandb.Artifact(f"{_as_name(trial.study)}-bundle", type="model")
        bundle.add_dir(str(folder))
        run.log_artifact(bundle)
        run.summary.update(dict(scores))
        run.finish()
        del self._runs[trial]

    def _open(self, trial: TrackedTrial) -> Any:
        """The run of a trial; one of the same id goes on."""
        if trial not in self._runs:
            import wandb

            self._folder.mkdir(parents=True, exist_ok=True)
            settings = wandb.Settings(
                silent=True,
                console="off",  # what a trial prints is in our own log
                init_timeout=ATTEMPT_SECONDS,
                x_graphql_timeout_seconds=ATTEMPT_SECONDS,
                x_graphql_retry_max=1,
                x_disable_stats=True,
                disable_git=True,
                disable_code=True,
            )
            try:
                run = wandb.init(
                    project=_as_name(trial.study),
                    group=trial.study[:128],
                    id=f"{_as_name(trial.owner)}-{trial.number}",
                    name=trial.name,
                    resume="allow",
                    dir=str(self._folder),
                    reinit="create_new",
                    settings=settings,
                )
            except Exception:
                wandb.teardown()  # its service would hold the id of the run for used
                raise
            run.define_metric("*", step_metric="epoch")
            self._runs[trial] = run
        return self._runs[trial]


def _as_name(text: str) -> str:
    """A text as W&B takes it for names."""
    return re.sub(r"[^\w.-]", "-", text, flags=re.ASCII)[:100]
