"""How a command ends: exit codes, and failures that are foreseen, with what to do next."""

from signal import SIGHUP, SIGINT, SIGTERM

EXIT_DONE, EXIT_FAILED, EXIT_USAGE = 0, 1, 2
ENDING_SIGNALS = (SIGHUP, SIGINT, SIGTERM)


def exit_code(signal_number: int) -> int:
    """That of a command which a signal has ended, as shells have it: 129 hung up, 130 interrupted, 143 terminated."""
    return 128 + signal_number


class HpoError(Exception):
    """A foreseen failure of a command; its text is for the user and holds no password."""


class StudyFileError(HpoError):
    """A study file with mistakes; its text has a line for each, with its key."""
