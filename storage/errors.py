"""Failures that are foreseen: one line that names what failed and what to do next."""


class StorageError(Exception):
    """The database or the artifact store cannot be used; the text is one line for the user and holds no password."""


class FileGoneError(StorageError):
    """The artifact store answers, and does not hold a file that was asked for."""
