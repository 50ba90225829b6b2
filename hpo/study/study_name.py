"""What a study may be called, and what the one is called that confirms it."""

from __future__ import annotations

import unicodedata

NAME_LENGTH = 512  # characters, which is what Optuna's table takes
CONFIRM_SUFFIX = "/confirm"  # of the name of the study that confirms another one


def name_problems(name: str, *, confirmed: bool) -> list[str]:
    """What is wrong with a study's name, a line each.

    Args:
        name: of the study.
        confirmed: whether the study file has the table [confirm], so that a second name must fit, too.
    """
    longest = NAME_LENGTH - len(CONFIRM_SUFFIX) * confirmed
    if len(name) > longest:
        beside = f"; beside [confirm], which adds {CONFIRM_SUFFIX}," if confirmed else ";"
        return [f"study.name: has {len(name)} characters{beside} the storage takes {longest}"]
    # Line breaks and other control characters, and bytes of a file's name that are no text.
    if any(unicodedata.category(letter) in ("Cc", "Cs", "Zl", "Zp") for letter in name):
        return [f"study.name: {name!r} holds line breaks or other control characters; write one line of text"]
    return []
