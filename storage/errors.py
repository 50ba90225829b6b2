"""Failures that are foreseen: one line that names what failed and what to do next."""


class StorageError(Exception):
    """The database or the artifact store cannot be used; the text is one line for the user and holds no password."""
