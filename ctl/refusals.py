"""Refusals that come as one text, `cause (remedy)`, as log results and nodes write them: parted again."""

from __future__ import annotations

from typing import Final

from cloudless.errors import CloudlessError

_REMEDY_WORDS_MIN: Final = 4  # `(or *)` and `(exit code 1)` belong to the cause


def parts(text: str) -> tuple[str, str]:
    """Cause and remedy; the remedy is empty where the text ends with none."""
    if not text.endswith(")"):
        return text, ""
    depth = 0
    for at in range(len(text) - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(text[at], 0)
        if depth == 0:
            remedy = text[at + 1 : -1]
            if text[at - 1] != " " or len(remedy.split()) < _REMEDY_WORDS_MIN:
                break
            return text[: at - 1].rstrip(), remedy
    return text, ""


def parted(error: CloudlessError) -> CloudlessError:
    """The same error with its remedy apart from its cause."""
    if not error.remedy:
        error.message, error.remedy = parts(error.message)
    return error
