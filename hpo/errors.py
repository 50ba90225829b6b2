"""Failures that are foreseen: one line that names what failed and what to do next."""


class HpoError(Exception):
    """A foreseen failure of a command; its text is for the user and holds no password."""


class StudyFileError(HpoError):
    """A study file with mistakes; its text has a line for each, with its key."""
