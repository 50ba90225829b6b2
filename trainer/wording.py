"""Numbers with their nouns, as people read them."""

from __future__ import annotations


def counted(count: int, one: str, many: str | None = None) -> str:
    """A number with its noun: `1 image`, `1,234 images`.

    Args:
        count: 0 and more.
        one: what follows 1.
        many: what follows any other number; None for `one` with an s.
    """
    return f"1 {one}" if count == 1 else f"{count:,} {many or f'{one}s'}"
