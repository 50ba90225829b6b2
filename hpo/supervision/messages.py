"""What somebody is told of a search: its end, and what goes wrong meanwhile, as the JSON that is sent."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from hpo.study.interruptions import TOLD_FROM_OUTSIDE
from storage.keys import END_STATES
from trainer.wording import counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hpo.study.status import Snapshot

HUNG = "hung:"  # how the reason of a run begins that hung
EVERYWHERE = "search:"  # how a reason begins that ends the workers of all machines
MOST_SHOWN = 20  # problems in one message; the others are counted


def problems_of(snapshot: Snapshot) -> dict[str, str]:
    """What has gone wrong in a search until now: lines for people, by what tells each from the others."""
    found = {}
    for worker in snapshot.workers:
        if worker.died:
            found[f"died {worker.id}"] = f"worker {worker.host}:{worker.pid} has died; its trial goes on in another one"
    for number, failed in snapshot.failed.items():
        if failed.interrupted and failed.reason.startswith(HUNG):
            found[f"hung {number}"] = f"trial {number} {failed.reason}; {failed.continuation}"
    for place in snapshot.places:
        if place.state == "failed" and place.reason and place.reason != TOLD_FROM_OUTSIDE:
            found[f"failed {place.number}"] = f"trial {place.trial} has failed for good: {place.reason}"
    return found


def end_of(snapshot: Snapshot, host: str, reason: str | None) -> tuple[str, dict[str, Any]] | None:
    """How a search has ended; None where it goes on elsewhere.

    Args:
        snapshot: after the last worker of a machine.
        host: the machine.
        reason: why its workers were given up; None where they were not.

    Returns:
        what tells this end from others, the same on all machines, and the message.
    """
    at = f"{snapshot.used.trials} trials, {snapshot.ended} ended"
    if snapshot.halt == "stop":
        return f"stopped, {snapshot.halts} halts", message_of(snapshot, "stopped", "the search was stopped")
    if reason and not snapshot.finished:
        where = "" if reason.startswith(EVERYWHERE) else f" on {host}"
        return f"given up{where}: {reason}, {at}", message_of(
            snapshot, "given_up", f"workers{where} were given up: {reason}"
        )
    if snapshot.counts["running"]:
        return None
    used_up = "the budget is used up" if not snapshot.used.within(snapshot.limits) else "no recipe is left to try"
    return f"finished, {at}", message_of(
        snapshot, "finished", f"the search is over: {snapshot.reason_to_end or used_up}"
    )


def problem_message(snapshot: Snapshot, lines: Sequence[str]) -> dict[str, Any]:
    """The message about what has gone wrong."""
    shown = [*lines[:MOST_SHOWN]]
    if more := len(lines) - len(shown):
        shown.append(f"and {counted(more, 'problem')} more")
    return {**message_of(snapshot, "problem", "\n".join(shown)), "problems": list(lines)}


def message_of(snapshot: Snapshot, event: str, reason: str) -> dict[str, Any]:
    """A message; its `text` is what chats show."""
    best = snapshot.best
    shown = f"best trial {best.number}, validation {best.metric.title} {best.text}" if best else "no trial is complete"
    counts = ", ".join(f"{count} {state}" for state, count in snapshot.counts.items() if count or state in END_STATES)
    return {
        "event": event,
        "study": snapshot.study,
        "reason": reason,
        "best": best and {"trial": best.number, **best.values},
        "trials": snapshot.counts,
        "used": asdict(snapshot.used),
        "text": f"{snapshot.study}: {reason}\n{counts}; {shown}",
    }
