"""How a command ends: exit codes, and failures that are foreseen, with what to do next."""

EXIT_DONE, EXIT_FAILED, EXIT_USAGE, EXIT_INTERRUPTED, EXIT_TERMINATED = 0, 1, 2, 130, 143


class HpoError(Exception):
    """A foreseen failure of a command; its text is for the user and holds no password."""


class StudyFileError(HpoError):
    """A study file with mistakes; its text has a line for each, with its key."""
