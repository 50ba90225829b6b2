"""What happens to the queue of a study, as `hpo try` says it."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from hpo.study.status import Snapshot


def queue_lines(snapshot: Snapshot, study_path: Path) -> list[str]:
    """What happens to the queue of a study, or what has to be done first, a line each.

    Args:
        snapshot: of the study.
        study_path: of its study file.
    """

    def command(name: str, *more: str) -> str:
        return f"`{shlex.join(['hpo', name, str(study_path), *more])}`"

    lines = []
    if not snapshot.used.within(snapshot.limits):
        lines.append(f"the budget is used up: raise [budget], and {command('search')} tries what is queued")
    if snapshot.reason_to_end:
        more = f"{snapshot.reason_to_end}: raise it, and {command('search')} tries what is queued"
        lines.append(f"no further trial begins: {more}")
    if snapshot.halt == "stop":
        lines.append(f"the study is stopped: {command('search')} lets it go on, and tries what is queued")
    if lines:
        return lines
    hosts = {worker.host for worker in snapshot.present}
    if snapshot.halt == "pause":
        lines.append(f"the study is paused: {command('resume')} lets its workers take what is queued")
    if not hosts:
        lines.append(f"no worker is at work: {command('search')} tries what is queued")
    elif hosts <= set(snapshot.paused_hosts):
        ways = " or ".join(command("resume", "--host", host) for host in sorted(hosts))
        lines.append(f"the hosts of all workers are paused: {ways} lets them take what is queued")
    return lines or ["workers that are free take the queued recipes next; each counts in the budget as any trial"]
