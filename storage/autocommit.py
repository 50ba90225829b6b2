"""Statements that are transactions by themselves."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy.engine import Connection, Engine


@contextmanager
def autocommit(engine: Engine) -> Iterator[Connection]:
    """A connection on which each statement is a transaction: BEGIN and COMMIT need no messages of their own.

    It uses the driver's own switch, since SQLAlchemy's sends a SET each time.
    """
    with engine.connect() as connection:
        driver: Any = connection.connection.driver_connection
        try:
            driver.autocommit = True
            yield connection
        finally:
            if not driver.closed:
                driver.autocommit = False
