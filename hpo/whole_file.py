"""Files that others see whole or not at all."""

from __future__ import annotations

import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new, empty file beside `path` to write into; it takes the place of `path` when the block has ended well.

    Its name cannot be foreseen and it is opened once, as a new file: where others may write into the folder, no link
    of theirs is written through. A link at `path` itself is replaced, not followed. The umask says who may read it.

    Raises:
        OSError: nothing can be written there.
    """
    temporary = path.parent / f".hpo-{uuid.uuid4().hex}.tmp"
    file = temporary.open("xb")
    try:
        with file:
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
