"""What the running trial prints, on its way to the database."""

from __future__ import annotations

import io
import logging
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


class TrialLog(io.TextIOBase):
    """A text stream for one trial, which gives out what was written to it line by line."""

    def __init__(self) -> None:
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

    def take_lines(self, *, all_of_it: bool = False) -> list[str]:
        """The lines that are complete, or all that is there; they are not given out again."""
        end = len(self._text) if all_of_it else self._text.rfind("\n") + 1
        lines, self._text = self._text[:end].splitlines(), self._text[end:]
        return lines
