"""The pauses that let workers wait, told before they start."""

from __future__ import annotations

import shlex
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from hpo.study.open_study import OpenStudy
    from storage.halts import Halt


def pauses_here(opened: OpenStudy, halt: Halt | None) -> list[str]:
    """What lets workers that start on this host wait, a line each: a pause of the study (`halt`), or of the host."""
    lines, resume = [], f"hpo resume {opened.file.path.name}"
    if halt == "pause":
        lines.append(f"the study is paused, and the workers wait: `{resume}` lets it go on")
    if (host := socket.gethostname()) in opened.rows.paused_hosts():
        lines.append(f"this host is paused, and its workers wait: `{resume} --host {shlex.quote(host)}` lets it go on")
    return lines
