"""Files that others see whole or not at all."""

from __future__ import annotations

import os
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkstemp
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A new, empty file beside `path` to write into; it takes the place of `path` when the block has ended well.

    Its name cannot be foreseen and it is opened once, as a new file: where others may write into the folder, no link
    of theirs is written through. A link at `path` itself is replaced, not followed. The umask says who may read it.

    Raises:
        OSError: nothing can be written there.
    """
    descriptor, name = mkstemp(prefix=".hpo-", suffix=".tmp", dir=path.parent)
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as file:
            mask = os.umask(0)
            os.umask(mask)
            os.fchmod(descriptor, 0o666 & ~mask)  # mkstemp is for its owner alone
            yield file
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
