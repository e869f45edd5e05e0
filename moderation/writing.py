"""Texts of people are stored as they wrote them, in every script.

Joiners, directions, flags, no-break and ideographic spaces are part of a text. Only what is no character is left out:
controls, halves of surrogate pairs and code points that are no characters. Names have a stricter rule.
"""

import re
import unicodedata

#: A name is one line, because it goes into logs, headers and file names. Characters that turn the direction of those
#: after them would show it as another name: embeddings, overrides and isolates (Unicode TR 9, 2.1 to 2.5).
NAME = r"^[^\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]*$"
#: What people read whose text is no name.
NO_NAME = "a name is one line, without characters that turn the direction of text"

#: Line breaks and tabs are controls that people write.
_WRITTEN_CONTROLS = "\n\t"
#: Spaces that a form or a mistake adds around a text. Other spaces belong to it.
_AROUND = " \t\n"


def as_written(said: str) -> str | None:
    """The text without non-characters and without spaces around it. None when nothing visible is left."""
    text = "".join(c for c in said.replace("\r\n", "\n").replace("\r", "\n") if _is_written(c))
    return text.strip(_AROUND) if any(_is_seen(c) for c in text) else None


def is_name(said: str) -> bool:
    """Whether the text can be a name: one line with something to see, and nothing that shows it as another."""
    return re.fullmatch(NAME, said) is not None and any(_is_seen(c) for c in said)


def _is_written(character: str) -> bool:
    if unicodedata.category(character) in ("Cc", "Cs"):
        return character in _WRITTEN_CONTROLS
    # The last two of every plane, and 32 in the first, are never characters (Unicode 16, 23.7).
    point = ord(character)
    return point & 0xFFFE != 0xFFFE and not 0xFDD0 <= point <= 0xFDEF


def _is_seen(character: str) -> bool:
    return not character.isspace() and unicodedata.category(character) != "Cf"
