"""`hpo confirm`: the best recipes of a search again, on fresh folds, by the same workers; who wins, and by how much."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hpo.errors import EXIT_DONE, HpoError
from hpo.study.confirmation import plan_of
from hpo.study.confirmed import confirmed_by
from hpo.study.confirmed_table import confirmed_lines
from hpo.supervision.pauses import pauses_here
from hpo.supervision.supervisor import supervise
from hpo.units import duration
from trainer.wording import counted

if TYPE_CHECKING:
    from hpo.study.open_study import OpenStudy
    from hpo.supervision.progress import Progress
    from hpo.supervision.supervisor import WorkerPlan


def confirm(opened: OpenStudy, confirmation: OpenStudy, progress: Progress, plan: WorkerPlan) -> int:
    """Run workers until the best recipes are confirmed, or until a signal; returns the exit code.

    Args:
        opened: the study of the search.
        confirmation: what `hpo.study.confirmation.begin_confirmation` returned of it.
        progress: takes what there is to show.
        plan: the workers to run.

    Raises:
        HpoError: workers were given up before the end, or no recipe could be trained.
    """
    progress.say(announcement(opened, confirmation))
    for line in pauses_here(confirmation, confirmation.rows.end_halt("stop")):
        progress.say(line)
    done = supervise(confirmation, progress, plan)
    if done.snapshot is None:
        return done.code
    if done.snapshot.halt == "stop":
        progress.say("the study was stopped: trainings that ran are back in the queue; the same command resumes")
    confirmed = confirmed_by(opened, confirmation)
    if done.snapshot.finished and all(recipe.mean is None for recipe in confirmed.recipes):
        raise HpoError(
            f"confirm: no training is complete; `hpo logs --confirm {opened.file.path.name} 0` shows what the first has"
            " printed"
        )
    for line in confirmed_lines(confirmed):
        progress.say(line)
    return EXIT_DONE


def announcement(opened: OpenStudy, confirmation: OpenStudy) -> str:
    """How many trainings a confirmation takes at most, and about how long each."""
    plan, trials = plan_of(confirmation.study), opened.study.get_trials(deepcopy=False)
    took = [trial.duration.total_seconds() for number in plan.trials if (trial := trials[number]).duration]
    each = f", of about {duration(sum(took) / len(took))} each" if took else ""
    among = " among them" * (len(plan.trials) > 1)
    beside = "" if plan.default is None else f", the default one{among}"
    return (
        f"confirming {counted(len(plan.trials), 'recipe')}{beside}, on {counted(plan.repeats, 'fresh fold')}: at most"
        f" {counted(len(plan.runs), 'training')}{each}"
    )
