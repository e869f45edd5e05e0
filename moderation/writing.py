"""What people write is stored as they wrote it, in every script.

Joiners, directions, flags, no-break and ideographic spaces are part of what is said. Only what is no character is left
out: controls, halves of surrogate pairs and code points that are none.
"""

import unicodedata

#: Line breaks and tabs are controls that people write.
_WRITTEN_CONTROLS = "\n\t"
#: Blanks that a form or a slip adds around a text. Others belong to it.
_AROUND = " \t\n"


def as_written(said: str) -> str | None:
    """The text without what is no character, and without blanks around it. None when nothing of it can be seen."""
    text = "".join(c for c in said.replace("\r\n", "\n").replace("\r", "\n") if _is_written(c))
    return text.strip(_AROUND) if any(_is_seen(c) for c in text) else None


def _is_written(character: str) -> bool:
    if unicodedata.category(character) in ("Cc", "Cs"):
        return character in _WRITTEN_CONTROLS
    # The last two of every plane, and 32 in the first: never characters (Unicode 16, 23.7).
    point = ord(character)
    return point & 0xFFFE != 0xFFFE and not 0xFDD0 <= point <= 0xFDEF


def _is_seen(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) != "Cf"
