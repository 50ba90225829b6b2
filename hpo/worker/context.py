"""What all runs of one worker share."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.study.open_study import OpenStudy
    from hpo.tracking.trackers import Trackers
    from hpo.worker.heartbeat import Heartbeat
    from hpo.worker.step_watch import StepWatch
    from hpo.worker.stopwatch import Stopwatch
    from storage.places import Lease
    from trainer.data import Data
    from trainer.resources import Resources


@dataclass(frozen=True, eq=False)
class WorkerContext:
    """What all runs of one worker share.

    Attributes:
        opened: the study in the storage.
        data: the images.
        lease: holds places in the budget for the worker.
        steps: watches the steps of the training that runs.
        heartbeat: of the worker; tells when a run is to be left.
        resources: the device, the processes that augment, and the pretrained weights.
        stopwatch: divides the time of this process among headings.
        trackers: are told of the trials.
    """

    opened: OpenStudy
    data: Data
    lease: Lease
    steps: StepWatch
    heartbeat: Heartbeat
    resources: Resources
    stopwatch: Stopwatch
    trackers: Trackers
