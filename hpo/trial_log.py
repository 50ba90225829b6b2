"""What the running trial prints, on its way to the database."""

from __future__ import annotations

import io
import logging
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

from storage import logs

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Engine


class TrialLog(io.TextIOBase):
    """A text stream for one trial; what is written to it is kept with the trial at each `flush_lines`."""

    def __init__(self, engine: Engine, study_id: int, trial: int) -> None:
        self._engine, self._study_id, self._trial = engine, study_id, trial
        self._text = ""

    def write(self, text: str) -> int:
        """Take in text; part of a line waits for the rest of it."""
        self._text += text
        return len(text)

    @contextmanager
    def capturing(self) -> Iterator[None]:
        """Take in what is printed, and what the training has to say."""
        training, handler = logging.getLogger("trainer"), logging.StreamHandler(self)
        training.addHandler(handler)
        try:
            with redirect_stdout(self), redirect_stderr(self):
                yield
        finally:
            training.removeHandler(handler)

    def flush_lines(self, *, all_of_it: bool = False) -> None:
        """Bring the lines that are complete into the database, or what is there."""
        end = len(self._text) if all_of_it else self._text.rfind("\n") + 1
        lines, self._text = self._text[:end].splitlines(), self._text[end:]
        if lines:
            with self._engine.begin() as connection:
                logs.append(connection, self._study_id, self._trial, lines)
